"""Waits for a background response without a worker slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_aihandoff.core.generation.stop import record_cancelled
from airflow_provider_aihandoff.hooks.ledger import shared_ledger_async
from airflow_provider_aihandoff.hooks.model_provider import shared_provider
from airflow_provider_aihandoff.task_states import ENDED_TASK_STATES
from airflow_provider_aihandoff.triggers.ended import owner_of, task_state, to_its_end
from airflow_provider_aihandoff.triggers.hub import hub_for
from airflow_provider_aihandoff.triggers.waits import ResponseWait


class OpenAIBackgroundResponseTrigger(BaseTrigger):
    """Fire once when a response has ended, the ledger has settled it otherwise, or the deadline has passed.

    It holds ids only: the worker that resumes reads the output and stores it. All that wait in one process share a
    hub, which follows the ledger, where webhooks arrive, and asks OpenAI beside that. A triggerer that restarts runs it
    again with the same absolute deadline. Errors, 404s and answers that make no sense are waited out until then.

    The event is ``{"job_id", "revision", "status"}``, where status is OpenAI's, or ``settled``, ``deadline`` or
    ``gone``.

    :param deadline: absolute, ISO 8601.
    :param not_before: absolute, ISO 8601; it does not fire before it, since Airflow can lose a task that resumes
        right after it deferred.
    :param poll_interval: seconds between the first polls of the response, while no webhooks arrive.
    """

    def __init__(
        self,
        *,
        job_id: int,
        revision: int,
        response_id: str,
        openai_conn_id: str,
        ledger_conn_id: str,
        deadline: str,
        not_before: str,
        poll_interval: float,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.revision = revision
        self.response_id = response_id
        self.openai_conn_id = openai_conn_id
        self.ledger_conn_id = ledger_conn_id
        self.deadline = deadline
        self.not_before = not_before
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: ids and times, no content and no secret."""
        names = ("job_id", "revision", "response_id", "openai_conn_id", "ledger_conn_id", "deadline", "not_before")
        kwargs = {name: getattr(self, name) for name in (*names, "poll_interval")}
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, fire once, and end."""
        wait = ResponseWait(self.job_id, self.revision, self.response_id, self.openai_conn_id, self.poll_interval)
        hub = hub_for(self.ledger_conn_id)
        status = await hub.wait_for(wait, self.deadline) or "deadline"
        await hub.sleep_until(self.not_before)
        yield TriggerEvent({"job_id": self.job_id, "revision": self.revision, "status": status})

    async def on_kill(self) -> None:
        """Cancel the response if a person ended the task, and only then.

        Airflow also calls this when the trigger moves to another triggerer, and after a clear while a newer attempt
        has already adopted the response; nothing is cancelled then. The request to cancel is recorded before OpenAI is
        asked, so that what comes after it is known to be late.
        """
        await to_its_end(self._cancel_if_ended())

    async def _cancel_if_ended(self) -> None:
        owner = owner_of(self)
        if owner is None or await task_state(owner) not in ENDED_TASK_STATES:
            self.log.info("The task of job %s has not ended: its response goes on.", self.job_id)
            return
        ledger = await shared_ledger_async(self.ledger_conn_id)
        actor, reason = owner.actor, "the task was ended while it waited"
        revision = await asyncio.to_thread(
            ledger.outputs.request_cancel, self.job_id, owner=owner, actor=actor, reason=reason
        )
        if revision is not None and revision.response_id == self.response_id:
            provider = await shared_provider(self.openai_conn_id)
            response = await provider.cancel(self.response_id)
            await asyncio.to_thread(record_cancelled, ledger, provider, revision, response, actor=actor, reason=reason)
