"""What is wrong with a job that waits for its output while no task waits for the job, and the next step. Pure.

There is no next step while its task is alive, or may be; except that a deadline always counts.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from airflow_provider_aihandoff.core.reconcile.scan_store import InFlight
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES, RevisionState

#: How long after a deadline it is left to a task: a task that waits for it comes first.
DEADLINE_GRACE = timedelta(seconds=60)

#: How long a job is left alone whose task has ended: its attempt may still be recording something.
TASK_GRACE = timedelta(seconds=120)


class TaskState(StrEnum):
    """What Airflow says of the task instance that a job belongs to."""

    ALIVE = "alive"  # it runs, waits, or will run (again)
    ENDED = "ended"  # it no longer runs, unless a user clears it
    SKIPPED = "skipped"  # it has ended without having run
    MISSING = "missing"  # Airflow does not know it
    UNKNOWN = "unknown"  # Airflow could not be asked

    @property
    def has_ended(self) -> bool:
        """Whether it no longer runs, unless a user clears it."""
        return self in (TaskState.ENDED, TaskState.SKIPPED)

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, or Airflow does not know it."""
        return self.has_ended or self is TaskState.MISSING


class Diagnosis(StrEnum):
    """What may be wrong with a job that waits for its output."""

    OVERDUE = "past its deadline"  # and its response may still run
    ABANDONED = "abandoned response"  # it runs, and its task has ended
    OUTPUT_LEFT = "output left"  # it has ended, and its task too
    LOST = "lost submission"  # a request was sent, its response is not known, and its task has ended
    NEVER_SENT = "never submitted"  # its deadline passed before a request was accepted
    TASK_UNKNOWN = "task unknown"  # one of these, perhaps


def diagnose(job: InFlight, task: TaskState) -> Diagnosis | None:
    """What is wrong with a job, given the state of the task instance that it belongs to; None where nothing is."""
    if job.state is RevisionState.RUNNING:
        return _diagnose_running(job, task)
    found = _diagnose_unsent(job)
    if found is None or task is TaskState.ALIVE:
        return None
    if task is TaskState.UNKNOWN:
        return Diagnosis.TASK_UNKNOWN
    # A missing task may not have ended: its job has until the deadline.
    return found if task.has_ended or is_overdue(job) else None


def is_overdue(job: InFlight) -> bool:
    """Whether the deadline has passed, and the time left to tasks that wait has passed too."""
    return job.at - job.deadline >= DEADLINE_GRACE


def _diagnose_running(job: InFlight, task: TaskState) -> Diagnosis | None:
    ended = job.response_status in ENDED_RESPONSE_STATUSES
    if is_overdue(job) and not ended:
        return Diagnosis.OVERDUE
    if job.at - job.updated_at < TASK_GRACE or task is TaskState.ALIVE:
        return None
    if task is TaskState.UNKNOWN:
        return Diagnosis.TASK_UNKNOWN
    if ended:
        return Diagnosis.OUTPUT_LEFT
    return Diagnosis.ABANDONED if task.has_ended else None


def _diagnose_unsent(job: InFlight) -> Diagnosis | None:
    if job.state is RevisionState.QUEUED:
        return Diagnosis.NEVER_SENT if is_overdue(job) else None
    if job.submit_lease_until is not None and job.submit_lease_until > job.at:
        return None  # the request may be in transit, or its response is waited for
    lost = job.unsettled and job.at - job.updated_at >= TASK_GRACE
    return Diagnosis.LOST if lost or is_overdue(job) else None


def in_words(job: InFlight, diagnosis: Diagnosis, task: TaskState) -> tuple[str, str]:
    """What was found, and the next step."""
    if diagnosis is Diagnosis.OVERDUE:
        found = f"the response {job.response_id} is past its deadline ({job.deadline.isoformat(timespec='seconds')})"
        return found, "ask OpenAI; unless it has ended, cancel it and fail the job"
    if diagnosis is Diagnosis.ABANDONED:
        found = f"the response {job.response_id} runs, and its task has ended"
        return found, "ask OpenAI; unless it has ended, cancel it and the job"
    if diagnosis is Diagnosis.OUTPUT_LEFT:
        found = f"the response {job.response_id} has ended ({job.response_status}), and its task is {task}"
        return found, "clear the draft task to take its output"
    if diagnosis is Diagnosis.TASK_UNKNOWN:
        return "the state of its task is not known", "left to the next run"
    if is_overdue(job):
        return f"its deadline passed before a request was accepted, and its task is {task}", "fail the job"
    return "the answer to its request was lost, and its task has ended", "count the request as unknown"
