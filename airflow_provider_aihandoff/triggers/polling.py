"""Asks OpenAI whether responses have ended: one request at a time for each, and few in all."""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections import Counter
from collections.abc import Mapping
from itertools import count

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.backoff import backoff, jittered
from airflow_provider_aihandoff.core.generation.pace import POLL_STRETCH, TokenBucket, WebhookWatch
from airflow_provider_aihandoff.core.generation.provider import CredentialsRefused, ProviderError, ResponseNotFound
from airflow_provider_aihandoff.hooks.model_provider import forget_provider, load_sdk, shared_provider
from airflow_provider_aihandoff.triggers.waits import PolledWait, ResponseWait

log = logging.getLogger(__name__)

#: Requests under way at the same time, and how many of the tokens may be used at once.
_CONCURRENCY = 8

#: How far the interval stretches while webhooks are silent, and by how much each time.
_STRETCH_LIMIT, _STRETCH = POLL_STRETCH, 1.25

#: When to poll what is being polled.
_UNDER_WAY = math.inf

#: Cap of the wait after errors in a row, in seconds.
_ERROR_CAP = 60.0

#: Seconds of nothing but 404 after which a response counts as gone. Right after it was created, and for about half a
#: minute after it completed, 404 has been seen for responses that were there.
GONE_AFTER = 180.0


