"""The one place in a triggerer where all waiting on a ledger is done, however many tasks wait.

One connection listens to the ledger. A notification wakes the triggers that wait for that job; a sweep of all waits
is the truth, so that a notification that gets lost costs seconds. The poller asks OpenAI as well: see `polling`.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.backoff import backoff, jittered
from airflow_provider_aihandoff.core.database.connection import WAKE_CHANNEL
from airflow_provider_aihandoff.core.database.listening import listen
from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.hooks.ledger import conninfo_async
from airflow_provider_aihandoff.hooks.observability import observe
from airflow_provider_aihandoff.triggers import wake_queries
from airflow_provider_aihandoff.triggers.polling import Poller
from airflow_provider_aihandoff.triggers.waits import (
    BatchWait,
    EffectWait,
    PolledWait,
    ResponseWait,
    ReviewWait,
    SetDecisionWait,
    SetResponses,
    SetReviewWait,
    SubmissionWait,
    Wait,
)

log = logging.getLogger(__name__)

#: Of a wait that is about no job.
_NO_JOB = 0

#: Seconds for which waits that are new are gathered, before the ledger is asked about them together.
_GATHER = 0.5

#: How many waits one statement asks about: it takes milliseconds, and holds up nothing else in the loop.
_BATCH = 1000

#: How many sets one statement asks about: some milliseconds for each, here and in PostgreSQL, if 1,000 run of each.
_SETS = 10

#: Seconds after which a query of the ledger that brings no answer counts as failed, and so does an attempt to connect.
_QUERY_TIMEOUT = 30.0

#: Seconds that what is being closed may take: psycopg cancels a statement that is under way, and waits for that.
_CLOSE_TIMEOUT = 30.0

#: Between two tries to reach the ledger, in seconds. Well below the interval of the sweep, which no wait exceeds.
_RECONNECT_BASE, _RECONNECT_CAP = 0.25, 5.0

#: What asks the ledger which waits of a kind are over, given the key of each.
_OVER: Mapping[type[Wait], Callable[[wake_queries.AsyncConnection, Sequence[Any]], Awaitable[set[Any]]]] = {
    SubmissionWait: wake_queries.settled_submissions,
    ReviewWait: wake_queries.answered_reviews,
    EffectWait: wake_queries.changed_effects,
    SetReviewWait: wake_queries.changed_sets,
    SetDecisionWait: wake_queries.decided_sets,
    BatchWait: wake_queries.ended_batches,
}

_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Hub]] = WeakKeyDictionary()


def hub_for(ledger_conn_id: str) -> Hub:
    """The hub of this process and ledger."""
    hubs = _hubs.setdefault(asyncio.get_running_loop(), {})
    if ledger_conn_id not in hubs:
        hubs[ledger_conn_id] = Hub(ledger_conn_id)
    return hubs[ledger_conn_id]


class Hub:
    """Waits for all triggers of one process on one ledger. It works while there is a wait, and closes after the last.

    It outlives whatever happens to the ledger and to OpenAI: it connects again with growing pauses, and catches up
    from the ledger. While the ledger is unavailable no wait ends, since the task that goes on would need it.
    """

    def __init__(self, ledger_conn_id: str) -> None:
        observe(in_task=False)
        self.ledger_conn_id = ledger_conn_id
        self._waits: dict[int, set[Wait]] = {}
        self._sets: list[SetResponses] = []
        self._alone: set[Wait] = set()
        self._new: set[Wait] = set()
        self._poller = Poller()
        self._work: asyncio.Task[None] | None = None
        self._at_work = asyncio.Lock()
        self._failures = 0
        self._read_clock: tuple[datetime, float] | None = None
        self._next_deadline: datetime | None = None
        self._listening_said = False

    async def wait_for(self, wait: Wait, deadline: str | None) -> str | None:
        """Wait, and return what the wait ended with; None where the deadline came first.

        :param deadline: absolute, by the ledger's clock, ISO 8601; None for no deadline.
        """
        wait.deadline = None if deadline is None else datetime.fromisoformat(deadline)
        self._add(wait)
        try:
            return await wait.result()
        finally:
            self._remove(wait)

    async def wait_for_some(
        self, waits: Sequence[Wait], *, enough: int, until: datetime, anyway: bool, of_set: int | None = None
    ) -> list[tuple[Wait, str | None]]:
        """Wait until so many of these have ended, or one of them that is urgent; return those that have, each with what
        it ended with.

        :param waits: each with its deadline.
        :param enough: how many of them; after ``until``, one is enough.
        :param anyway: return at that time even if none has.
        :param of_set: the set all of whose responses these wait for that run, and of which no change was asked for.
        """
        ended: list[tuple[Wait, str | None]] = []
        over, late = asyncio.Event(), False
        sets = [] if of_set is None else [SetResponses(of_set, (w for w in waits if isinstance(w, ResponseWait)))]

        def count(wait: Wait, result: asyncio.Future[str | None]) -> None:
            nonlocal late
            for each in sets:
                each.ended(wait.job_id)
            if wait is alarm:
                late = True
            else:
                ended.append((wait, result.result()))
            if (late and (anyway or ended)) or len(ended) >= enough > 0 or (wait is not alarm and wait.is_urgent):
                over.set()

        alarm = Wait(_NO_JOB)
        alarm.deadline = until
        everything = [*waits, alarm]
        for wait in everything:
            wait.result().add_done_callback(partial(count, wait))
            self._add(wait)
        for each in sets:
            self._sets.append(each)
            self._alone.difference_update(each.waits)
        try:
            await over.wait()
            return [*ended]
        finally:
            for each in sets:
                self._sets.remove(each)
            for wait in everything:
                self._remove(wait)
                wait.end(None)  # a poll of it that is under way schedules no other

    async def sleep_until(self, moment: str) -> None:
        """Return when it is that time by the ledger's clock, after a wait has ended.

        :param moment: absolute, ISO 8601.
        """
        await asyncio.sleep((datetime.fromisoformat(moment) - self._now()).total_seconds())

    def _add(self, wait: Wait) -> None:
        self._waits.setdefault(wait.job_id, set()).add(wait)
        self._alone.add(wait)
        self._new.add(wait)
        self._next_deadline = _earliest(self._next_deadline, wait.deadline)
        if isinstance(wait, PolledWait) and wait.polled is not None:
            self._poller.add(wait)
        if self._work is None:
            # In a context of its own: that of the first trigger would put its name on every line of the log.
            self._work = asyncio.get_running_loop().create_task(self._run(), context=contextvars.Context())

    def _remove(self, wait: Wait) -> None:
        self._new.discard(wait)
        self._alone.discard(wait)
        of_job = self._waits[wait.job_id]
        of_job.discard(wait)
        if not of_job:
            del self._waits[wait.job_id]
        if isinstance(wait, PolledWait) and wait.polled is not None:
            self._poller.remove(wait)
        if not self._waits and self._work is not None:
            self._work.cancel()
            self._work = None

    async def _run(self) -> None:
        async with self._at_work:  # what was begun before, and closes now, has closed its connection
            while True:
                tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._poller.run())]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT)
                # Neither ends by itself, not even cancelled by something else than this.
                errors = (task.exception() for task in tasks if task.done() and not task.cancelled())
                seen = next((shown(error) for error in errors if isinstance(error, Exception)), None)
                log.error("Waiting on %s failed, and starts again.", self.ledger_conn_id, exc_info=seen)
                await asyncio.sleep(_RECONNECT_CAP)

    async def _follow(self) -> None:
        """Follow the ledger for ever, over as many connections as that takes."""
        while True:
            try:
                async with asyncio.timeout(_QUERY_TIMEOUT):
                    conninfo = await conninfo_async(self.ledger_conn_id)
                    connection = await wake_queries.connect(conninfo)
                try:
                    await self._listen(connection, conninfo)
                    await self._follow_on(connection)
                finally:
                    self._poller.pause()
                    await connection.close()
            except Exception as error:  # noqa: BLE001 - the wait outlives whatever is broken for a while
                self._failures += 1
                pause = backoff(self._failures, base=_RECONNECT_BASE, cap=_RECONNECT_CAP)
                # Not the message, which can name hosts and roles.
                log.warning(
                    "The ledger %s cannot be followed: %s. Waits go on; next try in %.1f s.",
                    self.ledger_conn_id,
                    type(error).__name__,
                    pause,
                )
                await asyncio.sleep(pause)

    async def _listen(self, connection: wake_queries.AsyncConnection, conninfo: Mapping[str, Any]) -> None:
        """Listen, and say once where a pooler passes on no notification. The sweep sees each change all the same."""
        async with asyncio.timeout(_QUERY_TIMEOUT):
            hears = await listen(connection, conninfo, WAKE_CHANNEL)
        if not hears and not self._listening_said:
            self._listening_said = True
            log.warning(
                "The ledger's connection %s leads through a pooler that passes on no notifications (PgBouncer in "
                "transaction mode). Waiting tasks go on at the next sweep, [aihandoff] sweep_interval = %g s. Nothing "
                "is lost. To have them go on at once, lead this connection to the server itself.",
                self.ledger_conn_id,
                settings.number("sweep_interval"),
            )

    async def _follow_on(self, connection: wake_queries.AsyncConnection) -> None:
        loop = asyncio.get_running_loop()
        sweep_at = loop.time()  # at once, for what was notified while no connection listened
        while True:
            if loop.time() >= sweep_at:
                await self._sweep(connection)
                sweep_at = loop.time() + jittered(settings.number("sweep_interval"))
            elif self._new:
                await self._check(connection, [*self._new])
            self._end_overdue()
            woken = await wake_queries.woken_jobs(connection, within=_GATHER)
            await self._check(connection, [wait for job_id in woken for wait in self._waits.get(job_id, ())])

    def _now(self) -> datetime:
        """The ledger's clock: as it was read last, and for as long since as the event loop's clock says."""
        assert self._read_clock is not None
        read, at = self._read_clock
        return read + timedelta(seconds=asyncio.get_running_loop().time() - at)

    def _end_overdue(self) -> None:
        """End the waits whose deadline has passed; by the ledger's clock, whatever this machine's says."""
        now = self._now()
        if self._next_deadline is None or now < self._next_deadline:
            return
        self._next_deadline = None
        for wait in [wait for of_job in self._waits.values() for wait in of_job]:
            if wait.deadline is not None and wait.deadline <= now:
                wait.end(None)
            else:
                self._next_deadline = _earliest(self._next_deadline, wait.deadline)

    async def _sweep(self, connection: wake_queries.AsyncConnection) -> None:
        async with asyncio.timeout(_QUERY_TIMEOUT):
            self._read_clock = await wake_queries.clock(connection), asyncio.get_running_loop().time()
        alone, sets = [*self._alone], [*self._sets]
        self._new.clear()
        if any(isinstance(wait, SubmissionWait) for wait in alone):
            async with asyncio.timeout(_QUERY_TIMEOUT):
                await wake_queries.use_budgets(connection)
        others: set[int] = set()
        for some in _batches(sets, _SETS):
            async with asyncio.timeout(_QUERY_TIMEOUT):
                others |= await wake_queries.others_run(connection, some)
        await self._check(connection, [*alone, *(wait for of in sets if of.set_id in others for wait in of.waits)])
        async with asyncio.timeout(_QUERY_TIMEOUT):
            self._poller.watch(await wake_queries.since_webhook(connection, self._poller.conn_ids()))
            if polled := self._poller.take_polled():
                await wake_queries.record_polls(connection, polled)
            if seen := self._poller.take_seen():
                await wake_queries.record_signs(connection, seen)
        self._failures = 0
        self._poller.resume()

    async def _check(self, connection: wake_queries.AsyncConnection, waits: list[Wait]) -> None:
        """Ask the ledger about these waits, and end those for which nothing is left to wait."""
        self._new.difference_update(waits)
        by_kind: dict[type[Wait], list[Any]] = {}
        for wait in waits:
            by_kind.setdefault(type(wait), []).append(wait)
        for responses in _batches(by_kind.get(ResponseWait, ())):
            async with asyncio.timeout(_QUERY_TIMEOUT):
                ended = await wake_queries.ended_responses(
                    connection, [(wait.job_id, wait.revision) for wait in responses]
                )
            for response in responses if ended else ():
                if status := ended.get((response.job_id, response.revision)):
                    response.end(status)
        for kind, over_of in _OVER.items():
            for batch in _batches(by_kind.get(kind, ())):
                async with asyncio.timeout(_QUERY_TIMEOUT):
                    over = await over_of(connection, [wait.key for wait in batch])
                for wait in batch:
                    if wait.key in over:
                        wait.end("over")


def _earliest(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)


def _batches(of: Iterable[Any], most: int = _BATCH) -> Iterator[list[Any]]:
    iterator = iter(of)
    while batch := list(islice(iterator, most)):
        yield batch
