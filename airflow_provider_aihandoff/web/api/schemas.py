"""What the jobs API takes and gives."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
)

from airflow_provider_aihandoff.core import models
from airflow_provider_aihandoff.core.bulk import bulk_store
from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction
from airflow_provider_aihandoff.core.digests import without_plain_input_digest
from airflow_provider_aihandoff.core.generation.batch_provider import BatchStatus
from airflow_provider_aihandoff.core.job_requests.job_request import Standing
from airflow_provider_aihandoff.core.jobs import job_search_store, overview_store
from airflow_provider_aihandoff.core.jobs.job_filter import Need
from airflow_provider_aihandoff.core.rates.rate_limit import MOST, LimitKind, Measure
from airflow_provider_aihandoff.core.review.rules import Reviewers
from airflow_provider_aihandoff.core.sets.batch_record import BatchState
from airflow_provider_aihandoff.core.sets.set_record import LeftOutReason, SetPhase
from airflow_provider_aihandoff.core.sets.transport import Transport
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.api.record_fields import from_record
from airflow_provider_aihandoff.web.pages.bulk_table import GroupBy
from airflow_provider_aihandoff.web.pages.facets import Chosen, chosen_of

#: The largest `bigint` of PostgreSQL.
MAX_ID = 2**63 - 1
MAX_COMMENT = 10_000
MAX_EXTERNAL_ID = 1_000
MAX_NAMES = 1_000


def _clean_comment(value: Any) -> Any:
    """A comment as it is stored: without what PostgreSQL cannot store, line ends as a form's text area shows them."""
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
WebhookId = Annotated[str, Field(min_length=1, max_length=1_000)]
Number = Annotated[int, Field(ge=1, le=2**31 - 1, description="The number of a revision.")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="The job's `review_digest`, as you saw it.")]
Comment = Annotated[
    Annotated[str, Field(max_length=MAX_COMMENT)] | None,
    BeforeValidator(_clean_comment),
    Field(description="Why; kept in the job's history."),
]
Reason = Annotated[
    Annotated[str, Field(min_length=1, max_length=MAX_COMMENT)],
    BeforeValidator(_clean_reason),
    Field(description="Why; kept in the job's history."),
]
ExternalId = Annotated[
    Annotated[str, Field(max_length=MAX_EXTERNAL_ID)] | None,
    BeforeValidator(_clean_comment),
    Field(description="The id of the record in the target, if it was applied and has one."),
]
Attempt = Annotated[
    Annotated[int, Field(ge=1, le=2**31 - 1)] | None,
    Field(description="The `attempt` that you checked; the newest by default."),
]
Names = Annotated[list[str], Field(max_length=MAX_NAMES, description="Names of effects that are not undone.")]
LostAction = Literal["send again", "fail"]
Seen = Annotated[
    Annotated[int, Field(ge=1, le=2**31 - 1)],
    Field(description="The `unknown_submissions` of the revision that you saw."),
]
Reassigned = Annotated[int, Field(ge=0, le=2**31 - 1)]
#: Seconds for which an answer may be held back: proxies close what is silent for longer.
MAX_WAIT = 60
Wait = Annotated[int, Field(ge=0, le=MAX_WAIT, description="Seconds to wait for a change.")]
OwnVerdict = Literal["approve", "reject", "request changes"]
BulkVerdict = Literal["approve", "reject"]


class DecisionBody(BaseModel):
    """A decision. The decider is the logged-in user, and cannot be named here."""

    model_config = ConfigDict(extra="forbid")

    verdict: OwnVerdict
    digest: Digest
    comment: Comment = None


class CancelBody(BaseModel):
    """A request to cancel a job. It is recorded in the name of the logged-in user."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason


class AcknowledgementBody(BaseModel):
    """That a failure was seen. It is recorded in the name of the logged-in user."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason
    revision: Annotated[Number, Field(description="The number of the revision that failed, as you saw it.")]


