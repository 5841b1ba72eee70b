"""The steps for a job whose output no task waits for. Each returns its result as text.

None relies on what was found: where the job has had another event since, nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_aihandoff.core.generation.provider import ModelProvider, ProviderError, ResponseNotFound
from airflow_provider_aihandoff.core.generation.stop import cancel, give_up, record_cancelled
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import RECONCILER
from airflow_provider_aihandoff.core.reconcile.diagnose import is_overdue
from airflow_provider_aihandoff.core.reconcile.findings import MOVED_ON
from airflow_provider_aihandoff.core.reconcile.scan_store import InFlight
from airflow_provider_aihandoff.core.sets.batch_read import advance
from airflow_provider_aihandoff.core.sets.batch_record import Batch, BatchState
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus, RevisionState

#: Why a batch is stopped before its deadline.
BATCH_TASK_ENDED = "Its task has ended, and no task waits for its outputs."

#: Why a response is stopped before its deadline.
TASK_ENDED = "its task has ended, and no task waits for its response"


def keep_deadline(ledger: Ledger, provider: ModelProvider, job: InFlight) -> str:
    """End a response past its deadline and fail its job; where it has ended, leave its output to the task.

    :raises ProviderError: OpenAI could not be asked, or its answer is not valid; nothing was changed.
    """
    assert job.response_id is not None
    if ledger.job(job.job_id).event_seq != job.event_seq:
        return MOVED_ON
    try:
        status = _status_now(provider, job.response_id)
    except ResponseNotFound:
        give_up(ledger, provider, job.job_id, job.number, why="gone", actor=RECONCILER)
        return _became(ledger, job)
    status = status or give_up(ledger, provider, job.job_id, job.number, why="deadline", actor=RECONCILER)
    return _leave_output(ledger, job, status) if status else _became(ledger, job)


def stop(ledger: Ledger, provider: ModelProvider, job: InFlight, *, is_orphaned: Callable[[], bool]) -> str:
    """Cancel a response whose task has ended, and its job. One that has ended is paid for, and left to the task.

    :param is_orphaned: checks at the last moment that no task has come back for it.
    :raises ProviderError: OpenAI does not say what became of the response; the wish to cancel may be on the record.
    """
    assert job.response_id is not None
    try:
        status = _status_now(provider, job.response_id)
    except ResponseNotFound:
        return "nothing yet: OpenAI does not find the response now, and it has until its deadline"
    if status:
        return _leave_output(ledger, job, status)
    if not is_orphaned():
        return MOVED_ON
    revision = ledger.outputs.request_cancel(
        job.job_id, owner=job.owner, actor=RECONCILER, reason=TASK_ENDED, as_of=job.event_seq
    )
    if revision is None:
        return MOVED_ON
    response = cancel(provider, job.response_id)
    if response is None:
        raise ProviderError(
            f"OpenAI does not say whether it has stopped {job.response_id}.", remedy="The next run asks again."
        )
    if response.ended_by_itself:
        return _leave_output(ledger, job, response.status)
    record_cancelled(ledger, provider, revision, response, actor=RECONCILER, reason=TASK_ENDED)
    return _became(ledger, job)


def stop_batch(ledger: Ledger, provider: ModelProvider, batch: Batch) -> str:
    """Stop a batch whose task has ended, and record what its requests that were given up have cost.

    What it has run of the others is paid for, and left to the task.

    :raises ProviderError: OpenAI could not be asked; the wish to stop it may be on the record.
    """
    after = advance(ledger, provider, batch, output_type=None, actor=RECONCILER, stop=BATCH_TASK_ENDED, late_only=True)
    left = "; clear the draft task to take its outputs" if after.state is BatchState.ENDED else ""
    return f"it is {after.in_words()}{left}"


def end_unsent(ledger: Ledger, job: InFlight) -> str:
    """Fail a job whose deadline passed before a request was accepted; before then, count the request that was lost."""
    if not is_overdue(job):
        reason = "an attempt ended without recording the outcome of its request"
        done = ledger.abandoned.count_lost(job.job_id, job.number, as_of=job.event_seq, actor=RECONCILER, reason=reason)
        return "counted; until its deadline a webhook may bring its response" if done else MOVED_ON
    lost = job.state is RevisionState.SUBMITTING
    what = "it was known whether the request was accepted" if lost else "a request was accepted"
    reason = f"the deadline passed before {what}: {job.deadline.isoformat()}"
    error = {"kind": "deadline"}
    ledger.outputs.fail(job.job_id, job.number, actor=RECONCILER, reason=reason, error=error, as_of=job.event_seq)
    return _became(ledger, job)


def _status_now(provider: ModelProvider, response_id: str) -> ResponseStatus | None:
    """The status of a response that has ended; None while it runs."""
    response = provider.retrieve(response_id)
    return response.status if response.ended else None


def _leave_output(ledger: Ledger, job: InFlight, status: ResponseStatus) -> str:
    ledger.outputs.ended(job.job_id, job.number, status=status, actor=RECONCILER)
    return f"it has ended ({status}): its output is left for the draft task, which takes it when it runs"


def _became(ledger: Ledger, job: InFlight) -> str:
    after = ledger.job(job.job_id)
    if after.state in (JobState.FAILED, JobState.CANCELLED):
        return f"the job is {after.state} ({after.state_reason})"
    return MOVED_ON
