"""Stops the jobs of a set whose task was ended: what was not sent, the responses that run, and the reviews."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.generation.batch_provider import batches_of
from airflow_provider_aihandoff.core.generation.provider import ProviderFor
from airflow_provider_aihandoff.core.generation.stop import cancel, record_cancelled
from airflow_provider_aihandoff.core.models import Owner, Revision
from airflow_provider_aihandoff.core.sets.batch_record import Batch, BatchState
from airflow_provider_aihandoff.core.states import JobState

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import Ledger


def stop_set(ledger: Ledger, provider_for: ProviderFor, set_id: int, *, owner: Owner, reason: str) -> None:
    """Cancel each job of a set that has no output yet, and its response at OpenAI; as long as this attempt owns it."""
    for batch in batches_to_stop(ledger, set_id, reason=reason):
        batches_of(provider_for(batch.conn_id)).cancel(str(batch.provider_id))
    for revision in to_stop(ledger, set_id, owner=owner, reason=reason):
        provider = provider_for(revision.conn_id)
        response = cancel(provider, str(revision.response_id))
        record_cancelled(ledger, provider, revision, response, actor=owner.actor, reason=reason)


def batches_to_stop(ledger: Ledger, set_id: int, *, reason: str) -> list[Batch]:
    """Record of each batch of a set that runs that it is to be stopped, and return them.

    What they have run by then is recorded by the reconciler: its cost, and nothing else.
    """
    found = [
        batch
        for batch in ledger.batches.open_of_set(set_id)
        if batch.set_id == set_id and batch.state is BatchState.RUNNING
    ]
    why = f"{reason[:1].upper()}{reason[1:].rstrip('.')}."
    return [ledger.batches.cancel_requested(batch, why=why) for batch in found]


def to_stop(ledger: Ledger, set_id: int, *, owner: Owner, reason: str) -> Iterator[Revision]:
    """Cancel what was not sent, and record of each response that runs that it is to be cancelled, before it is yielded.

    :param owner: the attempt that was ended: what belongs to another one by now goes on.
    """
    after = 0
    while page := ledger.sets.jobs(set_id, [JobState.QUEUED, JobState.RUNNING], after=after):
        for job in page:
            if job.state is JobState.QUEUED:
                ledger.cancels.cancel_unsent(job.job_id, owner=owner, actor=owner.actor, reason=reason)
                continue
            revision = ledger.outputs.request_cancel(job.job_id, owner=owner, actor=owner.actor, reason=reason)
            if revision is not None and revision.is_in_batch:
                ledger.outputs.cancelled(job.job_id, revision.number, actor=owner.actor, reason=reason, status=None)
            elif revision is not None and revision.response_id is not None:
                yield revision
        after = page[-1].job_id


def cancel_reviews(ledger: Ledger, set_id: int, *, owner: Owner, reason: str) -> None:
    """Cancel each job of a set that waits for a decision, as long as it belongs to the run of this task."""
    after = 0
    while page := ledger.sets.jobs(set_id, [JobState.REVIEW], after=after):
        for job in page:
            ledger.cancels.cancel_review(job.job_id, run=(owner.dag_id, owner.run_id), actor=owner.actor, reason=reason)
        after = page[-1].job_id
