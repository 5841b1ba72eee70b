"""Waits for a decision without a worker slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_aihandoff.triggers.hub import hub_for
from airflow_provider_aihandoff.triggers.waits import ReviewWait, seconds_until


class ApprovalTrigger(BaseTrigger):
    """Fire once when a job no longer waits for a decision on this digest, or the time to decide is over.

    A triggerer that restarts runs it again with the same absolute deadline. Killing the task changes nothing: the job
    goes on waiting for a decision, and the task asks the ledger when it is cleared.

    :param digest: the review digest that was asked about.
    :param deadline: absolute, ISO 8601.
    :param not_before: absolute, ISO 8601; it does not fire before it.
    """

    def __init__(self, *, job_id: int, digest: str, ledger_conn_id: str, deadline: str, not_before: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.digest = digest
        self.ledger_conn_id = ledger_conn_id
        self.deadline = deadline
        self.not_before = not_before

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: ids and times, no content and no secret."""
        names = ("job_id", "digest", "ledger_conn_id", "deadline", "not_before")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, fire once, and end."""
        await hub_for(self.ledger_conn_id).wait_for(ReviewWait(self.job_id, self.digest), self.deadline)
        await asyncio.sleep(seconds_until(self.not_before))
        yield TriggerEvent({"job_id": self.job_id})
