"""Keeps what an external call has brought while the ledger cannot record it: ids and states, never content."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.errors import HandoffError

log = logging.getLogger(__name__)

Facts = Mapping[str, str | int | None]


class Memory(Protocol):
    """A place beside the ledger that outlives the attempt of a task, and is read by the next one."""

    def keep(self, name: str, facts: Facts) -> None:
        """Keep facts under a name, in place of those that it had."""

    def read(self, name: str) -> Facts | None:
        """The facts under a name, or None."""

    def forget(self, name: str) -> None:
        """Remove the facts under a name, if there are any."""


class Unrecorded:
    """What one external call has brought, until the ledger has recorded it.

    :param memory: where it is kept meanwhile; None where there is no such place: then the log alone has it.
    :param name: what the next attempt reads it by.
    :param facts: ids and states.
    :param said: the same in a sentence, for the log and for the error.
    """

    def __init__(self, memory: Memory | None, name: str, facts: Facts, said: str) -> None:
        self._memory, self._name, self._facts, self._said = memory, name, facts, said
        self._kept = False

    def keep(self) -> None:
        """Write it to the log and to the memory. Never fails."""
        log.error("%s The ledger cannot record it now.", self._said)
        if self._memory is None:
            return
        try:
            self._memory.keep(self._name, self._facts)
            self._kept = True
        except Exception as error:
            log.error("Airflow cannot keep it either.", exc_info=shown(error))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Around the step that records it: an error says what is known, and what was recorded is kept no longer."""
        try:
            yield
        except HandoffError as error:
            log.error("%s It was not recorded: %s", self._said, error.what)
            error.restate(written=self._said, remedy=f"{error.remedy} {self._next}".strip())
            raise
        if self._kept and self._memory is not None:
            try:
                self._memory.forget(self._name)
            except Exception as error:  # noqa: BLE001 - a later attempt finds that it is recorded
                log.warning("What was kept as %s cannot be removed: %s.", self._name, type(error).__name__)

    @property
    def _next(self) -> str:
        return "Airflow keeps it: the next attempt of this task records it first." if self._kept else ""
