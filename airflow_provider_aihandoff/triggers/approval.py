"""Waits for a decision without a worker slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_aihandoff.hooks.ledger import shared_ledger_async
from airflow_provider_aihandoff.responses.backoff import backoff, jittered
from airflow_provider_aihandoff.states import JobState

_ERROR_CAP = 30.0


class ApprovalTrigger(BaseTrigger):
    """Fire once when a job no longer waits for a decision on this digest, or the time to decide is over.

    A triggerer that restarts runs it again with the same absolute deadline. Killing the task changes nothing: the job
    goes on waiting for a decision, and the task asks the ledger when it is cleared.

    :param digest: the review digest that was asked about.
    :param deadline: absolute, ISO 8601.
    :param not_before: absolute, ISO 8601; it does not fire before it.
    :param poll_interval: seconds between two looks at the ledger.
    """

    def __init__(
        self, *, job_id: int, digest: str, ledger_conn_id: str, deadline: str, not_before: str, poll_interval: float
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.digest = digest
        self.ledger_conn_id = ledger_conn_id
        self.deadline = deadline
        self.not_before = not_before
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: ids and times, no content and no secret."""
        names = ("job_id", "digest", "ledger_conn_id", "deadline", "not_before", "poll_interval")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, fire once, and end."""
        errors = 0
        while self._seconds_until(self.deadline) > 0:
            try:
                if not await self._waits():
                    break
                errors, wait = 0, jittered(self.poll_interval)
            except Exception as error:  # noqa: BLE001 - the wait outlives whatever is broken for a while
                errors += 1
                wait = backoff(errors, base=self.poll_interval, cap=_ERROR_CAP)
                self.log.warning("Waiting for a decision on job %s: %s: %s", self.job_id, type(error).__name__, error)
            await asyncio.sleep(min(wait, self._seconds_until(self.deadline)))
        await asyncio.sleep(self._seconds_until(self.not_before))
        yield TriggerEvent({"job_id": self.job_id})

    async def _waits(self) -> bool:
        ledger = await shared_ledger_async(self.ledger_conn_id)
        job = await asyncio.to_thread(ledger.job, self.job_id)
        return job.state is JobState.REVIEW and job.review_digest == self.digest

    @staticmethod
    def _seconds_until(moment: str) -> float:
        return max(0.0, (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds())
