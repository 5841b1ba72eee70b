"""What the jobs API takes and gives."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationInfo, field_validator

from airflow_provider_aihandoff.ledger.records import Approval, DeciderKind, Verdict
from airflow_provider_aihandoff.states import EffectState, JobState, RevisionState

#: What PostgreSQL's `bigint` can hold.
MAX_ID = 2**63 - 1
MAX_COMMENT = 10_000
MAX_EXTERNAL_ID = 1_000
MAX_NAMES = 1_000


def _clean_comment(value: Any) -> Any:
    """A comment as it is kept: without what PostgreSQL cannot hold, line ends as a form's text area shows them."""
    if not isinstance(value, str):
        return value
    text = value.encode("utf-8", "replace").decode().replace("\x00", "").replace("\r\n", "\n").strip()
    return text or None


def _clean_reason(value: Any) -> Any:
    """A text that must be there: an empty one is too short."""
    return _clean_comment(value) or "" if isinstance(value, str) else value


JobId = Annotated[int, Field(ge=1, le=MAX_ID)]
EffectId = JobId
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="The job's `review_digest`, as you saw it.")]
Comment = Annotated[
    Annotated[str, Field(max_length=MAX_COMMENT)] | None,
    BeforeValidator(_clean_comment),
    Field(description="Why; goes on the record."),
]
Reason = Annotated[
    Annotated[str, Field(min_length=1, max_length=MAX_COMMENT)],
    BeforeValidator(_clean_reason),
    Field(description="Why; goes on the record."),
]
ExternalId = Annotated[
    Annotated[str, Field(max_length=MAX_EXTERNAL_ID)] | None,
    BeforeValidator(_clean_comment),
    Field(description="The id of the record in the target, where it was applied and has one."),
]
Attempt = Annotated[
    Annotated[int, Field(ge=1, le=2**31 - 1)] | None,
    Field(description="The `attempt` that you looked for; the newest where it is left out."),
]
Names = Annotated[list[str], Field(max_length=MAX_NAMES, description="Names of effects that are to stay as they are.")]
OwnVerdict = Literal["approve", "reject"]


class DecisionBody(BaseModel):
    """A decision. Who decides is known from the login, and cannot be said here."""

    model_config = ConfigDict(extra="forbid")

    verdict: OwnVerdict
    digest: Digest
    comment: Comment = None


class CancelBody(BaseModel):
    """A wish to stop a job. Who cancels is known from the login."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason


class RollBackBody(BaseModel):
    """A wish to take back what a job has written. Who does so is known from the login."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason
    leave: Names = []


class ResolutionBody(BaseModel):
    """What became of an effect whose outcome is not known. Who says so is known from the login."""

    model_config = ConfigDict(extra="forbid")

    applied: StrictBool
    external_id: ExternalId = None
    why: Reason
    attempt: Attempt = None

    @field_validator("external_id")
    @classmethod
    def _only_of_a_record(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("applied") is False:
            raise ValueError("what was not applied has no record in the target")
        return value


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class JobItem(_Answer):
    """One job in a list, without its content."""

    job_id: int
    job_type: str
    job_key: str
    state: JobState
    state_reason: str | None
    requested_by: str
    revision: int
    review_digest: str | None
    review_deadline: datetime | None
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    created_at: datetime
    updated_at: datetime
    cost_usd: Decimal | None = Field(description="Of all revisions whose price is known; null when there is none.")
    unpriced: int = Field(description="How many revisions were billed at a price that is unknown.")
    effects: int
    unknown_effects: int


class JobList(_Answer):
    """A page of jobs."""

    jobs: list[JobItem]
    next: int | None = Field(description="Pass it as `after` for the next page; null on the last one.")


class Job(_Answer):
    """The contract."""

    job_id: int
    job_type: str
    job_key: str
    state: JobState
    state_reason: str | None
    input: Any
    input_digest: str
    requested_by: str
    permissions: Any
    approval: Approval
    approval_reason: str | None
    max_revisions: int
    revision: int
    review_digest: str | None = Field(description="What a decision must name; null while there is no plan.")
    review_deadline: datetime | None
    decision_id: int | None
    cancelling: str | None = Field(
        description="Why it is being cancelled, while its response or an effect is under way."
    )
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    created_at: datetime
    updated_at: datetime


class RevisionItem(_Answer):
    """One version of a job's output, without its content."""

    number: int
    author: str
    state: RevisionState
    conn_id: str
    deadline: datetime
    submissions: int
    unknown_submissions: int
    response_id: str | None
    response_status: str | None
    output_digest: str | None
    usage: Any
    cost_usd: Decimal | None = Field(description="Null: not billed, or the price is unknown.")
    created_at: datetime
    submitted_at: datetime | None
    completed_at: datetime | None


class Revision(RevisionItem):
    """One version of a job's output."""

    output: Any
    error: Any


class Effect(_Answer):
    """One intended write."""

    effect_id: int
    revision: int
    name: str
    position: int
    kind: str
    effect_key: str
    state: EffectState
    plan: Any = Field(description="The exact request; secrets are masked.")
    plan_digest: str
    undo: Any = Field(description="The declared way back; of an effect that takes another one back, its options.")
    after_effects: list[str] = Field(description="Names of the effects that must be applied before this one.")
    undoes: int | None = Field(description="The `effect_id` of the effect that this one takes back.")
    attempt: int
    claimed_by: str | None
    claimed_at: datetime | None
    claim_until: datetime | None = Field(description="Until then nobody else sends it, even if its sender has died.")
    unknown_since: datetime | None
    external_id: str | None
    result: Any
    error: str | None


class Decision(_Answer):
    """An answer to one exact digest."""

    decision_id: int
    revision: int
    verdict: Verdict
    digest: str
    decided_by: str
    decided_by_kind: DeciderKind
    comment: str | None
    created_at: datetime


class Event(_Answer):
    """One line of a job's history."""

    seq: int
    at: datetime
    actor: str
    event: str
    from_state: str | None
    to_state: str
    reason: str | None
    detail: Any
    previous_hash: str
    hash: str


class JobRecord(_Answer):
    """Everything the ledger knows of one job."""

    job: Job
    revision: Revision = Field(description="The current revision.")
    revisions: list[RevisionItem]
    effects: list[Effect] = Field(description="Of every revision, in the order of the plan.")
    decisions: list[Decision]
    events: list[Event]
    may_decide: bool = Field(description="Whether you may decide on it.")


class Unfinished(_Answer):
    """What keeps a roll-back from going on."""

    why: str
    seconds: float | None = Field(description="When to send it again; null: when somebody has done something about it.")
    effect_id: int | None = Field(description="The undo that is waited for, where there is one.")


class RollBackAnswer(JobRecord):
    """The job, and how far its roll-back has come."""

    unfinished: Unfinished | None = Field(description="Null: everything is undone.")


class FieldError(_Answer):
    """What is wrong with one field of a request."""

    field: str
    message: str


class Problem(_Answer):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    digest: str | None = Field(None, description="The job's review digest now, where a decision named another.")
    errors: list[FieldError] = Field([], description="What is wrong with the request, field by field.")
