"""A request for a job, as the ledger has it, and how it stands in the words of those who asked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.states import JobState


class RequestState(StrEnum):
    """How far a request has come, until it is a job."""

    RECORDED = "recorded"  # no run of its Dag is known
    STARTED = "started"  # a run of its Dag was made for it
    JOB = "job"  # it was seen as a job, whose state says the rest
    REFUSED = "refused"  # it is not what its type takes; only one that was enqueued
    FAILED = "failed"  # no run could be made for it, or the run ended without a job
    CANCELLED = "cancelled"  # before there was a job


class Standing(StrEnum):
    """How a request stands, for those who asked."""

    QUEUED = "queued"
    WORKING = "working"
    IN_REVIEW = "in review"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in (Standing.DONE, Standing.STOPPED, Standing.FAILED)


@dataclass(frozen=True)
class JobRequest:
    """A request for a job.

    :param requested_by: who asked: the login, or the user whom a service account or a program named.
    :param requested_by_id: the auth manager's id of a login, where it is not the login name.
    :param recorded_by: the login that sent it; the role of the database session of one that was enqueued.
    :param recorded_by_kind: ``user``, or ``database``.
    :param idempotency_key: as the sender gave it, unique among theirs.
    :param state_reason: why it is in this state; or, of one that was recorded, why no run was made yet.
    :param dag_id: the run that was made for it, with ``run_id``.
    :param tries: how often making a run was begun.
    :param events_show_result: its author puts the output into the event that it is done.
    """

    request_id: UUID
    job_type: str
    job_key: str
    input: Any
    permissions: Any
    requested_by: str
    requested_by_id: str | None
    recorded_by: str
    recorded_by_kind: str
    idempotency_key: str | None
    state: RequestState
    state_reason: str | None
    dag_id: str | None
    run_id: str | None
    created_at: datetime
    updated_at: datetime
    try_at: datetime
    tries: int
    events_show_result: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", RequestState(self.state))

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"Request {self.request_id} ({self.job_type})"

    @property
    def own_run_id(self) -> str:
        """The id of the one run that is ever made for it."""
        return f"request__{self.request_id}"

    @property
    def conf(self) -> dict[str, Any]:
        """What the run gets."""
        return {
            "id": str(self.request_id),
            "type": self.job_type,
            "key": self.job_key,
            "input": self.input,
            "permissions": self.permissions,
            "requested_by": self.requested_by,
        }

    @property
    def sender(self) -> str | None:
        """The account that asked for someone else; None where those who asked did so themselves."""
        return self.recorded_by if (self.requested_by, "user") != (self.recorded_by, self.recorded_by_kind) else None

    def is_of(self, login: str, user_id: str | None) -> bool:
        """Whether a login is the requester, or the account that asked for them.

        :param user_id: the auth manager's id of it: another user may have the same login name by now.
        """
        if self.requested_by == login and self.requested_by_id in (None, user_id):
            return True
        return (self.recorded_by_kind, self.recorded_by) == ("user", login)

    def is_same(self, wanted: Wanted) -> bool:
        """Whether something that is wanted now is what this request has asked for."""
        theirs = (self.job_type, self.input, self.permissions, self.requested_by)
        ours = (wanted.job_type, wanted.input, wanted.permissions, wanted.requested_by)
        return canonical_json(theirs) == canonical_json(ours) and wanted.job_key in (None, self.job_key)


@dataclass(frozen=True)
class Wanted:
    """What someone asks for.

    :param job_key: what identifies this piece of work among its kind; None: the request itself does.
    """

    job_type: str
    input: Mapping[str, Any]
    requested_by: str
    job_key: str | None = None
    permissions: Mapping[str, Any] | None = None
    requested_by_id: str | None = None
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "permissions", self.permissions or {})


#: What a state of the job is for those who asked, and what is said of it.
_OF_JOB: Mapping[JobState, tuple[Standing, str]] = {
    JobState.QUEUED: (Standing.QUEUED, "It waits for the model."),
    JobState.RUNNING: (Standing.WORKING, "The model works on it."),
    JobState.REVIEW: (Standing.IN_REVIEW, "It waits for a decision."),
    JobState.APPROVED: (Standing.WORKING, "It was accepted, and is carried out next."),
    JobState.APPLYING: (Standing.WORKING, "It was accepted, and is being carried out."),
    JobState.COMPLETED: (Standing.DONE, "It is done."),
    JobState.REJECTED: (Standing.STOPPED, "It was not accepted."),
    JobState.FAILED: (Standing.FAILED, "It failed. Those who run it can see why."),
    JobState.CANCELLED: (Standing.STOPPED, "It was cancelled."),
    JobState.ROLLING_BACK: (Standing.STOPPED, "What it did is being undone."),
    JobState.ROLLED_BACK: (Standing.STOPPED, "What it did was undone."),
}
_OF_REQUEST: Mapping[RequestState, tuple[Standing, str]] = {
    RequestState.RECORDED: (Standing.QUEUED, "It is recorded, and begins in a moment."),
    RequestState.STARTED: (Standing.QUEUED, "It has begun, and waits for its first step."),
    RequestState.JOB: (Standing.QUEUED, "It has begun."),
    RequestState.REFUSED: (Standing.FAILED, "It was refused."),
    RequestState.FAILED: (Standing.FAILED, "It could not be begun. Those who run it can see why."),
    RequestState.CANCELLED: (Standing.STOPPED, "It was cancelled before it began."),
}

#: Where those who asked may still stop it: nothing is being carried out.
_CANCELLABLE = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.REVIEW})


def standing_of_job(state: JobState) -> Standing:
    """How a job in a state stands, for those who asked."""
    return _OF_JOB[state][0]


def standing_of_ended(state: RequestState) -> Standing:
    """How a request stands that is no job."""
    return _OF_REQUEST[state][0]


def standing_of(request: JobRequest, state: JobState | None) -> tuple[Standing, str]:
    """How a request stands, and a sentence about it. No word of a reviewer is in it.

    :param state: the state of its job; None while there is none.
    """
    if state is not None:
        return _OF_JOB[state]
    standing, said = _OF_REQUEST[request.state]
    if request.state is RequestState.REFUSED:
        return standing, f"{said} {request.state_reason}"
    if request.state is RequestState.RECORDED and request.tries > 1:
        return standing, "It is recorded. It could not be begun yet, and is tried again."
    return standing, said


def may_cancel(request: JobRequest, state: JobState | None) -> bool:
    """Whether those who asked may stop it now."""
    if state is not None:
        return state in _CANCELLABLE
    return request.state in (RequestState.RECORDED, RequestState.STARTED)