class RollBackBody(BaseModel):
    """A request to undo what a job has written. It is recorded in the name of the logged-in user."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason
    leave: Names = []


_People = Annotated[list[Annotated[str, Field(min_length=1, max_length=500)]], Field(max_length=MAX_NAMES)]


class ApproversBody(BaseModel):
    """People, by their logins (or `cli:` and an account), roles and groups."""

    model_config = ConfigDict(extra="forbid")

    users: _People = []
    roles: _People = []
    groups: _People = []


class ReviewersBody(BaseModel):
    """Who may decide instead of those who are named now. What is empty stays as it is."""

    model_config = ConfigDict(extra="forbid")

    approvers: ApproversBody = ApproversBody()
    escalate_to: Annotated[ApproversBody, Field(description="Who may decide as well, once it is escalated.")] = (
        ApproversBody()
    )

    @property
    def reviewers(self) -> Reviewers:
        """The people."""
        return Reviewers.from_json(self.model_dump(include={"approvers", "escalate_to"}))


class ReassignBody(ReviewersBody):
    """Give a review to other people. It is recorded in the name of the logged-in user."""

    reason: Reason
    reassigned: Reassigned | None = Field(
        None, description="The `number` in the job's `reassigned` that you saw, 0 for none; by default as it is now."
    )


class SubmissionBody(BaseModel):
    """What to do about a request whose answer was lost. It is recorded in the name of the logged-in user."""

    model_config = ConfigDict(extra="forbid")

    action: LostAction
    reason: Reason
    unknown_submissions: Seen


class ResolutionBody(BaseModel):
    """The outcome of an effect whose outcome is unknown. It is recorded in the name of the logged-in user."""

    model_config = ConfigDict(extra="forbid")

    applied: StrictBool
    external_id: ExternalId = None
    reason: Reason
    attempt: Attempt = None

    @field_validator("external_id")
    @classmethod
    def _only_of_a_record(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("applied") is False:
            raise ValueError("an effect that was not applied has no record in the target")
        return value


def _as_choice(text: str) -> tuple[int, str]:
    job_id, _, digest = text.partition(":")
    return int(job_id), digest


#: One selected job with the digest that was seen, as the bulk review page writes it.
Selected = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,17}:[0-9a-f]{64}$")]
MAX_BULK = 10_000

#: Values of fields by which one group of a bulk review is narrowed at once.
MAX_CHOSEN = 8


def _as_chosen(text: str) -> str:
    return Chosen.of_address(text).as_address()


#: Values of fields, as :meth:`Chosen.as_address` writes them.
Where = Annotated[
    list[Annotated[str, Field(max_length=2_000), AfterValidator(_as_chosen)]], Field(max_length=MAX_CHOSEN)
]
Start = Annotated[int, Field(ge=0, le=1_000_000)]


class BulkScope(BaseModel):
    """Which jobs the bulk review page shows.

    :param set: only those of the set with this id.
    :param where: the values of fields that they have.
    :param start: how many jobs of the group come before the page.
    """

    by: GroupBy = GroupBy.TYPE
    group: Annotated[str | None, Field(max_length=64)] = None
    dag_id: str | None = None
    run_id: RunId = None
    set: JobId | None = None
    where: Where = []
    start: Start = 0

    @property
    def chosen(self) -> tuple[Chosen, ...]:
        """The values of fields that the jobs have."""
        return chosen_of(self.where)


def _as_choices(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


class BulkForm(BulkScope):
    """What a form of the bulk review sends: each selected job by a field of its own, or all jobs of a group in one."""

    verdict: BulkVerdict
    comment: Comment = None
    jobs: Annotated[list[Selected], BeforeValidator(_as_choices), Field(max_length=MAX_BULK)]

    @property
    def choices(self) -> list[tuple[int, str]]:
        """The selected jobs with the digests that were seen, each once."""
        return list(dict.fromkeys(map(_as_choice, self.jobs)))


class BulkAllForm(BulkForm):
    """What the form for all jobs of a group sends.

    :param count: the number of jobs, as the person has typed it.
    """

    count: Annotated[int, Field(ge=0, le=MAX_ID)]


class Choice(BaseModel):
    """One selected job, with the digest that was seen."""

    model_config = ConfigDict(extra="forbid")

    job_id: JobId
    digest: Digest


class BulkDecisionBody(BaseModel):
    """One decision on many jobs. The decider is the logged-in user."""

    model_config = ConfigDict(extra="forbid")

    verdict: BulkVerdict
    comment: Comment = None
    jobs: Annotated[list[Choice], Field(min_length=1, max_length=MAX_BULK)]

    @field_validator("jobs")
    @classmethod
    def _each_once(cls, value: list[Choice]) -> list[Choice]:
        if len({choice.job_id for choice in value}) < len(value):
            raise ValueError("a job is named twice")
        return value


class BulkPreviewBody(BaseModel):
    """A bulk action on the jobs that a filter finds."""

    model_config = ConfigDict(extra="forbid")

    action: BulkAction
    filter: Annotated[
        dict[str, Annotated[str, Field(max_length=2_000)] | list[str]],
        Field(max_length=20, description="The parameters of `GET /jobs`: at least one."),
    ]
    reviewers: Annotated[
        ReviewersBody, Field(description="Who may decide then: for the action `reassign`, and for no other.")
    ] = ReviewersBody()


class BulkBody(BulkPreviewBody):
    """A bulk action that you have seen before. It is recorded in the name of the logged-in user."""

    reason: Reason
    count: Annotated[int, Field(ge=0, le=MAX_ID, description="The `count` of the preview.")]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="The `digest` of the preview.")]


ScopeName = Annotated[str | None, Field(max_length=250, pattern=r"^[^\x00]*$")]


class PauseBody(BaseModel):
    """A pause. It is recorded in the name of the logged-in user."""

    model_config = ConfigDict(extra="forbid")

    conn_id: Annotated[str, Field(min_length=1, max_length=250)] | None = None
    job_type: Annotated[str, Field(min_length=1, max_length=250)] | None = None
    dag_id: Annotated[str, Field(min_length=1, max_length=250)] | None = None
    writes: bool = Field(False, description="External writes too; `conn_id` is then also that of a target.")
    reason: Reason


class PauseReasonBody(BaseModel):
    """Why a set is paused or a pause ends. It is recorded in the name of the logged-in user."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason


