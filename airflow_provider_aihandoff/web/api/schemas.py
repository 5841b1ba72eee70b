"""What the jobs API takes and gives."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationInfo, field_validator

from airflow_provider_aihandoff.core.models import ActorKind, Approval, AuthorKind, DeciderKind, Verdict
from airflow_provider_aihandoff.core.states import EffectState, JobState, RevisionState
from airflow_provider_aihandoff.web.pages.bulk_table import GroupBy

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
RunId = Annotated[str | None, Field(pattern=r"^[^\x00]*$")]
EffectId = JobId
Number = Annotated[int, Field(ge=1, le=2**31 - 1, description="The number of a revision.")]
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
OwnVerdict = Literal["approve", "reject", "request changes"]
BatchVerdict = Literal["approve", "reject"]


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


def _as_choice(text: str) -> tuple[int, str]:
    job_id, _, digest = text.partition(":")
    return int(job_id), digest


#: One job of a batch with the digest that was seen, as the batch page writes it.
Chosen = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,17}:[0-9a-f]{64}$")]
MAX_BATCH = 1_000


class BatchScope(BaseModel):
    """What a batch page is about."""

    by: GroupBy = GroupBy.TYPE
    group: Annotated[str | None, Field(max_length=64)] = None
    dag_id: str | None = None
    run_id: RunId = None


class BatchForm(BatchScope):
    """What the form of a batch page says."""

    verdict: BatchVerdict
    comment: Comment = None
    jobs: Annotated[list[Chosen], Field(max_length=MAX_BATCH)]

    @property
    def choices(self) -> list[tuple[int, str]]:
        """The selected jobs with the digests that were seen, each once."""
        return list(dict.fromkeys(map(_as_choice, self.jobs)))


class Choice(BaseModel):
    """One job of a batch, with the digest that was seen."""

    model_config = ConfigDict(extra="forbid")

    job_id: JobId
    digest: Digest


class BatchBody(BaseModel):
    """One answer to many jobs. Who decides is known from the login."""

    model_config = ConfigDict(extra="forbid")

    verdict: BatchVerdict
    comment: Comment = None
    jobs: Annotated[list[Choice], Field(min_length=1, max_length=MAX_BATCH)]

    @field_validator("jobs")
    @classmethod
    def _each_once(cls, value: list[Choice]) -> list[Choice]:
        if len({choice.job_id for choice in value}) < len(value):
            raise ValueError("a job is named twice")
        return value


class EditBody(BaseModel):
    """A changed output. Who changes it is known from the login."""

    model_config = ConfigDict(extra="forbid")

    digest: Digest
    output: Annotated[Any, Field(description="The whole output, as the job's output type has it.")]


class EditForm(BaseModel):
    """What the edit form says beside the output itself.

    :param revision: the number of the revision that it was filled with.
    :param do: ``save``, ``check``, ``add NAME`` or ``remove NAME``, with the name of a list or of a row in it.
    """

    digest: Digest
    revision: Annotated[int, Field(ge=1, le=2**31 - 1)]
    do: Annotated[str, Field(pattern=r"^(save|check|(add|remove) value(/[^\x00]*)?)$")]


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
    triggered_by: str | None = Field(description="The user who triggered the Dag run, if somebody has.")
    permissions: Any
    approval: Approval
    approval_reason: str | None
    max_revisions: int
    max_cost_usd: Decimal | None = Field(description="Above this, the model is not asked for changes.")
    revision: int
    review: Any = Field(
        description="Who may decide and how many have to, when reviewers are told, and why a person is asked."
    )
    review_digest: str | None = Field(description="What a decision must name; null while there is no plan.")
    review_deadline: datetime | None
    review_asked_at: datetime | None
    reminded_at: datetime | None
    escalated_at: datetime | None = Field(description="Since when those of the escalation may decide as well.")
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
    author: str = Field(description="The login name or account of the person who edited; else `model`.")
    author_kind: AuthorKind
    author_id: str | None = Field(description="The id of a user who edited, where it is not the login name.")
    based_on: int | None = Field(description="The number of the revision that it edits, or continues.")
    changes: str | None = Field(description="What the model was asked to change.")
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
    current: Any = Field(
        description="What the target had when the plan was rendered: `at`, and `record` or `error`; null if unread."
    )
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
    decided_by: str = Field(description="A login name, an account, a policy or `timeout`, as `decided_by_kind` says.")
    decided_by_id: str | None = Field(description="The id of a user, where it is not the login name.")
    decided_by_kind: DeciderKind
    comment: str | None
    created_at: datetime


class Event(_Answer):
    """One line of a job's history."""

    seq: int
    at: datetime
    actor: str = Field(description="Who, in words.")
    actor_kind: ActorKind
    actor_name: str | None = Field(description="A login name, an account, a policy, a connection or a program.")
    actor_user_id: str | None = Field(description="The id of a user, where it is not the login name.")
    actor_dag_id: str | None
    actor_run_id: str | None
    actor_task_id: str | None
    actor_map_index: int | None
    actor_try_number: int | None
    event: str
    from_state: str | None
    to_state: str
    reason: str | None
    detail: Any
    previous_hash: str
    hash: str
    hash_version: int = Field(description="2: the hash covers every field. 1: all but this and the `actor_` ones.")


class JobRecord(_Answer):
    """Everything the ledger knows of one job."""

    job: Job
    revision: Revision = Field(description="The current revision.")
    revisions: list[RevisionItem]
    effects: list[Effect] = Field(description="Of every revision, in the order of the plan.")
    decisions: list[Decision]
    events: list[Event]
    votes: list[str] = Field(description="Who has approved what it says now, where it waits for more.")
    may_decide: bool = Field(description="Whether you may decide on it.")
    why_not: str | None = Field(description="Why you may not.")


class PendingReview(_Answer):
    """A job that waits for a decision."""

    job_id: int
    job_type: str
    job_key: str
    dag_id: str
    run_id: str
    requested_by: str
    triggered_by: str | None
    review: Any = Field(description="Who may decide and how many have to, and why a person is asked.")
    review_digest: str | None = Field(description="What a decision must name; null while there is no plan.")
    review_deadline: datetime | None
    review_asked_at: datetime | None
    escalated_at: datetime | None
    created_at: datetime
    votes: list[str] = Field(description="Who has approved what it says now.")
    mine: bool = Field(description="It waits for you: you may decide on it, and have not approved it yet.")
    why_not: str | None = Field(description="Why you may not decide on it.")


class ReviewList(_Answer):
    """What waits for a decision: yours first, and what waits longest first."""

    reviews: list[PendingReview]
    total: int = Field(description="How many wait.")
    mine: int = Field(description="How many of them wait for you.")


class BatchAnswer(_Answer):
    """The jobs, as they are after the decision."""

    jobs: list[Job]


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


class StaleJob(_Answer):
    """A job that a batch could not decide on."""

    job_id: int
    detail: str


class Problem(_Answer):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    digest: str | None = Field(None, description="The job's review digest now, where a decision named another.")
    stale: list[StaleJob] = Field([], description="The jobs that a batch could not decide on, and why.")
    errors: list[FieldError] = Field([], description="What is wrong with the request, field by field.")