class Poller:
    """Polls the responses that are waited for, the longest due first.

    Many that become due at once are spread by the token bucket; a wait that ends meanwhile costs no request. Errors,
    404s and answers that make no sense are waited out.
    """

    def __init__(self) -> None:
        self._waits: set[PolledWait] = set()
        self._of_conn: Counter[str] = Counter()
        self._queue: list[tuple[float, int, PolledWait]] = []
        self._order = count()
        self._sooner = asyncio.Event()
        self._may_poll = asyncio.Event()
        self._bucket = TokenBucket(settings.number("poll_rate"), _CONCURRENCY)
        self._silence = settings.number("webhook_silence")
        self._webhooks = WebhookWatch(self._silence)
        self._seldom = settings.number("poll_interval_with_webhooks")
        self._polled: set[str] = set()
        self._seen: dict[int, int] = {}

    def add(self, wait: PolledWait) -> None:
        """Poll this response from now on."""
        self._waits.add(wait)
        self._of_conn[wait.conn_id] += 1
        self._schedule(wait, jittered(self._interval(wait)))

    def remove(self, wait: PolledWait) -> None:
        """Poll it no longer."""
        self._waits.remove(wait)
        self._of_conn[wait.conn_id] -= 1
        if not self._of_conn[wait.conn_id]:
            del self._of_conn[wait.conn_id]
        self._tidy()
        if not self._waits:
            # No task waits, so nothing arrives: webhooks are not silent.
            self._webhooks = WebhookWatch(self._silence)

    def conn_ids(self) -> list[str]:
        """The connections whose newest webhook matters: of what is waited for, and where they arrived."""
        return sorted(self._webhooks.arriving.union(self._of_conn))

    def take_polled(self) -> list[str]:
        """The connections over which a response was polled since this was called last, each once."""
        polled, self._polled = sorted(self._polled), set()
        return polled

    def take_seen(self) -> dict[int, int]:
        """The revisions, by the id of their job, whose responses were seen to run since this was called last."""
        seen, self._seen = self._seen, {}
        return seen

    def pause(self) -> None:
        """Poll nothing: the ledger is unavailable, and a task that goes on would need it."""
        self._may_poll.clear()

    def resume(self) -> None:
        """Go on polling."""
        self._may_poll.set()

    def watch(self, since_webhook: Mapping[str, float]) -> None:
        """Take in how many seconds ago each connection brought its newest webhook, and poll more or less often."""
        begun, silent = self._webhooks.update(since_webhook)
        waiting = self._of_conn.keys()
        for conn_id in sorted(begun & waiting):
            log.info("Webhooks arrive on %s: its responses are polled seldom.", conn_id)
        for conn_id in sorted(silent & waiting):
            log.warning("Webhooks have fallen silent on %s: its responses are polled often.", conn_id)
        changed = (begun | silent) & waiting
        for wait in self._waits if changed else ():
            if wait.conn_id in changed:
                wait.interval = wait.poll_interval
                if wait.poll_at < _UNDER_WAY:
                    self._schedule(wait, jittered(self._interval(wait)))

    async def run(self) -> None:
        """Poll whatever is due, for ever. Safe to begin again after an error: no wait is forgotten."""
        await asyncio.to_thread(load_sdk)
        for wait in self._waits:
            if wait.poll_at == _UNDER_WAY:  # it was cut off
                self._schedule(wait, jittered(self._interval(wait)))
        loop, free = asyncio.get_running_loop(), asyncio.Semaphore(_CONCURRENCY)
        async with asyncio.TaskGroup() as polls:
            while True:
                await free.acquire()
                await self._until_due()
                await asyncio.sleep(self._bucket.take(loop.time()))
                if due := self._pop_due():
                    polls.create_task(self._poll_due(due, free))
                else:  # it has ended meanwhile
                    free.release()

    async def _until_due(self) -> None:
        while True:
            await self._may_poll.wait()
            self._sooner.clear()
            wait = self._next()
            pause = None if wait is None else wait.poll_at - asyncio.get_running_loop().time()
            if pause is not None and pause <= 0:
                return
            try:
                async with asyncio.timeout(pause):
                    await self._sooner.wait()
            except TimeoutError:
                continue

    def _pop_due(self) -> PolledWait | None:
        wait = self._next()
        if wait is None or wait.poll_at > asyncio.get_running_loop().time() or not self._may_poll.is_set():
            return None
        heapq.heappop(self._queue)
        wait.poll_at = _UNDER_WAY
        return wait

    def _next(self) -> PolledWait | None:
        """The wait that is due next."""
        while self._queue and not self._is_current(self._queue[0]):
            heapq.heappop(self._queue)
        return self._queue[0][2] if self._queue else None

    def _schedule(self, wait: PolledWait, seconds: float) -> None:
        wait.poll_at = asyncio.get_running_loop().time() + seconds
        heapq.heappush(self._queue, (wait.poll_at, next(self._order), wait))
        self._tidy()
        if self._queue[0][2] is wait:
            self._sooner.set()

    def _tidy(self) -> None:
        """Drop the entries that are no longer current, once they are the most."""
        if len(self._queue) > 2 * len(self._waits):
            self._queue = [entry for entry in self._queue if self._is_current(entry)]
            heapq.heapify(self._queue)

    def _is_current(self, entry: tuple[float, int, PolledWait]) -> bool:
        """Whether this says when to poll next: the wait may have ended, or have another time by now."""
        at, _, wait = entry
        return wait in self._waits and at == wait.poll_at

    def _interval(self, wait: PolledWait) -> float:
        if wait.conn_id in self._webhooks.arriving:
            return max(wait.poll_interval, self._seldom)
        return wait.interval

    async def _poll_due(self, wait: PolledWait, free: asyncio.Semaphore) -> None:
        seen = "error"
        try:
            seen = "pending" if wait.over else await _counted_poll(wait)
        finally:
            free.release()
            if not wait.over:
                self._take_in(wait, seen)

    def _take_in(self, wait: PolledWait, seen: str) -> None:
        now = asyncio.get_running_loop().time()
        if seen != "error":
            self._polled.add(wait.conn_id)
        if seen == "pending" and isinstance(wait, ResponseWait):
            self._seen[wait.job_id] = wait.revision
        wait.missing_since = (wait.missing_since or now) if seen == "missing" else None
        if wait.missing_since is not None and now - wait.missing_since > GONE_AFTER:
            wait.end("gone")
        elif seen in ("error", "missing"):
            wait.errors += 1
            self._schedule(wait, backoff(wait.errors, base=wait.poll_interval, cap=_ERROR_CAP))
        elif seen == "pending":
            wait.errors = 0
            self._schedule(wait, jittered(self._interval(wait)))
            wait.interval = min(wait.interval * _STRETCH, wait.poll_interval * _STRETCH_LIMIT)
        else:
            wait.end(seen)


async def _counted_poll(wait: PolledWait) -> str:
    seen = await _poll(wait)
    signals.count(signals.POLLS, conn_id=wait.conn_id, outcome=seen)
    return seen


async def _poll(wait: PolledWait) -> str:
    """Ask OpenAI once. The status of a response that has ended, or ``pending``, ``missing`` or ``error``."""
    try:
        provider = await shared_provider(wait.conn_id)
    except Exception as error:  # noqa: BLE001 - a connection that cannot be read now must not end a paid job
        log.warning("The connection %s cannot be used: %s", wait.conn_id, type(error).__name__)
        return "error"
    try:
        response = await wait.poll(provider)
    except ResponseNotFound:
        return "missing"
    except CredentialsRefused:
        forget_provider(wait.conn_id, provider)
        log.warning("OpenAI refused the credentials of %s; reading them again.", wait.conn_id)
        return "error"
    except ProviderError as error:
        log.warning("Polling %s failed: %s", wait.polled, error.what)
        return "error"
    return response.status.value if response is not None and response.ended else "pending"
