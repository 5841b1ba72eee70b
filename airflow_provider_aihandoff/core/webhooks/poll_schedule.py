"""Looks at OpenAI in the background, soon after a webhook came that nobody waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import anyio
from anyio.to_thread import run_sync

log = logging.getLogger(__name__)

#: Seconds to wait first: the worker that submitted the response may be about to store its id.
DELAY = 2.0

#: Looks at the same time.
AT_ONCE = 2

#: Looks that wait; more are left to the maintenance Dag.
MAX_WAITING = 100

#: Looks at the response of a webhook: ``look(conn_id, webhook_id)``. Runs in a thread.
Look = Callable[[str, str], None]


class Looks:
    """The looks that are under way, on one event loop. They are a convenience: what is lost here is made up for later.

    They are tasks of their own and no part of the request: a server counts a request as going on until its background
    tasks are done, and keeps its connection from taking the next one.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._limiter = anyio.CapacityLimiter(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, conn_id: str, webhook_id: str) -> bool:
        """Look in a moment; False where too many wait already, and nothing will be done."""
        if len(self._tasks) >= MAX_WAITING:
            return False
        task = asyncio.get_running_loop().create_task(self._wait_and_look(conn_id, webhook_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _wait_and_look(self, conn_id: str, webhook_id: str) -> None:
        await asyncio.sleep(DELAY)
        try:
            await run_sync(self._look, conn_id, webhook_id, limiter=self._limiter)
        except Exception as error:  # noqa: BLE001  it may hold content, so its class has to do
            log.warning("Looking at the response of webhook %s failed: %s.", webhook_id, type(error).__name__)
