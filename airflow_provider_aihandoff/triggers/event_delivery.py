"""Sends events to subscribers from a triggerer, without a worker slot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_aihandoff.hooks.ledger import shared_ledger_async


class EventDeliveryTrigger(BaseTrigger):
    """Send what is due for so many seconds, then fire once.

    Any number of them may run, also in other triggerers: one sends the events of a subscription at a time. A triggerer
    that dies, or restarts, begins with the whole time again; what it has sent and not recorded is sent again.

    :param ledger_conn_id: connection of the ledger.
    :param seconds: for how long.
    """

    #: Threads of one trigger, so that a slow receiver does not hold up the others.
    threads = 2

    def __init__(self, *, ledger_conn_id: str, seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger_conn_id = ledger_conn_id
        self.seconds = seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: no content and no secret."""
        arguments = {"ledger_conn_id": self.ledger_conn_id, "seconds": self.seconds}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Send for so long, fire once, and end."""
        from airflow_provider_aihandoff.core.event_delivery.deliver import deliver_on
        from airflow_provider_aihandoff.hooks.event_posts import post_to_listed, secrets_over

        loop, stop = asyncio.get_running_loop(), threading.Event()
        ledger = await shared_ledger_async(self.ledger_conn_id)
        deliver = partial(deliver_on, ledger, stop, secrets_of=secrets_over(loop), post=post_to_listed)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="aihandoff-events")
        try:
            work = [loop.run_in_executor(pool, partial(deliver, removes=not number)) for number in range(self.threads)]
            await asyncio.sleep(self.seconds)
            stop.set()
            delivered = sum(await asyncio.gather(*work))
        finally:
            stop.set()
            pool.shutdown(wait=False)
        yield TriggerEvent({"delivered": delivered})
