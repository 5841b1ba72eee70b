"""Waits for many jobs of one set without a worker slot, in one trigger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.core.errors import LedgerUnavailable
from airflow_provider_aihandoff.core.generation.batch_provider import async_batches_of
from airflow_provider_aihandoff.core.generation.stop import record_cancelled
from airflow_provider_aihandoff.core.sets.batch_read import stops_at
from airflow_provider_aihandoff.core.sets.batch_record import Batch, BatchState
from airflow_provider_aihandoff.core.sets.stop_set import batches_to_stop, cancel_reviews, to_stop
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES, ResponseStatus
from airflow_provider_aihandoff.hooks.ledger import shared_ledger_async
from airflow_provider_aihandoff.hooks.model_provider import shared_provider
from airflow_provider_aihandoff.task_states import ENDED_TASK_STATES
from airflow_provider_aihandoff.triggers.ended import owner_of, task_state, to_its_end
from airflow_provider_aihandoff.triggers.hub import hub_for
from airflow_provider_aihandoff.triggers.waits import (
    BatchWait,
    EffectWait,
    PolledWait,
    ResponseWait,
    SetDecisionWait,
    SetReviewWait,
    SubmissionWait,
    TimeWait,
    Wait,
)

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Owner
    from airflow_provider_aihandoff.core.sets.set_store import Waiting

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What the task waits for: the model, decisions, or what became of writes.
Phase = Literal["draft", "review", "write"]

#: How many times as long as between polls of a response it is between those of a batch.
BATCH_POLL_FACTOR = 6

#: How many responses that OpenAI no longer knows one event names; the others are named by the next.
_GONE = 500

#: Seconds between two tries while the ledger is unavailable.
_RETRY_BASE, _RETRY_CAP = 0.5, 15.0


class SetTrigger(BaseTrigger):
    """Fire once when there is something to do for a set: half of its responses have ended, or a batch has, a request
    may be sent, every job is decided, or a time has come.

    It holds ids only: what it waits for it reads from the ledger, also after the triggerer restarted, with the same
    absolute times. All that wait in one process share a hub. What OpenAI says of the responses is recorded together
    before it fires. The event is ``{"set_id", "gone", "not_now"}``, the second ``(job id, revision)`` of responses that
    OpenAI no longer knows.

    :param phase: what is waited for.
    :param since: of a review: when the task read the jobs last. Of a write: since when a job was approved, where the
        task waits for decisions. Absolute, ISO 8601.
    :param effect: of a write: the id of the task whose effects are waited for.
    :param not_now: how many times in a row the target has asked to come back later; handed back in the event.
    :param move_at: when what is not done by then is moved to a faster transport; absolute, ISO 8601.
    :param until: when it fires if anything has ended; absolute, ISO 8601.
    :param until_anyway: then, also if nothing has.
    :param not_before: absolute, ISO 8601; it does not fire before it.
    :param poll_interval: seconds between the first polls of a response, while no webhooks arrive.
    """

    def __init__(
        self,
        *,
        set_id: int,
        phase: Phase,
        ledger_conn_id: str,
        not_before: str,
        until: str,
        until_anyway: bool,
        poll_interval: float,
        since: str | None = None,
        effect: str | None = None,
        not_now: int = 0,
        move_at: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.set_id = set_id
        self.phase = phase
        self.ledger_conn_id = ledger_conn_id
        self.not_before = not_before
        self.until = until
        self.until_anyway = until_anyway
        self.poll_interval = poll_interval
        self.since = since
        self.effect = effect
        self.not_now = not_now
        self.move_at = move_at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: ids and times, no content and no secret."""
        names = ("set_id", "phase", "ledger_conn_id", "not_before", "until", "until_anyway", "poll_interval", "since")
        kwargs = {name: getattr(self, name) for name in (*names, "effect", "not_now", "move_at")}
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, fire once, and end."""
        hub = hub_for(self.ledger_conn_id)
        waits = await self._waits()
        # Where nothing is left to wait for, the task is to find that out now.
        until = self.until if waits or self.until_anyway else self.not_before
        responses = sum(isinstance(wait, ResponseWait) for wait in waits)
        ended = await hub.wait_for_some(
            waits,
            enough=-(-responses // 2),
            until=datetime.fromisoformat(until),
            anyway=self.until_anyway or not waits,
            of_set=self.set_id if self.phase == "draft" else None,
        )
        del waits
        known = [
            (wait.job_id, wait.revision, ResponseStatus(status))
            for wait, status in ended
            if isinstance(wait, ResponseWait) and status in ENDED_RESPONSE_STATUSES
        ]
        if known:
            await self._patiently(lambda ledger: ledger.sets.record_ended(known, actor=self._actor(ledger)))
        gone = [
            (wait.job_id, wait.revision) for wait, status in ended if isinstance(wait, PolledWait) and status == "gone"
        ]
        await hub.sleep_until(self.not_before)
        yield TriggerEvent({"set_id": self.set_id, "gone": gone[:_GONE], "not_now": self.not_now})

    async def _patiently(self, work: Callable[[Ledger], T]) -> T:
        """Do something with the ledger, in a thread, however long it is unavailable."""
        failures = 0
        while True:
            try:
                ledger = await shared_ledger_async(self.ledger_conn_id)
                return await asyncio.to_thread(work, ledger)
            except LedgerUnavailable as error:
                failures += 1
                pause = backoff(failures, base=_RETRY_BASE, cap=_RETRY_CAP)
                log.warning("The set %s waits for its ledger; next try in %.1f s: %s", self.set_id, pause, error.what)
            await asyncio.sleep(pause)

    def _actor(self, ledger: Ledger) -> Any:
        """The attempt that the trigger waits for; where it waits for none, the owner of the set."""
        owner = owner_of(self)
        if owner is not None:
            return owner.actor
        from airflow_provider_aihandoff.core.models import RECONCILER

        return RECONCILER

    async def _waits(self) -> list[Wait]:
        """What is waited for, one by one, as the ledger has it now."""
        if self.phase == "write":
            task_id = str(self.effect)
            effects = await self._patiently(lambda ledger: ledger.sets.waiting_effects(self.set_id, task_id))
            decisions = [] if self.since is None else [SetDecisionWait(self.set_id, task_id, self.since)]
            return [
                *(
                    EffectWait(e.job_id, e.effect_id, e.state.value, e.attempt, held=e.held_kind is not None)
                    for e in effects
                ),
                *decisions,
            ]
        review = self.phase == "review"
        rows = await self._patiently(
            lambda ledger: ledger.sets.waiting(self.set_id, changes=review, ended=not self.until_anyway)
        )
        waits = [self._wait(row) for row in rows]
        if review:
            return [*waits, SetReviewWait(self.set_id, str(self.since))]
        batches = await self._patiently(lambda ledger: ledger.batches.open_of_set(self.set_id))
        waits += [self._batch_wait(batch) for batch in batches]
        if waits and self.move_at is not None:
            waits.append(TimeWait(datetime.fromisoformat(self.move_at)))
        return waits

    def _batch_wait(self, batch: Batch) -> Wait:
        """A batch takes hours, as a rule: it is asked about seldom, and less often with time."""
        interval = self.poll_interval * BATCH_POLL_FACTOR
        wait = BatchWait(batch.batch_id, batch.provider_id, batch.conn_id, interval)
        wait.deadline = stops_at(batch) if batch.state is BatchState.RUNNING else batch.lease_until
        return wait

    def _wait(self, row: Waiting) -> Wait:
        wait: PolledWait
        if row.response_id is not None:
            wait = ResponseWait(row.job_id, row.number, row.response_id, row.conn_id, self.poll_interval)
        else:
            lease_until = (row.lease_until or row.deadline).isoformat()
            wait = SubmissionWait(row.job_id, row.number, row.handle, row.conn_id, self.poll_interval, lease_until)
        wait.deadline = row.deadline
        return wait

    async def on_kill(self) -> None:
        """Stop the jobs of the set if a person ended the task, and only then.

        Airflow also calls this when the trigger moves to another triggerer, and after a clear. A write that is under
        way is found out in any case.
        """
        await to_its_end(self._stop_if_ended())

    async def _stop_if_ended(self) -> None:
        owner = owner_of(self)
        states = {"failed"} if self.phase == "review" else ENDED_TASK_STATES
        if self.phase == "write" or owner is None or await task_state(owner) not in states:
            self.log.info("The task of set %s has not ended: its jobs go on.", self.set_id)
            return
        ledger = await shared_ledger_async(self.ledger_conn_id)
        if self.phase == "review":
            reason = "the task that waited for its decision was marked failed"
            await asyncio.to_thread(cancel_reviews, ledger, self.set_id, owner=owner, reason=reason)
        else:
            await self._stop_drafts(ledger, owner)

    async def _stop_drafts(self, ledger: Ledger, owner: Owner) -> None:
        reason = "the task was ended while it waited"
        for batch in await asyncio.to_thread(batches_to_stop, ledger, self.set_id, reason=reason):
            provider = await shared_provider(batch.conn_id)
            await async_batches_of(provider).cancel_batch(str(batch.provider_id))
        revisions = to_stop(ledger, self.set_id, owner=owner, reason=reason)
        while (revision := await asyncio.to_thread(next, revisions, None)) is not None:
            provider = await shared_provider(revision.conn_id)
            response = await provider.cancel(str(revision.response_id))
            await asyncio.to_thread(
                record_cancelled, ledger, provider, revision, response, actor=owner.actor, reason=reason
            )
