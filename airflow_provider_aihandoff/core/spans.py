"""The traces: the seam through which spans leave the core. Imports nothing of OpenTelemetry.

Spans of one job stand in the traces of several task instances, days apart. Each has a link to the same span context,
which is made of the ledger and the job alone, so that a search by it finds them all. A tracer that fails keeps no job
from going on. No span has content, unless it was
switched on: :mod:`core.generation.trace_content`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

#: What an attribute may be.
Value = str | int | float | bool | list[str]


@dataclass(frozen=True)
class JobContext:
    """What links the spans of one job.

    :param trace_id: 128 bits.
    :param span_id: 64 bits.
    """

    trace_id: int
    span_id: int


class Span(Protocol):
    """A span that has begun."""

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes."""

    def fail(self, error: BaseException) -> None:
        """Mark it as failed, by the type of an error: its text may quote content."""


class Tracer(Protocol):
    """Where spans go."""

    def span(
        self, name: str, job: JobContext, attributes: Mapping[str, Value], *, client: bool
    ) -> AbstractContextManager[Span]:
        """Begin a span, as a child of the current one.

        :param client: it is a call of another system.
        """

    def ended(
        self,
        name: str,
        job: JobContext,
        attributes: Mapping[str, Value],
        *,
        client: bool,
        began: datetime,
        at: datetime,
    ) -> None:
        """Add a span that has ended."""


class _NoSpan:
    def set(self, attributes: Mapping[str, Value]) -> None:
        """Do nothing."""

    def fail(self, error: BaseException) -> None:
        """Do nothing."""


_NO_SPAN = _NoSpan()

_tracer: Tracer | None = None


def use(tracer: Tracer | None) -> None:
    """Send the spans of this process there from now on; None: nowhere."""
    global _tracer
    _tracer = tracer


def is_used() -> bool:
    """Whether the spans of this process go anywhere."""
    return _tracer is not None


def job_context(ledger_id: str, job_id: int) -> JobContext:
    """What links the spans of a job, in every process."""
    seed = hashlib.sha256(f"aihandoff:{ledger_id}:{job_id}".encode()).digest()
    return JobContext(int.from_bytes(seed[:16], "big"), int.from_bytes(seed[16:24], "big"))


class Known(Protocol):
    """What has an identity: a ledger."""

    def ledger_id(self) -> str:
        """A UUID."""


@contextmanager
def span(
    name: str, ledger: Known, job_id: int, attributes: Mapping[str, Value | None], *, client: bool = False
) -> Iterator[Span]:
    """Around a part of a protocol.

    :param attributes: by their names; one that is None is left out.
    :param client: it is a call of another system.
    """
    tracer = _tracer
    if tracer is None:
        yield _NO_SPAN
        return
    with ExitStack() as opened:
        begun: Span = _NO_SPAN
        with suppress(Exception):
            context = job_context(ledger.ledger_id(), job_id)
            entered = tracer.span(name, context, _named(job_id, attributes), client=client)
            begun = opened.enter_context(entered)
        try:
            yield _Safe(begun)
        except BaseException as error:
            _Safe(begun).fail(error)
            raise


def ended(
    name: str,
    ledger: Known,
    job_id: int,
    attributes: Mapping[str, Value | None],
    *,
    began: datetime | None,
    at: datetime | None,
    client: bool = False,
) -> None:
    """Add a span of something that has ended, and was begun by another process. None where one of the times is missing.

    :param attributes: as in :func:`span`, and so is ``client``.
    """
    if _tracer is None or began is None or at is None:
        return
    with suppress(Exception):
        context = job_context(ledger.ledger_id(), job_id)
        _tracer.ended(name, context, _named(job_id, attributes), client=client, began=began, at=max(began, at))


class _Safe:
    def __init__(self, inner: Span) -> None:
        self._inner = inner

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes."""
        with suppress(Exception):
            self._inner.set(attributes)

    def fail(self, error: BaseException) -> None:
        """Mark it as failed."""
        with suppress(Exception):
            self._inner.fail(error)


def _named(job_id: int, attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    known = {name: value for name, value in attributes.items() if value is not None}
    return {"aihandoff.job.id": job_id, **known}
