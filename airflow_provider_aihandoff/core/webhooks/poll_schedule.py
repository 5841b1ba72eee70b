"""Polls OpenAI in the background, soon after a webhook came that no job is known to wait for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import anyio
from anyio.to_thread import run_sync

log = logging.getLogger(__name__)

#: Seconds to wait first: the worker that submitted the response may be about to store its id.
DELAY = 2.0

#: Polls at the same time.
AT_ONCE = 2

#: Polls that wait; more are left to the maintenance Dag.
MAX_WAITING = 100

#: Polls the response of a webhook: ``poll(conn_id, webhook_id)``. Runs in a thread.
Poll = Callable[[str, str], None]


class PollSchedule:
    """The polls that are under way, on one event loop. They are a convenience: what is lost here is polled later.

    They are tasks of their own and no part of the request: a server counts a request as going on until its background
    tasks are done, and keeps its connection from taking the next one.
    """

    def __init__(self, poll: Poll) -> None:
        self._poll = poll
        self._limiter = anyio.CapacityLimiter(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, conn_id: str, webhook_id: str) -> bool:
        """Poll in a moment; False where too many wait already, and nothing will be done."""
        if len(self._tasks) >= MAX_WAITING:
            return False
        task = asyncio.get_running_loop().create_task(self._wait_and_poll(conn_id, webhook_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _wait_and_poll(self, conn_id: str, webhook_id: str) -> None:
        await asyncio.sleep(DELAY)
        try:
            await run_sync(self._poll, conn_id, webhook_id, limiter=self._limiter)
        except Exception as error:  # noqa: BLE001  it may contain content, so only its class is logged
            log.warning("Polling the response of webhook %s failed: %s.", webhook_id, type(error).__name__)
