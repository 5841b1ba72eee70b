"""Waits without a worker slot until a request may be sent: one was lost, another attempt sends, or it is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_aihandoff.hooks.ledger import shared_ledger_async
from airflow_provider_aihandoff.task_states import ENDED_TASK_STATES
from airflow_provider_aihandoff.triggers.ended import owner_of, task_state, to_its_end
from airflow_provider_aihandoff.triggers.hub import hub_for
from airflow_provider_aihandoff.triggers.waits import SubmissionWait


class SubmissionTrigger(BaseTrigger):
    """Fire once when the request of a revision may be sent, or needs to be sent no longer.

    Its end is decided by the database's clock alone. A triggerer that restarts runs it again. The event is
    ``{"job_id", "submission"}``, the latter the number of the revision.

    :param handle: the provider's conversation that was made for the revision; it is polled for what has ended in it.
    :param lease_until: until when no request may be sent, as the ledger has it; absolute, ISO 8601.
    :param not_before: absolute, ISO 8601; it does not fire before it.
    :param until: absolute, ISO 8601: when it fires in any case; None waits for a change alone.
    :param poll_interval: seconds between the first polls of the handle, while no webhooks arrive.
    """

    def __init__(
        self,
        *,
        job_id: int,
        revision: int,
        handle: str | None,
        openai_conn_id: str,
        ledger_conn_id: str,
        lease_until: str,
        not_before: str,
        poll_interval: float,
        until: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.revision = revision
        self.handle = handle
        self.openai_conn_id = openai_conn_id
        self.ledger_conn_id = ledger_conn_id
        self.lease_until = lease_until
        self.not_before = not_before
        self.poll_interval = poll_interval
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: ids and times, no content and no secret."""
        names = ("job_id", "revision", "handle", "openai_conn_id", "ledger_conn_id", "lease_until", "not_before")
        kwargs = {name: getattr(self, name) for name in (*names, "poll_interval", "until")}
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, fire once, and end."""
        wait = SubmissionWait(
            self.job_id, self.revision, self.handle, self.openai_conn_id, self.poll_interval, self.lease_until
        )
        hub = hub_for(self.ledger_conn_id)
        await hub.wait_for(wait, self.until)
        await hub.sleep_until(self.not_before)
        yield TriggerEvent({"job_id": self.job_id, "submission": self.revision})

    async def on_kill(self) -> None:
        """Cancel the job if a person ended the task, and only then. A response that may run is late when it ends."""
        await to_its_end(self._cancel_if_ended())

    async def _cancel_if_ended(self) -> None:
        owner = owner_of(self)
        if owner is None or await task_state(owner) not in ENDED_TASK_STATES:
            self.log.info("The task of job %s has not ended: it goes on waiting.", self.job_id)
            return
        ledger = await shared_ledger_async(self.ledger_conn_id)
        reason = "the task was ended while it waited for its request to be sent"
        await asyncio.to_thread(
            ledger.cancels.cancel_unsent, self.job_id, owner=owner, actor=owner.actor, reason=reason
        )
