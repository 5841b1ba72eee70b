"""Asks OpenAI whether responses have ended: one request at a time for each, and few in all."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Mapping
from itertools import count

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.hooks.openai import forget_client, shared_client
from airflow_provider_aihandoff.responses.backoff import backoff, jittered
from airflow_provider_aihandoff.responses.outcome import terminal_status
from airflow_provider_aihandoff.responses.pace import TokenBucket, WebhookWatch
from airflow_provider_aihandoff.triggers.waits import ResponseWait

log = logging.getLogger(__name__)

#: Seconds one look at a response may take.
RETRIEVE_TIMEOUT = 30.0

#: Requests under way at the same time, and how many of the tokens may be used at once.
_CONCURRENCY = 8

#: How far the interval stretches while webhooks are silent, and by how much each time.
_STRETCH_LIMIT, _STRETCH = 6.0, 1.25

#: Cap of the wait after errors in a row, in seconds.
_ERROR_CAP = 60.0

#: Seconds of nothing but 404 after which a response counts as gone. Right after it was created, and for about half a
#: minute after it completed, 404 has been seen for responses that were there.
GONE_AFTER = 180.0


class Poller:
    """Looks at the responses that are waited for, the longest due first.

    Many that become due at once are spread by the token bucket; a wait that ends meanwhile costs no request. Errors,
    404s and answers that make no sense are waited out.
    """

    def __init__(self) -> None:
        self._waits: set[ResponseWait] = set()
        self._queue: list[tuple[float, int, ResponseWait]] = []
        self._order = count()
        self._sooner = asyncio.Event()
        self._may_look = asyncio.Event()
        self._bucket = TokenBucket(settings.number("poll_rate"), _CONCURRENCY)
        self._webhooks = WebhookWatch(settings.number("webhook_silence"))
        self._seldom = settings.number("poll_interval_with_webhooks")
        self._free = asyncio.Semaphore(_CONCURRENCY)

    def add(self, wait: ResponseWait) -> None:
        """Look at this response from now on."""
        self._waits.add(wait)
        self._schedule(wait, jittered(self._interval(wait)))

    def remove(self, wait: ResponseWait) -> None:
        """Look at it no longer."""
        self._waits.discard(wait)

    def conn_ids(self) -> list[str]:
        """The connections of what is waited for."""
        return sorted({wait.conn_id for wait in self._waits})

    def pause(self) -> None:
        """Look at nothing: the ledger is away, and a task that goes on would need it."""
        self._may_look.clear()

    def resume(self) -> None:
        """Go on looking."""
        self._may_look.set()

    def watch(self, since_webhook: Mapping[str, float]) -> None:
        """Take in how many seconds ago each connection brought its newest webhook, and look more or less often."""
        begun, silent = self._webhooks.update(since_webhook)
        for conn_id in sorted(begun):
            log.info("Webhooks arrive on %s: its responses are looked at seldom.", conn_id)
        for conn_id in sorted(silent):
            log.warning("Webhooks have fallen silent on %s: its responses are looked at often.", conn_id)
        for wait in self._waits:
            if wait.conn_id in begun | silent:
                wait.interval = wait.poll_interval
                self._schedule(wait, jittered(self._interval(wait)))

    async def run(self) -> None:
        """Look at whatever is due, for ever. Safe to begin anew after an error: no wait is forgotten."""
        for wait in self._waits:
            self._schedule(wait, jittered(self._interval(wait)))
        async with asyncio.TaskGroup() as looks:
            while True:
                wait = await self._next_due()
                await self._may_look.wait()
                await asyncio.sleep(self._bucket.take(asyncio.get_running_loop().time()))
                await self._free.acquire()
                looks.create_task(self._look_at(wait))

    async def _next_due(self) -> ResponseWait:
        loop = asyncio.get_running_loop()
        while True:
            self._sooner.clear()
            pause: float | None = None
            while self._queue:
                at, _, wait = self._queue[0]
                if wait in self._waits and at == wait.look_at:
                    pause = at - loop.time()
                    break
                heapq.heappop(self._queue)  # it has ended, or has another time by now
            if pause is not None and pause <= 0:
                return heapq.heappop(self._queue)[2]
            try:
                async with asyncio.timeout(pause):
                    await self._sooner.wait()
            except TimeoutError:
                continue

    def _schedule(self, wait: ResponseWait, seconds: float) -> None:
        wait.look_at = asyncio.get_running_loop().time() + seconds
        heapq.heappush(self._queue, (wait.look_at, next(self._order), wait))
        if self._queue[0][2] is wait:
            self._sooner.set()

    def _interval(self, wait: ResponseWait) -> float:
        if self._webhooks.arrives(wait.conn_id):
            return max(wait.poll_interval, self._seldom)
        return wait.interval

    async def _look_at(self, wait: ResponseWait) -> None:
        try:
            seen = "pending" if wait.over else await _look(wait)
        finally:
            self._free.release()
        now = asyncio.get_running_loop().time()
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


async def _look(wait: ResponseWait) -> str:
    """Ask OpenAI once. The status of a response that has ended, or ``pending``, ``missing`` or ``error``."""
    import openai

    try:
        client = await shared_client(wait.conn_id)
        response = await client.responses.retrieve(wait.response_id, timeout=RETRIEVE_TIMEOUT)
    except openai.NotFoundError:
        return "missing"
    except openai.AuthenticationError:
        forget_client(wait.conn_id, client)
        log.warning("OpenAI refused the credentials of %s; reading them again.", wait.conn_id)
        return "error"
    except Exception as error:  # noqa: BLE001 - a transient error must not end a paid job
        log.warning("Looking at response %s failed: %s", wait.response_id, type(error).__name__)
        return "error"
    return terminal_status(response, wait.response_id) or "pending"
