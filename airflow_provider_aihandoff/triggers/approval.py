"""Waits for a decision without a worker slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_aihandoff.hooks.ledger import shared_ledger_async
from airflow_provider_aihandoff.triggers.ended import owner_of, task_state, to_its_end
from airflow_provider_aihandoff.triggers.hub import hub_for
from airflow_provider_aihandoff.triggers.waits import ReviewWait


class ApprovalTrigger(BaseTrigger):
    """Fire once when a job no longer waits for a decision on this digest, was reassigned, or there is something to do.

    A triggerer that restarts runs it again with the same absolute times. Marking the task failed cancels the job:
    no one waits for the decision any longer.

    :param digest: the review digest that was asked about.
    :param until: when there is something to do at the latest (a reminder, an escalation, the end of the time to
        decide); absolute, ISO 8601.
    :param not_before: absolute, ISO 8601; it does not fire before it.
    :param reassigned: how often the review had been reassigned to other people by then, who were notified.
    """

    def __init__(
        self, *, job_id: int, digest: str, ledger_conn_id: str, until: str, not_before: str, reassigned: int = 0
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.digest = digest
        self.ledger_conn_id = ledger_conn_id
        self.until = until
        self.not_before = not_before
        self.reassigned = reassigned

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: ids and times, no content and no secret."""
        names = ("job_id", "digest", "ledger_conn_id", "until", "not_before", "reassigned")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, fire once, and end."""
        hub = hub_for(self.ledger_conn_id)
        await hub.wait_for(ReviewWait(self.job_id, self.digest, self.reassigned), self.until)
        await hub.sleep_until(self.not_before)
        yield TriggerEvent({"job_id": self.job_id})

    async def on_kill(self) -> None:
        """Cancel the job if a person marked the task failed, and only then.

        Airflow also calls this when the trigger moves to another triggerer, and after a clear. A job that another Dag
        run has taken over goes on waiting for its decision.
        """
        await to_its_end(self._cancel_if_failed())

    async def _cancel_if_failed(self) -> None:
        owner = owner_of(self)
        if owner is None or await task_state(owner) != "failed":
            self.log.info("The approval of job %s was not marked failed: it goes on waiting.", self.job_id)
            return
        ledger = await shared_ledger_async(self.ledger_conn_id)
        await asyncio.to_thread(
            ledger.cancels.cancel_review,
            self.job_id,
            run=(owner.dag_id, owner.run_id),
            actor=owner.actor,
            reason="the task that waited for its decision was marked failed",
        )
