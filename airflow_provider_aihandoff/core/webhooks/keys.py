"""Keeps the verifier of each connection, and reads its secrets again once a minute."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import anyio
from anyio.to_thread import run_sync

from airflow_provider_aihandoff.core.webhooks.signature import SecretRefused, Verifier

log = logging.getLogger(__name__)

#: Seconds for which what was read is used: a secret that is rotated is known within them.
FRESH = 60.0

#: Seconds after which a read that found nothing is tried again.
RETRY = 10.0

#: Seconds for which secrets are used on while they cannot be read.
STALE = 3600.0

#: Seconds for which a webhook waits for its secrets.
PATIENCE = 5.0

#: Threads that read secrets.
_AT_ONCE = 2

#: Returns the secrets of a connection; none where it has none. Raises :class:`NoConnection`. Runs in a thread.
ReadSecrets = Callable[[str], Sequence[object]]


class NoConnection(Exception):
    """There is no such connection, or the secrets backend is unavailable: Airflow does not distinguish the two."""


class KeyProblem(StrEnum):
    """Why a connection has no verifier."""

    NO_CONNECTION = "no connection"
    NO_SECRETS = "no secrets"
    REFUSED = "a secret that cannot be used"
    UNREADABLE = "secrets that cannot be read"


class NoVerifier(Exception):
    """Webhooks of this connection cannot be verified.

    :param why: more about it, for the log. Never a secret.
    """

    def __init__(self, problem: KeyProblem, why: str = "") -> None:
        self.problem, self.why = problem, why
        super().__init__(problem, why)


@dataclass(frozen=True)
class _Unusable:
    problem: KeyProblem
    why: str = ""


@dataclass
class _Kept:
    """What is known of a connection.

    :param again_at: when to read again.
    :param stale_at: until when to use it where that fails.
    :param failing: that has failed already.
    """

    found: Verifier | _Unusable
    again_at: float
    stale_at: float
    failing: bool = False


class Keyring:
    """The verifiers of some connections, for one event loop. However many ask, one read of a connection is under way.

    :param read: reads the secrets of a connection.
    """

    def __init__(self, read: ReadSecrets, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def verifier(self, conn_id: str) -> Verifier:
        """Return the verifier of a connection.

        :raises NoVerifier: it has none, or none is known now.
        """
        kept = self._kept.get(conn_id)
        if kept is None or self._clock() >= kept.again_at:
            await asyncio.wait([self._start_reading(conn_id)], timeout=PATIENCE)
            kept = self._kept.get(conn_id)
        if kept is None or self._clock() >= kept.stale_at:
            raise NoVerifier(KeyProblem.UNREADABLE, "they take too long to read")
        if isinstance(kept.found, _Unusable):
            raise NoVerifier(kept.found.problem, kept.found.why)
        return kept.found

    def _start_reading(self, conn_id: str) -> asyncio.Task[None]:
        if conn_id not in self._reading:
            task = asyncio.get_running_loop().create_task(self._refresh(conn_id))
            self._reading[conn_id] = task
            task.add_done_callback(lambda _: self._reading.pop(conn_id, None))
        return self._reading[conn_id]

    async def _refresh(self, conn_id: str) -> None:
        found = await run_sync(self._verifier_of, conn_id, limiter=self._limiter)
        now, before = self._clock(), self._kept.get(conn_id)
        failed = isinstance(found, _Unusable) and found.problem in (KeyProblem.NO_CONNECTION, KeyProblem.UNREADABLE)
        if failed and before is not None and isinstance(before.found, Verifier) and now < before.stale_at:
            if not before.failing:
                log.warning("The webhook secrets of %s cannot be read: using those known from before.", conn_id)
            before.again_at, before.failing = now + RETRY, True
            return
        self._kept[conn_id] = _Kept(found, again_at=now + (RETRY if failed else FRESH), stale_at=now + STALE)

    def _verifier_of(self, conn_id: str) -> Verifier | _Unusable:
        """In a thread: read the secrets, and say what came of it."""
        try:
            secrets = self._read(conn_id)
            return Verifier(secrets) if secrets else _Unusable(KeyProblem.NO_SECRETS)
        except NoConnection:
            return _Unusable(KeyProblem.NO_CONNECTION)
        except SecretRefused as refused:
            return _Unusable(KeyProblem.REFUSED, str(refused))
        except Exception as error:  # noqa: BLE001  any error of a secrets backend; it may contain what was read
            return _Unusable(KeyProblem.UNREADABLE, type(error).__name__)
