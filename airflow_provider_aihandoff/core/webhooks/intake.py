"""Passes deliveries to the ledger from an event loop, in a few threads: those that wait together, in one transaction.

A delivery that finds no transaction under way begins one. Those that come meanwhile wait for its end, and are recorded
together in the next one. So no delivery waits for others to come, and the more come, the more one commit takes. Another
transaction begins beside the first where :data:`BATCH` deliveries wait, or where it takes longer than :data:`PATIENCE`.

What a batch leaves is recorded alone, and so is every delivery of one that the database refuses: one that cannot be
recorded fails no other. Each is answered after the commit that has it. Deliveries about one response are recorded one
after the other, in the order in which they came. Nothing is tried while the ledger is unavailable.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import psycopg
from anyio.to_thread import run_sync

from airflow_provider_aihandoff.core.errors import HandoffError, LedgerSchemaError, LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery, Receipt

#: Threads that record batches, and threads that record deliveries alone: one that waits for a job which is locked
#: keeps no batch waiting.
BATCHES, ALONE = 2, 2

#: Connections that they open to the ledger.
AT_ONCE = BATCHES + ALONE

#: Deliveries in one transaction at most.
BATCH = 100

#: Seconds that a batch may take before another one begins beside it, however few wait.
PATIENCE = 0.05

#: Deliveries that are being recorded, or wait for it; more are refused.
MAX_INSIDE = 1000

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


class _Refused(NotNow):
    """The ledger works, and does not take what it was given."""


@dataclass(eq=False)
class _Place:
    """A delivery that waits."""

    delivery: Delivery
    receipt: asyncio.Future[Receipt] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def about(self) -> str:
        """What it shares with those that are recorded one after the other."""
        return self.delivery.response_id or self.delivery.webhook_id


class Intake:
    """The entrance to one ledger, for one event loop.

    :param open_ledger: opens the ledger, in a thread; called again until it has succeeded once.
    """

    def __init__(self, open_ledger: Callable[[], Ledger], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._open_ledger = open_ledger
        self._clock = clock
        self._batch_threads, self._alone_threads = anyio.CapacityLimiter(BATCHES), anyio.CapacityLimiter(ALONE)
        self._opened: Ledger | None = None
        self._opening = threading.Lock()
        self._inside = 0
        self._waiting: deque[_Place] = deque()
        self._recording: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun: list[float] = []
        """When the batches that are under way have begun, by the event loop's clock; the newest last."""
        self._failed = False
        self._closed_until = 0.0
        self._trying = False
        self._answered_at: float | None = None

    async def receive(self, delivery: Delivery) -> Receipt:
        """Record a delivery.

        :raises NotNow: it was not recorded, or that is not known.
        """
        if self._inside >= MAX_INSIDE:
            raise NotNow("too many deliveries wait for the ledger.")
        self._inside += 1
        try:
            if self._failed:
                return await self._run(lambda ledger: ledger.inbox.receive(delivery))
            place = _Place(delivery)
            self._waiting.append(place)
            self._begin_batches()
            return await place.receipt
        finally:
            self._inside -= 1

    async def check(self) -> None:
        """Return when the ledger answers, or has just done so.

        :raises NotNow: it does not.
        """
        if self._failed or self._answered_at is None or self._clock() - self._answered_at > PAUSE:
            await self._run(lambda ledger: ledger.check_schema())

    def ledger(self) -> Ledger:
        """The ledger; opened first where it is not. For a thread."""
        return self._opened or self._open()

    # Batches.

    def _begin_batches(self) -> None:
        """Begin to record what waits, as far as it need not wait longer."""
        while self._may_begin() and (batch := self._take()):
            begun = asyncio.get_running_loop().time()
            self._begun.append(begun)
            self._start(self._record(batch, begun))

    def _may_begin(self) -> bool:
        if not self._begun:
            return True
        late = asyncio.get_running_loop().time() - self._begun[-1] >= PATIENCE
        return len(self._begun) < BATCHES and (late or len(self._waiting) >= BATCH)

    def _take(self) -> list[_Place]:
        """The next deliveries to record together: those about responses of which none is being recorded."""
        batch: list[_Place] = []
        later: list[_Place] = []
        while self._waiting and len(batch) < BATCH:
            place = self._waiting.popleft()
            if place.receipt.cancelled():  # no one waits for it any more
                continue
            if place.about in self._recording:
                later.append(place)
            else:
                self._recording.add(place.about)
                batch.append(place)
        self._waiting.extendleft(reversed(later))
        return batch

    async def _record(self, batch: list[_Place], begun: float) -> None:
        """Record some deliveries together, and begin to record alone what is left of them."""
        wake = asyncio.get_running_loop().call_later(PATIENCE, self._begin_batches)
        try:
            outcomes = await self._record_together([place.delivery for place in batch])
        finally:
            wake.cancel()
            self._begun.remove(begun)
        for place, outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                self._start(self._record_alone(place))
            else:
                self._settle(place, outcome)
        self._begin_batches()

    async def _record_together(self, deliveries: list[Delivery]) -> Sequence[Receipt | NotNow | None]:
        """What became of each; None for one that is to be recorded alone."""
        try:
            return await self._run(lambda ledger: ledger.inbox_batches.receive(deliveries), self._batch_threads)
        except Exception as error:  # noqa: BLE001 - if it is about one of them, that one raises it again, alone
            outcome = error if isinstance(error, NotNow) and not isinstance(error, _Refused) else None
            return [outcome] * len(deliveries)

    async def _record_alone(self, place: _Place) -> None:
        try:
            self._settle(place, await self._run(lambda ledger: ledger.inbox.receive(place.delivery)))
        except Exception as error:  # noqa: BLE001 - its sender waits for it
            self._settle(place, error)
        self._begin_batches()

    def _settle(self, place: _Place, outcome: Receipt | Exception) -> None:
        self._recording.discard(place.about)
        if place.receipt.done():  # its sender is gone
            return
        if isinstance(outcome, Exception):
            place.receipt.set_exception(outcome)
        else:
            place.receipt.set_result(outcome)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The ledger.

    async def _run(self, work: Callable[[Ledger], T], threads: anyio.CapacityLimiter | None = None) -> T:
        trial = self._admit()
        try:
            result = await run_sync(self._work, work, trial, limiter=threads or self._alone_threads)
        except psycopg.OperationalError as error:
            self._close()
            raise NotNow(f"the connection to the ledger's database broke: {type(error).__name__}.") from None
        except psycopg.Error as error:
            self._failed = False  # it answers
            raise _Refused(f"the ledger's database refused: {type(error).__name__}.") from None
        except HandoffError as error:
            alone = threads is None
            if not isinstance(error, (LedgerUnavailable, LedgerSchemaError)) or (alone and _waited_for_a_lock(error)):
                self._failed = False
                raise _Refused(str(error)) from None
            self._close()
            raise NotNow(str(error)) from None
        finally:
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


def _waited_for_a_lock(error: HandoffError) -> bool:
    """Whether one row was locked for too long: of a delivery alone, that of its job. A batch waits for no job."""
    return isinstance(error.__cause__, psycopg.errors.LockNotAvailable)
