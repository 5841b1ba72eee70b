"""The steps for a job whose output nobody waits for. Each says in words what became of it.

None trusts what it was decided on: where the job has had another event since, nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.core.generation.openai.outcome import terminal_status
from airflow_provider_aihandoff.core.generation.stop import cancel, ended_by_itself, give_up, record_cancelled
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import RECONCILER
from airflow_provider_aihandoff.core.reconcile.diagnose import is_overdue
from airflow_provider_aihandoff.core.reconcile.findings import MOVED_ON
from airflow_provider_aihandoff.core.reconcile.scan_store import InFlight
from airflow_provider_aihandoff.core.states import JobState

if TYPE_CHECKING:
    from openai import OpenAI


#: Why a response is stopped before its deadline.
TASK_ENDED = "its task has ended, and nobody waits for its response"


class NoAnswer(RuntimeError):
    """What OpenAI answers says nothing about the response."""


def keep_deadline(ledger: Ledger, client: OpenAI, job: InFlight) -> str:
    """End a response past its deadline and fail its job; where it has ended, leave its output to the task.

    :raises OpenAIError: OpenAI could not be asked; nothing was changed.
    :raises NoAnswer: the answer makes no sense; nothing was changed.
    """
    import openai

    assert job.response_id is not None
    if ledger.job(job.job_id).event_seq != job.event_seq:
        return MOVED_ON
    try:
        status = _status_now(client, job.response_id)
    except openai.NotFoundError:
        give_up(ledger, client, job.job_id, job.number, why="gone", actor=RECONCILER)
        return _became(ledger, job)
    status = status or give_up(ledger, client, job.job_id, job.number, why="deadline", actor=RECONCILER)
    return _leave_output(ledger, job, status) if status else _became(ledger, job)


def stop(ledger: Ledger, client: OpenAI, job: InFlight, *, nobody_waits: Callable[[], bool]) -> str:
    """Cancel a response whose task has ended, and its job. One that has ended is paid for, and left to the task.

    :param nobody_waits: says at the last moment whether no task has come back for it.
    :raises OpenAIError: OpenAI could not be asked; nothing was changed.
    :raises NoAnswer: OpenAI does not say what became of the response; the wish to cancel may be on the record.
    """
    import openai

    assert job.response_id is not None
    try:
        status = _status_now(client, job.response_id)
    except openai.NotFoundError:
        return "nothing: OpenAI does not find it now, and it has until its deadline"
    if status:
        return _leave_output(ledger, job, status)
    if not nobody_waits():
        return MOVED_ON
    revision = ledger.outputs.request_cancel(
        job.job_id, owner=job.owner, actor=RECONCILER, reason=TASK_ENDED, as_of=job.event_seq
    )
    if revision is None:
        return MOVED_ON
    response = cancel(client, job.response_id)
    if status := ended_by_itself(response, job.response_id):
        return _leave_output(ledger, job, status)
    if response is None:
        raise NoAnswer(f"OpenAI does not say whether it has stopped {job.response_id}")
    record_cancelled(ledger, revision, response, actor=RECONCILER, reason=TASK_ENDED)
    return _became(ledger, job)


def end_unsent(ledger: Ledger, job: InFlight) -> str:
    """Fail a job whose deadline passed before a request was accepted; before then, count the request that was lost."""
    if not is_overdue(job):
        reason = "an attempt ended without saying what came of its request"
        done = ledger.abandoned.count_lost(job.job_id, job.number, as_of=job.event_seq, actor=RECONCILER, reason=reason)
        return "counted; until its deadline a webhook may bring its response" if done else MOVED_ON
    reason = f"the deadline passed before a request was accepted: {job.deadline.isoformat()}"
    error = {"kind": "deadline"}
    ledger.outputs.fail(job.job_id, job.number, actor=RECONCILER, reason=reason, error=error, as_of=job.event_seq)
    return _became(ledger, job)


def _status_now(client: OpenAI, response_id: str) -> str | None:
    """The status of a response that has ended; None while it runs."""
    response: Any = client.responses.retrieve(response_id)
    if getattr(response, "id", None) != response_id:
        raise NoAnswer(f"asked OpenAI for {response_id}, got something else")
    return terminal_status(response, response_id)


def _leave_output(ledger: Ledger, job: InFlight, status: str) -> str:
    ledger.outputs.ended(job.job_id, job.number, status=status, actor=RECONCILER)
    return f"it has ended ({status}): its output is left for the draft task, which takes it when it runs"


def _became(ledger: Ledger, job: InFlight) -> str:
    after = ledger.job(job.job_id)
    if after.state in (JobState.FAILED, JobState.CANCELLED):
        return f"the job is {after.state} ({after.state_reason})"
    return MOVED_ON