class TryLimitBody(BaseModel):
    """A connection whose limit of money you have raised."""

    model_config = ConfigDict(extra="forbid")

    conn_id: Annotated[str, Field(min_length=1, max_length=250)]


class _OneLimit(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: LimitKind
    name: Annotated[str, Field(min_length=1, max_length=250, description="The connection, or the key.")]
    measure: Measure
    reason: Reason


class LimitBody(_OneLimit):
    """A limit of speed. It is recorded in the name of the logged-in user."""

    amount: Annotated[int, Field(ge=0, le=MOST, description="In a period, or at once; 0 stops.")]
    per: Literal["second", "minute", "hour"] | None = Field(
        None, description="The period; by default a minute, of a target a second. Not of what is in flight."
    )
    weights: Annotated[dict[str, float], Field(max_length=1000)] | None = Field(
        None, description="What `type:NAME` and `requester:NAME` get beside the others, which have 1."
    )


class EndLimitBody(_OneLimit):
    """A limit of speed that ends. It is recorded in the name of the logged-in user."""


class EditBody(BaseModel):
    """A changed output. The author is the logged-in user."""

    model_config = ConfigDict(extra="forbid")

    digest: Digest
    output: Annotated[Any, Field(description="The whole output, in the form of the job's output type.")]


class EditForm(BaseModel):
    """What the edit form sends beside the output itself.

    :param revision: the number of the revision that it was filled with.
    :param do: ``save``, ``check``, ``add NAME`` or ``remove NAME``, with the name of a list or of a row in it.
    """

    digest: Digest
    revision: Annotated[int, Field(ge=1, le=2**31 - 1)]
    do: Annotated[str, Field(pattern=r"^(save|check|(add|remove) value(/[^\x00]*)?)$")]


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


@from_record(
    job_search_store.JobSummary,
    notes={
        "cost_usd": "Of all revisions whose price is known; null when there is none.",
        "unpriced": "How many revisions were billed at a price that is unknown.",
        "without_tools": "How many revisions called tools, such as web search, which are not in `cost_usd`.",
        "retries": "How many requests were sent again, over all its revisions.",
        "last_webhook_at": "When the newest webhook about it came; null if none did.",
        "external_ids": "Of the records that its applied effects have made, the first five.",
        "external_links": "The addresses of these records, in the same order; null for one that has none.",
    },
)
class JobItem(_Answer):
    """One job in a list, without its content."""


class JobList(_Answer):
    """A page of jobs."""

    jobs: list[JobItem]
    next: int | None = Field(description="Pass it as `after` for the next page; null on the last one.")


@from_record(overview_store.DayFigures, notes={"day": "In UTC.", "state": "In which they ended."})
class DayFigures(_Answer):
    """What ended on one day, of one type and in one state."""


@from_record(overview_store.DayWaits, notes={"model": "Seconds; a median.", "people": "Seconds; a median."})
class DayWaits(_Answer):
    """How long jobs that ended on one day have waited, of one type."""


@from_record(overview_store.ConnectionActivity, notes={"running": "How many responses run."})
class ConnectionActivity(_Answer):
    """What happens on one connection to a model provider."""


class Pause(_Answer):
    """A pause, and what it holds."""

    pause_id: int
    conn_id: str | None
    job_type: str | None
    dag_id: str | None
    set_id: int | None = Field(description="It is about the jobs of this set alone.")
    writes: bool = Field(description="It holds external writes too.")
    reason: str
    begun_by: str
    created_at: datetime
    ended_at: datetime | None = Field(description="`null` while it is in force.")
    ended_reason: str | None
    ended_by: str | None
    held_requests: int
    held_writes: int
    running: int = Field(description="Responses that run in its scope: it does not stop them.")


class PauseList(_Answer):
    """Pauses, those in force first."""

    pauses: list[Pause]


class SpendingLimit(_Answer):
    """A limit of money that the provider says is reached."""

    conn_id: str
    said: str = Field(description="What the provider answered last.")
    since: datetime
    tries: int = Field(description="Requests that got this answer, one after the other.")
    try_at: datetime = Field(description="When the next request may find out.")
    try_job_id: int


class SpendingLimitList(_Answer):
    """Limits of money that are reached, by connection."""

    limits: list[SpendingLimit]


class RateLimit(_Answer):
    """A limit of speed, and how much of it is used."""

    kind: LimitKind
    name: str
    measure: Measure
    amount: int | None = Field(description="What was set; null: only the other side has asked for less.")
    period: int | None = Field(description="In seconds; null: it counts what is in flight.")
    weights: dict[str, float]
    now: int | None = Field(description="What goes through now: less where the other side has asked for less.")
    used: int = Field(description="In the last period, or in flight.")
    waiting: int
    waiting_since: datetime | None
    paused_until: datetime | None = Field(description="Nothing is sent before: the other side has asked for it.")
    said: str | None = Field(description="What the other side answered.")


class LimitList(_Answer):
    """Limits of speed."""

    limits: list[RateLimit]


class LeftOutItem(_Answer):
    """An item of a set that has no job."""

    number: int = Field(description="Its place among the items, from 1.")
    reason: LeftOutReason
    why: str


class JobSet(_Answer):
    """Many jobs of one task, and what they add up to."""

    set_id: int
    set_type: str
    set_key: str
    requested_by: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    deadline: datetime
    items: int | None = Field(description="How many it has; null while not all of them are jobs.")
    created_at: datetime
    phase: SetPhase = Field(description="What it waits for first.")
    jobs: int
    states: dict[JobState, int]
    unknown: int = Field(description="Jobs with a write that may have been made.")
    held: int = Field(description="Requests and writes that a pause or a limit holds.")
    failures: dict[str, int] = Field(description="Jobs that failed, by the kind of the error.")
    cost_usd: Decimal = Field(description="As far as the prices are known.")
    unpriced: int = Field(description="Jobs that were billed at a price that is not known.")
    per_minute: float | None = Field(description="Responses that have ended in a minute.")
    minutes_to_answers: float | None = Field(description="Until the model has answered, at the rate so far.")
    expected_usd: Decimal | None = Field(description="The cost, if the rest costs as much as what is answered.")
    left_out: dict[str, int] = Field(description="Items without a job, by reason.")
    first_left_out: list[LeftOutItem]
    said: str = Field(description="All of it on one line.")
    transport: Transport = Field(description="How its requests are sent now.")
    transport_why: str | None = Field(description="Why; null where its author has named it.")
    complete_by: datetime | None = Field(description="When its outputs are wanted; null: as they come.")


class SetBatch(_Answer):
    """A batch of a set: many requests in one file."""

    batch_id: int
    state: BatchState
    lines: int = Field(description="Requests that it was made of.")
    completed: int | None = Field(description="Requests that the provider counts as completed; null: it has not said.")
    failed: int | None
    provider_id: str | None = Field(description="Its id at the provider.")
    provider_status: BatchStatus | None
    why: str | None = Field(description="Why it was abandoned, stopped or given up.")
    created_at: datetime
    sent_at: datetime | None
    ended_at: datetime | None


class OneJobSet(JobSet):
    """A set, with what is asked for of one alone."""

    paused: bool = Field(description="It is paused by itself; a pause may be about more than one set.")
    minutes_to_writes: float | None = Field(description="Until what is approved is written, at the rate so far.")
    batches: list[SetBatch]


class SetList(_Answer):
    """A page of sets."""

    sets: list[JobSet]


class JobRequestBody(BaseModel):
    """What you ask for. It is recorded in the name of the logged-in user."""

    model_config = ConfigDict(extra="forbid")

    type: Annotated[str, Field(min_length=1, max_length=500, description="One of `GET /job-types`.")]
    input: dict[str, Any] = Field(description="What the type takes.")
    key: Annotated[str, Field(min_length=1, max_length=2_000)] | None = Field(
        None, description="What identifies this piece of work among its kind. It is the job's key."
    )
    permissions: dict[str, Any] = Field({}, description="What the work may touch, for reviewers and policies.")
    requested_for: Annotated[str, Field(min_length=1, max_length=500)] | None = Field(
        None, description="The user for whom a service account asks."
    )


class JobType(_Answer):
    """A type of job that you may ask for."""

    type: str
    description: str
    dag_id: str
    is_paused: bool = Field(description="Whether its Dag is paused: requests wait then.")
    input_schema: dict[str, Any] = Field(description="What it takes, as a JSON schema.")
    max_bytes: int = Field(description="How large an input may be.")
    per_minute: int = Field(description="How many requests you may make in a minute.")
    shows_result: bool = Field(description="Whether a request has the `result` when it is done.")
    shows_draft: bool = Field(description="Whether its stream has what the model writes, before it is reviewed.")


class JobTypeList(_Answer):
    """The types of jobs that you may ask for."""

    job_types: list[JobType]


class MadeRecord(_Answer):
    """A record that the job has made in another system."""

    name: str
    external_id: str | None
    link: str | None


class JobRequest(_Answer):
    """A request for a job, as those who asked see it."""

    request_id: UUID
    type: str
    key: str
    state: Standing
    said: str = Field(description="The same as a sentence.")
    ended: bool = Field(description="Whether nothing more happens by itself.")
    requested_by: str
    sent_by: str | None = Field(description="The account that has asked for them; null: they did so themselves.")
    created_at: datetime
    changed_at: datetime
    job_id: int | None
    may_cancel: bool
    result: Any = Field(description="The output, when the job is done and its author shows it.")
    records: list[MadeRecord] = Field(description="What the job has made, when the result is shown.")
    href: str
    stream: str
    page: str


class Overview(_Answer):
    """What needs a person now, and the state of things, as far as you may see it."""

    needs: dict[Need, int] = Field(description="How many jobs need a person, by reason; 1,001 for more than 1,000.")
    quarantined: int = Field(description="Webhooks in quarantine; 1,001 for more than 1,000.")
    silent: list[str] = Field(description="The connections whose webhooks fell silent.")
    by_state: dict[JobState, int] = Field(description="Of the jobs that have ended, those of the last 14 days.")
    days: list[DayFigures]
    waits: list[DayWaits]
    connections: list[ConnectionActivity]


_JOB_INTERNAL = frozenset({"ti_id", "event_seq", "event_hash", "review_on_timeout", "decided_before"})
_JOB_NOTES = {
    "triggered_by": "The user who triggered the Dag run, if there is one.",
    "max_cost_usd": "Above this, the model is not asked for changes.",
    "review": "Who may decide, how many approvals are needed, when reviewers are notified, and why a review is needed.",
    "review_digest": "What a decision must name; null while there is no plan.",
    "escalated_at": "Since when the approvers of the escalation may decide as well.",
    "reassigned": "Who decides instead of those in `review`, who has said so (`by`), and how often (`number`).",
    "cancelling": "Why it is being cancelled, while its response or an effect is under way.",
    "acknowledged_at": "When a person saw that it failed; null while no one has.",
}


@from_record(models.Job, internal=_JOB_INTERNAL, notes=_JOB_NOTES)
class Job(_Answer):
    """The contract."""


@from_record(models.Job, internal=_JOB_INTERNAL | {"input", "permissions"}, notes=_JOB_NOTES)
class DecidedJob(_Answer):
    """A job of a decision on many, without its input."""


_REVISION_INTERNAL = frozenset(
    {"revision_id", "job_id", "request", "request_digest", "submit_token", "submit_lease_until"}
)
_REVISION_NOTES = {
    "author": "The login name or account of the person who edited; else `model`.",
    "author_id": "The id of a user who edited, where it is not the login name.",
    "based_on": "The number of the revision that it edits, or continues.",
    "changes": "What the model was asked to change.",
    "cost_usd": "Null: not billed, or the price is unknown. Without the `tool_calls` in `usage`.",
    "on_lost": "What its author wants after a lost request: `wait`, `ask` or `resend`; null: as the ledger decides.",
    "conversation_id": "OpenAI's conversation that was made for this revision alone.",
}


@from_record(models.Revision, internal=_REVISION_INTERNAL | {"output", "error"}, notes=_REVISION_NOTES)
class RevisionItem(_Answer):
    """One version of a job's output, without its content."""


@from_record(models.Revision, internal=_REVISION_INTERNAL, notes=_REVISION_NOTES)
class Revision(_Answer):
    """One version of a job's output."""


@from_record(
    models.Effect,
    internal=frozenset({"job_id", "claim_token", "created_at", "updated_at", "external_url"}),
    notes={
        "plan": "The exact request; secrets are masked.",
        "current": "What the target had when the plan was rendered: `at`, and `record` or `error`; null if unread.",
        "filled": "What earlier effects have brought, by the placeholders in the plan, the probe and the undo.",
        "undo": "The declared undo; of an effect that undoes another one, its options.",
        "after_effects": "Names of the effects that must be applied before this one.",
        "undoes": "The `effect_id` of the effect that this one undoes.",
        "claim_until": "Until then no other sender may send it, even if its sender has died.",
    },
)
class Effect(_Answer):
    """One intended write."""

    external_link: str | None = Field(
        description="The address of the record that it made, as its author declares it; null where that is not known."
    )


class EffectItem(Effect):
    """One intended write, in a list of those of several jobs."""

    job_id: int


class EffectList(_Answer):
    """A page of effects."""

    effects: list[EffectItem]
    next: int | None = Field(description="Pass it as `after` for the next page; null on the last one.")


@from_record(
    models.Decision,
    internal=frozenset({"job_id"}),
    notes={
        "decided_by": "A login name, an account, a policy or `timeout`, as `decided_by_kind` says.",
        "decided_by_id": "The id of a user, where it is not the login name.",
        "voided_at": "Since when it does not count, because the review was reassigned; else null.",
    },
)
class Decision(_Answer):
    """An answer to one exact digest."""


@from_record(
    models.Event,
    internal=frozenset({"job_id"}),
    notes={
        "actor": "Who, in words.",
        "actor_name": "A login name, an account, a policy, a connection or a program.",
        "actor_user_id": "The id of a user, where it is not the login name.",
        "hash_version": "2: the hash covers every field. 1: all but this and the `actor_` ones.",
    },
)
class Event(_Answer):
    """One line of a job's history."""

    detail: Annotated[dict[str, Any], AfterValidator(without_plain_input_digest)]


class ChangeCost(_Answer):
    """What a request for changes can cost now."""

    worst_usd: Decimal | None = Field(
        description="At most, with a comment of up to 1,000 characters; null where that is not known."
    )
    unknown: str | None = Field(description="Why it is not known.")
    held: str | None = Field(
        description="What would keep it from being sent now: a budget without room, or the bound of the job; else null."
    )


class JobRecord(_Answer):
    """Everything the ledger knows of one job."""

    job: Job
    revision: Revision = Field(description="The current revision.")
    revisions: list[RevisionItem]
    effects: list[Effect] = Field(description="Of every revision, in the order of the plan.")
    decisions: list[Decision]
    events: list[Event]
    votes: list[str] = Field(description="Who has approved the current version, while more approvals are needed.")
    may_decide: bool = Field(description="Whether you may decide on it.")
    why_not: str | None = Field(description="Why you may not.")
    explanation: str = Field(
        description="What is going on, what happens next by itself, whether a retry is safe, and what you can do."
    )
    waits_for: str | None = Field(description="Why no request is sent, after one was lost, and until when. Else null.")
    cost_of_changes: ChangeCost | None = Field(
        description="What a request for changes can cost; null where no one can ask for them now."
    )


@from_record(
    models.PendingReview,
    internal=frozenset({"voters"}),
    notes={
        "review": "Who may decide, how many approvals are needed, and why a review is needed.",
        "reassigned": "Who decides instead of those in `review`; null: no one.",
        "review_digest": "What a decision must name; null while there is no plan.",
    },
)
class PendingReview(_Answer):
    """A job that waits for a decision."""

    votes: list[str] = Field(description="Who has approved the current version.")
    mine: bool = Field(description="It waits for you: you may decide on it, and have not approved it yet.")
    why_not: str | None = Field(description="Why you may not decide on it.")


class ReviewList(_Answer):
    """The jobs that wait for a decision: yours first, and the oldest first."""

    reviews: list[PendingReview]
    total: int = Field(description="How many jobs wait.")
    mine: int = Field(description="How many of them wait for you.")


class BulkStep(_Answer):
    """What a bulk action would do to one job."""

    job_id: int
    job_key: str
    refused: bool = Field(description="Nothing would be done to it.")
    what: str = Field(description="What would be done, or why nothing.")


class BulkPreview(_Answer):
    """What a bulk action would do."""

    count: int = Field(description="To how many jobs something would be done.")
    refused: int
    digest: str = Field(description="What you confirm, together with `count`.")
    summary: list[str] = Field(description="What it would stop and write, and what its jobs have cost, as sentences.")
    cost_usd: Decimal = Field(description="What its jobs have cost so far, as far as it is known.")
    responses: dict[str, int] = Field(description="Responses that run and would be stopped, by job type.")
    writes: dict[str, int] = Field(description="External writes that it would make, by kind of target.")
    refusals: dict[str, int] = Field(description="Why nothing would be done, and to how many jobs.")
    jobs: list[BulkStep]


@from_record(bulk_store.Progress)
class BulkProgress(_Answer):
    """Numbers of jobs."""


@from_record(bulk_store.BulkJob, notes={"outcome": "Null: its step was not taken yet.", "note": "The result, as text."})
class BulkJob(_Answer):
    """What came of one job."""


class BulkReport(_Answer):
    """How far a bulk action has come."""

    bulk_id: int
    action: BulkAction
    reason: str
    filter: dict[str, Any]
    reviewers: dict[str, Any] | None = Field(description="Who may decide then, where it reassigns reviews.")
    created_at: datetime
    progress: BulkProgress
    over: bool = Field(description="Nothing is left to do.")
    jobs: list[BulkJob]


class BulkDecisionAnswer(_Answer):
    """The jobs, as they are after the decision."""

    jobs: list[DecidedJob]


class Unfinished(_Answer):
    """Why a roll-back is not finished."""

    reason: str
    retry_after: float | None = Field(
        description="Seconds after which to send the request again; null: first do what the reason says."
    )
    effect_id: int | None = Field(description="The undo that it waits for, if there is one.")


class RollBackAnswer(JobRecord):
    """The job, and how far its roll-back has come."""

    unfinished: Unfinished | None = Field(description="Null: everything is undone.")


class FieldError(_Answer):
    """What is wrong with one field of a request."""

    field: str
    message: str


class StaleJob(_Answer):
    """A job that a bulk decision could not decide on."""

    job_id: int
    detail: str


class Problem(_Answer):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    digest: str | None = Field(None, description="The job's current review digest, if a decision named another.")
    stale: list[StaleJob] = Field([], description="The jobs that a bulk decision could not decide on, and why.")
    errors: list[FieldError] = Field([], description="What is wrong with the request, field by field.")
