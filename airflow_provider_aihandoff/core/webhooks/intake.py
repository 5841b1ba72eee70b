"""Passes deliveries to the ledger from an event loop, in a few threads; not while the ledger is unavailable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import anyio
import psycopg
from anyio.to_thread import run_sync

from airflow_provider_aihandoff.core.errors import HandoffError, LedgerSchemaError, LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery, Receipt

#: Threads that write to the ledger, and connections that they open to it.
AT_ONCE = 4

#: Deliveries that wait for one of the threads; more are refused.
MAX_WAITING = 32

#: Seconds for which nothing is tried after the ledger failed. Then one delivery tries, and the others wait for it.
PAUSE = 1.0

T = TypeVar("T")


class NotNow(Exception):
    """The delivery was not recorded. The sender has to deliver it again.

    :param why: for the log, without anything of the delivery.
    """

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class Intake:
    """The entrance to one ledger, for one event loop.

    :param open_ledger: opens the ledger, in a thread; called again until it has succeeded once.
    """

    def __init__(self, open_ledger: Callable[[], Ledger], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._open_ledger = open_ledger
        self._clock = clock
        self._limiter = anyio.CapacityLimiter(AT_ONCE)
        self._opened: Ledger | None = None
        self._opening = threading.Lock()
        self._inside = 0
        self._failed = False
        self._closed_until = 0.0
        self._trying = False
        self._answered_at: float | None = None

    async def receive(self, delivery: Delivery) -> Receipt:
        """Record a delivery.

        :raises NotNow: it was not recorded, or that is not known.
        """
        return await self._run(lambda ledger: ledger.inbox.receive(delivery))

    async def check(self) -> None:
        """Return when the ledger answers, or has just done so.

        :raises NotNow: it does not.
        """
        if self._failed or self._answered_at is None or self._clock() - self._answered_at > PAUSE:
            await self._run(lambda ledger: ledger.check_schema())

    async def _run(self, work: Callable[[Ledger], T]) -> T:
        if self._inside >= AT_ONCE + MAX_WAITING:
            raise NotNow("too many deliveries wait for the ledger.")
        trial = self._admit()
        self._inside += 1
        try:
            result = await run_sync(self._work, work, trial, limiter=self._limiter)
        except psycopg.OperationalError as error:
            self._close()
            raise NotNow(f"the connection to the ledger's database broke: {type(error).__name__}.") from None
        except psycopg.Error as error:
            raise NotNow(f"the ledger's database refused: {type(error).__name__}.") from None
        except HandoffError as error:
            if isinstance(error, (LedgerUnavailable, LedgerSchemaError)):
                self._close()
            raise NotNow(str(error)) from None
        finally:
            self._inside -= 1
            if trial:
                self._trying = False
        self._failed, self._answered_at = False, self._clock()
        return result

    def _admit(self) -> bool:
        """Whether this is the one that finds out if a ledger that failed is back."""
        if not self._failed:
            return False
        self._refuse_while_closed()
        self._trying = True
        return True

    def _work(self, work: Callable[[Ledger], T], trial: bool) -> T:
        """In a thread, which may have become free only after the ledger had failed."""
        if self._failed and not trial:
            raise NotNow("the ledger is unavailable.")
        return work(self.ledger())

    def ledger(self) -> Ledger:
        """The ledger; opened first where it is not. For a thread."""
        return self._opened or self._open()

    def _open(self) -> Ledger:
        opened = self._open_ledger()
        # Not around the opening: while the server is unavailable, no thread queues behind another one's wait for it.
        with self._opening:
            kept = self._opened = self._opened or opened
        if kept is not opened:
            opened.close()
        return kept

    def _refuse_while_closed(self) -> None:
        if self._trying or self._clock() < self._closed_until:
            raise NotNow("the ledger is unavailable.")

    def _close(self) -> None:
        self._failed, self._closed_until = True, self._clock() + PAUSE
