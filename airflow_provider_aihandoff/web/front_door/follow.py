"""The one connection on which an API server's process hears of changes: for all who follow, of new requests, and for
the approval tasks that Airflow has parked.

A notification makes it check at once; the check itself is the truth, and is made every second while someone follows.
So a notification that gets lost, as behind a pooler that passes on none, costs a second.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from psycopg.rows import tuple_row
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.database.connection import CONNECTION_DEFAULTS, JOB_ID, WAKE_CHANNEL
from airflow_provider_aihandoff.core.database.listening import listen
from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.job_requests.begin import begin_due
from airflow_provider_aihandoff.core.job_requests.enqueue import REQUEST_CHANNEL
from airflow_provider_aihandoff.core.job_requests.request_store import Followed
from airflow_provider_aihandoff.hooks.ledger import LedgerHook, shared_ledger
from airflow_provider_aihandoff.web.auth import TooManyFollow
from airflow_provider_aihandoff.web.front_door import parked_tasks
from airflow_provider_aihandoff.web.front_door.airflow_runs import AirflowRuns, follow_up

log = logging.getLogger(__name__)

#: Who may follow something in one process at the same time.
MAX_WATCHES = 2_000

#: Seconds between two checks: at least, and at most while someone follows.
_GATHER, _CHECK = 0.2, 1.0

#: Seconds between two sweeps for requests of which no run is known, and for those whose run made no job.
_START_EVERY, _FOLLOW_UP_EVERY = 5.0, 10.0

#: Seconds between two sweeps for parked tasks that have something to do, with what was parked since the one before the
#: last; and between two checks of what became of all of them.
_WAKE_EVERY, _PARKED_FOLLOW_UP_EVERY = 5.0, 15.0

#: Seconds after which the ledger counts as unavailable, and between two tries to reach it.
_TIMEOUT = 20.0
_RECONNECT_BASE, _RECONNECT_CAP = 0.5, 30.0

_REQUESTS = """
    SELECT request_id, concat(q.state, ' ', q.tries, ' ', coalesce(j.event_seq, 0))
    FROM aihandoff.job_requests AS q LEFT JOIN aihandoff.jobs AS j USING (job_type, job_key)
    WHERE request_id = ANY(%s)"""
_JOBS = "SELECT job_id, event_seq::text FROM aihandoff.jobs WHERE job_id = ANY(%s)"

#: The largest id of a job.
_MAX_ID = 2**63 - 1

#: What is followed: a request by its UUID, a job by its number.
Key = UUID | int


def version_of(followed: Followed) -> str:
    """What changes with a request, as the check reads it."""
    seq = 0 if followed.job is None else followed.job.event_seq
    return f"{followed.request.state.value} {followed.request.tries} {seq}"


@dataclass(eq=False)
class Watch:
    """Someone who follows something.

    :param seen: the version that they know.
    """

    key: Key
    seen: str
    has_changed: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, seen: str, seconds: float) -> bool:
        """Wait until it is another than this, or it is woken; return whether it is another.

        :param seen: the version that was read last.
        """
        self.seen, self.has_changed = seen, False
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._news.wait()
        self._news.clear()
        return self.has_changed

    def change(self) -> None:
        """Say that it is another."""
        self.has_changed = True
        self._news.set()

    def wake(self) -> None:
        """End the wait, or the next one: there is news beside what it is."""
        self._news.set()


class Doorkeeper:
    """Follows the ledger for one process, and has runs made of what is requested, while it is kept open.

    It outlives whatever happens to the ledger: it connects again, with growing pauses.

    :param begin_due: makes the runs of requests of which none is known; returns how many requests that were.
    :param follow_up: sees to the requests whose run made no job.
    :param wake_due: wakes the parked tasks that have something to do, of some jobs or of all; returns how many.
    :param follow_parked: sees to the parked tasks that were ended, of those parked within so many seconds or of all.
    """

    def __init__(
        self,
        begin_due: Callable[[], int],
        follow_up: Callable[[], None],
        wake_due: Callable[[Collection[int] | None], int],
        follow_parked: Callable[[float | None], None],
    ) -> None:
        self._begin_due, self._follow_up = begin_due, follow_up
        self._wake_due, self._follow_parked = wake_due, follow_parked
        self._watches: set[Watch] = set()
        self._open = False
        self._work: asyncio.Task[None] | None = None
        self._failures = 0
        self._airflow_fails = False
        self._news = asyncio.Event()
        self._changed: set[int] = set()
        self._change = asyncio.Event()

    def open(self) -> None:
        """Have runs made from now on."""
        self._open = True
        self._begin()

    async def close(self) -> None:
        """Stop, and return when the connection is closed, unless someone follows something."""
        self._open, work = False, self._work
        self._end_if_idle()
        if work is not None and self._work is None:
            await asyncio.wait([work], timeout=_TIMEOUT)

    def check_room(self) -> None:
        """Return when one more may follow something. For a stream, before its answer begins: it cannot say 503 then.

        :raises TooManyFollow: as many as may do.
        """
        if len(self._watches) >= MAX_WATCHES:
            raise TooManyFollow(
                f"{MAX_WATCHES:,} connections follow something here.", written="", remedy="Ask again later."
            )

    @asynccontextmanager
    async def watching(self, key: Key, seen: str) -> AsyncIterator[Watch]:
        """Follow a request or a job.

        :param seen: the version that was read.
        :raises TooManyFollow: as many as may follow something do.
        """
        self.check_room()
        watch = Watch(key, seen)
        self._watches.add(watch)
        self._begin()
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            self._end_if_idle()

    def _begin(self) -> None:
        if self._work is None:
            # In a context of its own: it outlives the request that has begun it.
            self._work = asyncio.get_running_loop().create_task(self._run(), context=contextvars.Context())

    def _end_if_idle(self) -> None:
        if not self._watches and not self._open and self._work is not None:
            self._work.cancel()
            self._work = None

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except Exception as error:  # noqa: BLE001 - it outlives whatever is broken for a while
                self._failures += 1
                pause = backoff(self._failures, base=_RECONNECT_BASE, cap=_RECONNECT_CAP)
                # Not the message, which can name hosts and roles. An Airflow whose ledger is not set up says it once.
                say = log.warning if self._failures == 1 or self._watches else log.debug
                say("The ledger cannot be followed: %s. Next try in %.1f s.", type(error).__name__, pause)
                await asyncio.sleep(pause)

    async def _follow(self) -> None:
        conninfo = await asyncio.to_thread(LedgerHook().conninfo)
        async with asyncio.timeout(_TIMEOUT):
            connection = await psycopg.AsyncConnection.connect(
                **{**CONNECTION_DEFAULTS, **conninfo}, autocommit=True, row_factory=tuple_row
            )
        try:
            async with asyncio.timeout(_TIMEOUT):
                await schema.check_async(connection)
                await listen(connection, conninfo, WAKE_CHANNEL, REQUEST_CHANNEL)
            working = [asyncio.create_task(self._start()), asyncio.create_task(self._wake())]
            try:
                while not any(task.done() for task in working):
                    await self._check(connection)
                    await self._hear(connection)
                for task in working:
                    if task.done():
                        task.result()
            finally:
                for task in working:
                    task.cancel()
        finally:
            await connection.close()

    async def _hear(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Wait until there is news, and a moment longer for what comes with it."""
        await asyncio.sleep(_GATHER)
        async for notification in connection.notifies(timeout=_CHECK - _GATHER, stop_after=1):
            if notification.channel == REQUEST_CHANNEL:
                self._news.set()
            elif JOB_ID.fullmatch(notification.payload) and (job_id := int(notification.payload)) <= _MAX_ID:
                self._changed.add(job_id)
                self._change.set()

    async def _check(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Wake those who follow what has changed."""
        watches = [*self._watches]
        versions: dict[Key, str] = {}
        for kind, statement in ((UUID, _REQUESTS), (int, _JOBS)):
            if keys := list({watch.key for watch in watches if isinstance(watch.key, kind)}):
                versions |= await self._read(connection, statement, keys)
        for watch in watches:
            if versions.get(watch.key, watch.seen) != watch.seen:
                watch.change()

    @staticmethod
    async def _read(connection: psycopg.AsyncConnection[Any], statement: str, keys: Iterable[Key]) -> Mapping[Key, str]:
        async with asyncio.timeout(_TIMEOUT):
            cursor = await connection.execute(statement, [keys])
            return dict(await cursor.fetchall())

    async def _start(self) -> None:
        """Have runs made of requests, one round at a time: at news, and every few seconds."""
        follow_up_at = 0.0
        while True:
            if self._open:
                while await asyncio.to_thread(self._begin_due):
                    pass
                if time.monotonic() >= follow_up_at:
                    await asyncio.to_thread(self._follow_up)
                    follow_up_at = time.monotonic() + _FOLLOW_UP_EVERY
            self._failures = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(_START_EVERY):
                    await self._news.wait()
            self._news.clear()

    async def _of_airflow(self, work: Callable[[Any], object], about: Any) -> None:
        """Do what needs Airflow's database as well. Where that is broken, the ledger goes on being followed."""
        try:
            await asyncio.to_thread(work, about)
        except HandoffError:
            raise
        except Exception as error:  # noqa: BLE001 - as for the ledger: it outlives whatever is broken for a while
            say = log.debug if self._airflow_fails else log.warning
            self._airflow_fails = True
            say("Parked tasks cannot be seen to: %s. It is tried again.", type(error).__name__)
        else:
            self._airflow_fails = False

    async def _wake(self) -> None:
        """Wake parked tasks, one round at a time: at a change of their job, and every few seconds."""
        sweep_at = follow_up_at = 0.0
        while True:
            changed, self._changed = self._changed, set()
            self._change.clear()
            if self._open and time.monotonic() >= sweep_at:
                await self._of_airflow(self._wake_due, None)
                all_of_them = time.monotonic() >= follow_up_at
                await self._of_airflow(self._follow_parked, None if all_of_them else 3 * _WAKE_EVERY)
                sweep_at = time.monotonic() + _WAKE_EVERY
                follow_up_at = time.monotonic() + _PARKED_FOLLOW_UP_EVERY if all_of_them else follow_up_at
            elif self._open and changed:
                await self._of_airflow(self._wake_due, changed)
            # A change a moment before the next sweep does not put that off.
            pause = max(sweep_at - time.monotonic(), 0.0) if self._open else _WAKE_EVERY
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._change.wait()


_keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, Doorkeeper] = WeakKeyDictionary()


def doorkeeper() -> Doorkeeper:
    """The one of this process."""
    loop = asyncio.get_running_loop()
    if loop not in _keepers:
        _keepers[loop] = Doorkeeper(
            lambda: begin_due(shared_ledger(), AirflowRuns()),
            lambda: follow_up(shared_ledger()),
            lambda job_ids: parked_tasks.wake_due(shared_ledger(), job_ids),
            lambda newer: parked_tasks.follow_up(shared_ledger(), newer=newer),
        )
    return _keepers[loop]


class FrontDoor:
    """Keeps the doorkeeper open for as long as the API server serves: a middleware, since Airflow mounts our app, and a
    mounted app does not hear when the server starts and stops.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the whole life of the server."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def said(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                doorkeeper().open()
            await send(message)

        try:
            await self._app(scope, receive, said)
        finally:
            await doorkeeper().close()
