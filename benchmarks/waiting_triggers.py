"""What the waiting benchmark compares the hub with: how the providers of Airflow wait, and Airflow with no waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.openai.hooks.openai import OpenAIHook
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES

#: The default of ``OpenAIAgentOperator``, as in ``airflow.providers.openai.operators.agent``.
POLL_INTERVAL = 10.0


class PollingResponseTrigger(BaseTrigger):
    """Wait as ``OpenAIAgentSessionTrigger`` does, on ``responses.retrieve`` in the place of its two requests.

    The source of that pattern is ``airflow/providers/openai/triggers/agent.py`` of apache-airflow-providers-openai
    2.2.0: a hook of its own for each trigger, hence a client and a connection pool for each; ``asyncio.to_thread`` for
    each poll; a fixed ``poll_interval``; no jitter; errors in a row counted. ``LLMBatchTrigger`` of
    apache-airflow-providers-common-ai (``triggers/llm_batch.py``) has the same form: an adapter with a client of its
    own for each trigger, ``asyncio.to_thread(adapter.get_batch)``, a fixed sleep. ``OpenAIBatchTrigger`` of the first
    makes the same request on the event loop itself, without a thread, which would stop all other triggers meanwhile.
    """

    def __init__(self, conn_id: str, response_id: str, poll_interval: float, end_time: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.response_id = response_id
        self.poll_interval = poll_interval
        self.end_time = end_time

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        names = ("conn_id", "response_id", "poll_interval", "end_time")
        return f"{__name__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll in threads, and fire once."""
        hook = OpenAIHook(conn_id=self.conn_id)
        failures = 0
        while time.time() < self.end_time:
            try:
                status = await asyncio.to_thread(_poll, hook, self.response_id)
            except Exception as error:  # noqa: BLE001 - as the pattern does
                failures += 1
                if failures >= OpenAIHook.MAX_CONSECUTIVE_POLL_FAILURES:
                    yield TriggerEvent({"status": "error", "response_id": self.response_id, "message": str(error)})
                    return
                self.log.warning("Polling response %s failed (%s); retrying.", self.response_id, error)
            else:
                failures = 0
                if status is not None:
                    yield TriggerEvent({"status": status, "response_id": self.response_id})
                    return
            await asyncio.sleep(min(self.poll_interval, max(0, self.end_time - time.time())))
        yield TriggerEvent({"status": "timeout", "response_id": self.response_id})


def _poll(hook: OpenAIHook, response_id: str) -> str | None:
    status: str | None = hook.conn.responses.retrieve(response_id).status
    return status if status in ENDED_RESPONSE_STATUSES else None


class IdleTrigger(BaseTrigger):
    """Wait for nothing, for ever: what a deferred task costs Airflow by itself."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path; there are no arguments."""
        return f"{__name__}.{type(self).__qualname__}", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Never fire."""
        await asyncio.get_running_loop().create_future()
        yield TriggerEvent(None)
