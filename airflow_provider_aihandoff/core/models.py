"""The rows of the ledger as frozen values. Each field is the column of the same name in `schema.sql`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from airflow_provider_aihandoff.core.external_link import external_link
from airflow_provider_aihandoff.core.invisible import escape
from airflow_provider_aihandoff.core.states import Disposition, EffectState, JobState, ResponseStatus, RevisionState
from airflow_provider_aihandoff.core.text import plain_or_none

Approval = Literal["required", "not required"]
Verdict = Literal["approve", "reject", "request changes"]
DeciderKind = Literal["user", "terminal", "policy", "timeout"]
AuthorKind = Literal["model", "user", "terminal"]
OnTimeout = Literal["reject", "fail"]
OnLost = Literal["wait", "ask", "resend"]
HeldKind = Literal["pause", "spending limit", "budget", "rate"]
PriorityName = Literal["interactive", "batch"]


class ActorKind(StrEnum):
    """What kind of actor takes a step."""

    TASK = "task"  # an attempt of a task
    USER = "user"  # a person who is logged in to Airflow
    TERMINAL = "terminal"  # a person at a terminal, by their account on that machine
    POLICY = "policy"
    TIMEOUT = "timeout"  # the time to decide has ended
    WEBHOOK = "webhook"  # a webhook on a connection
    RECONCILER = "reconciler"
    OTHER = "other"  # a program that uses the ledger itself, by the name that it gives


#: The kinds of actors that are people.
PERSON_KINDS = frozenset({ActorKind.USER, ActorKind.TERMINAL})


@dataclass(frozen=True)
class Actor:
    """Who takes a step, as facts. ``str()`` of it is what people read; nothing reads a fact out of that text.

    :param name: a person's login name or account, a policy's ``name@version``, a webhook's connection, or the name of
        another program. None for a task, the reconciler and the time-out.
    :param user_id: the auth manager's id of a user, where it is not the login name.
    :param map_index: -1 of a task that is not mapped.
    """

    kind: ActorKind
    name: str | None = None
    user_id: str | None = None
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int | None = None
    try_number: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", ActorKind(self.kind))
        for field in ("name", "user_id", "dag_id", "run_id", "task_id"):
            object.__setattr__(self, field, plain_or_none(getattr(self, field)))

    @classmethod
    def user(cls, login: str, user_id: str | None = None) -> Actor:
        """A person who is logged in to Airflow.

        :param user_id: the auth manager's id of them.
        """
        return cls(ActorKind.USER, login, None if user_id == login else user_id)

    @classmethod
    def terminal(cls, account: str) -> Actor:
        """A person at a terminal, by their account on that machine."""
        return cls(ActorKind.TERMINAL, account)

    @classmethod
    def policy(cls, label: str) -> Actor:
        """A policy.

        :param label: ``name@version``.
        """
        return cls(ActorKind.POLICY, label)

    @classmethod
    def webhook(cls, conn_id: str) -> Actor:
        """A webhook that came on an OpenAI connection."""
        return cls(ActorKind.WEBHOOK, conn_id)

    @classmethod
    def program(cls, name: str) -> Actor:
        """A program that uses the ledger itself: a test, or a script of an operator."""
        return cls(ActorKind.OTHER, name)

    @property
    def label(self) -> str:
        """How pages name them: ``alice (7)``, ``cli:bob``, ``small@1``."""
        match self.kind:
            case ActorKind.TASK:
                index = "" if self.map_index == -1 else f"[{self.map_index}]"
                return f"{self.dag_id}/{self.run_id}/{self.task_id}{index}#{self.try_number}"
            case ActorKind.USER:
                return f"{self.name}" if self.user_id is None else f"{self.name} ({self.user_id})"
            case ActorKind.TERMINAL:
                return f"cli:{self.name}"
            case ActorKind.TIMEOUT | ActorKind.RECONCILER:
                return self.kind.value
        return f"{self.name}"

    def __str__(self) -> str:
        match self.kind:
            case ActorKind.TASK | ActorKind.USER | ActorKind.POLICY | ActorKind.WEBHOOK:
                return f"{self.kind.value}:{self.label}"
            case ActorKind.TERMINAL:
                return f"user:{self.label}"
        return self.label

    @property
    def instance(self) -> tuple[str | None, str | None, str | None, int | None]:
        """The task instance of a task, at any attempt: Dag, run, task and map index."""
        return self.dag_id, self.run_id, self.task_id, self.map_index

    @property
    def is_whole(self) -> bool:
        """Whether exactly the facts of its kind are there."""
        own = _FACTS_OF.get(self.kind, {"name"})
        there = {each.name for each in fields(self) if getattr(self, each.name) is not None} - {"kind"}
        return there - {"user_id"} == own and ("user_id" not in there or self.kind is ActorKind.USER)


_FACTS_OF: dict[ActorKind, set[str]] = {
    ActorKind.TASK: {"dag_id", "run_id", "task_id", "map_index", "try_number"},
    ActorKind.TIMEOUT: set(),
    ActorKind.RECONCILER: set(),
}

TIMEOUT = Actor(ActorKind.TIMEOUT)
RECONCILER = Actor(ActorKind.RECONCILER)


@dataclass(frozen=True)
class Owner:
    """The task instance that a job belongs to now.

    :param ti_id: the id of the task instance, new after a clear; with ``try_number`` it names one attempt.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    ti_id: str
    try_number: int

    @property
    def actor(self) -> Actor:
        """The attempt, as the history names it."""
        return Actor(
            ActorKind.TASK,
            dag_id=self.dag_id,
            run_id=self.run_id,
            task_id=self.task_id,
            map_index=self.map_index,
            try_number=self.try_number,
        )


@dataclass(frozen=True)
class JobSpec:
    """What a task asks for.

    :param input: the snapshot of everything that decides what the model is asked; its digest shows whether two
        tasks with the same key ask for the same work.
    :param request: the arguments of the request for a new revision: the input and how it is to be processed.
    :param deadline: how long a new revision may take, by the database's clock, or until when.
    :param triggered_by: the user who triggered the Dag run, if a user has, also where ``requested_by`` names another.
    :param max_cost_usd: no request is sent that could make the job cost more.
    :param on_lost: what to do about a request whose answer was lost; None: as :mod:`core.generation.lost` decides.
    :param tags: what its author calls the work, for budgets and reports.
    :param priority: as of a :class:`Revision`, and so are ``rate_key``, ``max_wait``, ``expected_output_tokens`` and
        ``unpriced_usd``.
    :param regenerate: make a new revision in any case, unless a task of the same Dag run has made one.
    :param shown_input: the input as the ledger keeps it, where secrets are masked; by default as it is. The digest is
        that of the input itself.
    :param shown_request: the same for the request.
    :param set_id: the set that the task asks for it in.
    """

    job_type: str
    job_key: str
    input: dict[str, Any]
    request: dict[str, Any]
    conn_id: str
    requested_by: str
    permissions: dict[str, Any]
    approval: Approval
    approval_reason: str | None
    max_revisions: int
    deadline: timedelta | datetime
    owner: Owner
    shown_input: dict[str, Any] | None = None
    shown_request: dict[str, Any] | None = None
    regenerate: bool = False
    triggered_by: str | None = None
    max_cost_usd: Decimal | None = None
    on_lost: OnLost | None = None
    tags: tuple[str, ...] = ()
    priority: PriorityName = "batch"
    rate_key: str | None = None
    max_wait: timedelta | None = None
    expected_output_tokens: int | None = None
    unpriced_usd: Decimal | None = None
    set_id: int | None = None

    @property
    def kept_input(self) -> dict[str, Any]:
        """The input as the ledger keeps it."""
        return self.input if self.shown_input is None else self.shown_input

    @property
    def kept_request(self) -> dict[str, Any]:
        """The request as the ledger keeps it."""
        return self.request if self.shown_request is None else self.shown_request


@dataclass(frozen=True)
class Job:
    """A job, as the ledger has it at one moment."""

    job_id: int
    job_type: str
    job_key: str
    state: JobState
    state_reason: str | None
    input: dict[str, Any]
    input_digest: str
    requested_by: str
    permissions: dict[str, Any]
    approval: Approval
    approval_reason: str | None
    max_revisions: int
    revision: int
    review_digest: str | None
    review_deadline: datetime | None
    decision_id: int | None
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    ti_id: str
    try_number: int
    event_seq: int
    event_hash: str
    created_at: datetime
    updated_at: datetime
    review_on_timeout: OnTimeout | None
    cancelling: str | None
    triggered_by: str | None
    max_cost_usd: Decimal | None
    review: dict[str, Any] | None
    review_asked_at: datetime | None
    reminded_at: datetime | None
    escalated_at: datetime | None
    decided_before: int | None
    reassigned: dict[str, Any] | None
    acknowledged_at: datetime | None
    tags: list[str]
    set_id: int | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", JobState(self.state))

    @property
    def label(self) -> str:
        """How messages name the job: on one line, without a character that a terminal or a log would obey."""
        return _label(self)

    @property
    def owner(self) -> Owner:
        """The task instance that the job belongs to now."""
        return Owner(self.dag_id, self.run_id, self.task_id, self.map_index, self.ti_id, self.try_number)


@dataclass(frozen=True)
class JobHead:
    """What a line of its history needs of a job: of many at once, the inputs would be much to read."""

    job_id: int
    job_type: str
    job_key: str
    state: JobState
    revision: int
    event_seq: int
    event_hash: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", JobState(self.state))

    @property
    def label(self) -> str:
        """How messages name the job, as :attr:`Job.label`."""
        return _label(self)


@dataclass(frozen=True)
class Revision:
    """One version of a job's output.

    :param author: the login name or account of the person who edited; ``model`` where ``author_kind`` says so.
    :param author_id: the auth manager's id of a user who edited, where it is not the login name.
    :param based_on: the number of the revision that it edits, or changes at a reviewer's wish.
    :param changes: the reviewer's words that the model was asked to follow.
    :param on_lost: what its author wants after a request whose answer was lost; None: as :mod:`core.generation.lost`
        decides.
    :param conversation_id: the provider's handle that was made for this revision alone; it tells what became of a lost
        request.
    :param held_kind: what kind of thing holds its request back now, ``held_name``: which one, and ``held_why``: why, as
        a sentence; None where nothing does.
    :param worst_cost_usd: what one request for it can cost at most; None before it was asked for, and where that is not
        known.
    :param priority: who waits for it: a person at their desk, or a batch.
    :param rate_key: the name of limits that it counts for, beside those of its connection.
    :param max_wait: for how long it waits for a limit of speed; None: until its deadline.
    :param refusals: how many of its requests were refused for now, or never sent; not for a limit of money.
    :param expected_output_tokens: what its author expects at most, where the request sets no bound.
    :param unpriced_usd: the most that one request costs, as its author says, where that is not known otherwise.
    :param model: that its request names; None where it names none.
    :param batch_id: of the batch that its request is in, or was answered in; None where it is sent by itself.
    """

    revision_id: int
    job_id: int
    number: int
    author: str
    state: RevisionState
    conn_id: str
    request: dict[str, Any]
    request_digest: str
    deadline: datetime
    submissions: int
    unknown_submissions: int
    submit_token: UUID | None
    submit_lease_until: datetime | None
    response_id: str | None
    response_status: ResponseStatus | None
    output: Any
    output_digest: str | None
    error: dict[str, Any] | None
    usage: dict[str, Any] | None
    cost_usd: Decimal | None
    created_at: datetime
    submitted_at: datetime | None
    completed_at: datetime | None
    based_on: int | None
    changes: str | None
    author_kind: AuthorKind
    author_id: str | None
    on_lost: OnLost | None
    conversation_id: str | None
    held_kind: HeldKind | None
    held_name: str | None
    held_why: str | None
    held_since: datetime | None
    worst_cost_usd: Decimal | None
    priority: PriorityName
    rate_key: str | None
    max_wait: timedelta | None
    refusals: int
    expected_output_tokens: int | None
    unpriced_usd: Decimal | None
    model: str | None
    batch_id: int | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", RevisionState(self.state))
        if self.response_status is not None:
            object.__setattr__(self, "response_status", ResponseStatus(self.response_status))

    @property
    def is_in_batch(self) -> bool:
        """Whether its request is in a batch that has not left a result of it: it has no response to ask about."""
        return self.batch_id is not None and self.state in (RevisionState.SUBMITTING, RevisionState.RUNNING)

    @property
    def may_be_in_batch(self) -> bool:
        """Whether its request can go into a batch: none was sent before, and no reviewer waits for it."""
        unsent = self.state is RevisionState.QUEUED and self.unknown_submissions == 0 and self.conversation_id is None
        return unsent and self.changes is None

    @property
    def is_lost(self) -> bool:
        """Whether a request may have been accepted, its response is not known, and no attempt is sending now."""
        lost = self.state is RevisionState.SUBMITTING and self.submit_token is None
        return lost and self.unknown_submissions > 0

    @property
    def is_held(self) -> bool:
        """Whether its request is not sent for now, and no attempt is sending one."""
        unsent = self.state in (RevisionState.QUEUED, RevisionState.SUBMITTING) and self.submit_token is None
        return unsent and self.held_kind is not None

    @property
    def editor(self) -> Actor | None:
        """The person who edited; None where the model wrote it."""
        return None if self.author_kind == "model" else Actor(ActorKind(self.author_kind), self.author, self.author_id)


@dataclass(frozen=True)
class Decision:
    """An answer to one exact digest.

    :param decided_by: a login name, an account, a policy's ``name@version``, or ``timeout``: ``decided_by_kind`` says
        which.
    :param decided_by_id: the auth manager's id of a user, where it is not the login name.
    :param voided_at: since when it does not count: the review was reassigned, and they may no longer decide.
    """

    decision_id: int
    job_id: int
    revision: int
    verdict: Verdict
    digest: str
    decided_by: str
    decided_by_kind: DeciderKind
    comment: str | None
    created_at: datetime
    decided_by_id: str | None
    voided_at: datetime | None

    @property
    def decider(self) -> Actor:
        """Who decided."""
        kind = ActorKind(self.decided_by_kind)
        return TIMEOUT if kind is ActorKind.TIMEOUT else Actor(kind, self.decided_by, self.decided_by_id)


@dataclass(frozen=True)
class PendingReview:
    """A job that waits for a decision: as much of it as the review queue needs.

    :param voters: who has approved what it says now, each person once, the first one first.
    """

    job_id: int
    job_type: str
    job_key: str
    dag_id: str
    run_id: str
    requested_by: str
    triggered_by: str | None
    review: dict[str, Any] | None
    reassigned: dict[str, Any] | None
    review_digest: str | None
    review_deadline: datetime | None
    review_asked_at: datetime | None
    escalated_at: datetime | None
    created_at: datetime
    voters: list[Actor]


@dataclass(frozen=True)
class QueueGroup:
    """Jobs that wait for a decision and are alike: of one run and type, asked for by the same people, with the same
    rules and the same votes.

    :param voters: as of :class:`PendingReview`.
    :param escalated_at: when the first of them was escalated; None where none is: a group has escalated jobs alone, or
        none.
    :param planned: whether they have a plan to decide on.
    :param places: the place of each job in the whole queue, of which the first one waits longest.
    :param digests: the review digest of each job, where it was asked for.
    """

    dag_id: str
    run_id: str
    job_type: str
    requested_by: str
    triggered_by: str | None
    review: dict[str, Any] | None
    reassigned: dict[str, Any] | None
    escalated_at: datetime | None
    voters: list[Actor]
    planned: bool
    job_ids: list[int]
    places: list[int]
    digests: list[str | None]


@dataclass(frozen=True)
class EffectPlan:
    """One intended write, rendered.

    :param name: the effect's name within its job, by default the id of the task that applies it.
    :param kind: what sends it: ``http``, ``postgres``, or the class of the operator.
    :param plan: the exact request. It is stored as ``shown``, where secrets are masked.
    :param undo: the declared undo as it may be shown, or None: see :mod:`core.effects.undo`.
    :param after: names of the effects that must be applied before this one.
    :param current: what the target has now, for the reviewer: ``{"at", "record"}``, or ``{"at", "error"}`` where it
        could not be read. Not part of what is approved: the target may change later.
    :param find_counts: False: the probe was tried when the plan was rendered, and saw what it is to find.
    :param probe_note: what that trial showed, where the reviewer should know.
    :param task_id: the task that applies it.
    :param skipped: its author's condition leaves it out: there is nothing to send.
    :param names: the placeholders in the plan that name an earlier effect. They are filled in when it is claimed.
    :param other_names: those in its probe and its undo.
    :param rate_key: as of a :class:`Revision`, and so is ``priority``.
    :param answer_fields: the fields of its target's answer that later effects name, as paths such as ``.data.id``.
    :param external_url: where its record can be seen, with ``{external_id}`` in it.
    """

    name: str
    kind: str
    plan: dict[str, Any]
    plan_digest: str
    shown: dict[str, Any]
    undo: dict[str, Any] | None = None
    after: tuple[str, ...] = ()
    current: dict[str, Any] | None = None
    find_counts: bool = True
    probe_note: str | None = None
    task_id: str | None = None
    skipped: bool = False
    names: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()
    answer_fields: tuple[str, ...] = ()
    #: Not part of what is approved: it is never sent, and an author may correct it without asking a person again. The
    #: record that it leads to is there only after the write.
    external_url: str | None = None
    rate_key: str | None = None
    priority: PriorityName = "batch"


@dataclass(frozen=True)
class Effect:
    """One intended write, as the ledger has it at one moment.

    :param claim_until: until then the claim belongs to its owner, even if the owner has died.
    :param undoes: the id of the effect that this one undoes.
    :param result: what is kept of the target's answer. Of an unknown effect: the target confirmed it, and its probe
        sees no trace.
    :param resends: how often it was sent again after an unknown outcome, since a person last resolved it.
    :param not_now: the target answered the newest attempt with "not now".
    :param find_counts: False: its probe saw the same before anything was sent, so that a find proves nothing.
    :param own: it was applied by this effect, as far as the ledger knows; otherwise it was there before.
    :param probe_note: what its probe saw that a person should know.
    :param task_id: the task that applies it; None for an undo, and where an earlier release planned it.
    :param filled: what earlier effects have brought, by the placeholders of the plan, of the probe and of the undo;
        None before it is claimed, and where it names none.
    :param held_kind: as of a :class:`Revision`.
    :param held_until: when it may be asked for again; None: when what holds it has ended.
    :param external_url: where its record can be seen, as its author declared it; :attr:`external_link` fills it in.
    :param rate_key: as of a :class:`Revision`; None before it is claimed.
    :param conn_id: of its target, for limits; None before it is claimed, and where it has none.
    """

    effect_id: int
    job_id: int
    revision: int
    name: str
    position: int
    kind: str
    effect_key: str
    state: EffectState
    plan: dict[str, Any]
    plan_digest: str
    undo: dict[str, Any] | None
    attempt: int
    claim_token: UUID | None
    claimed_by: str | None
    claimed_at: datetime | None
    external_id: str | None
    result: dict[str, Any] | None
    error: str | None
    created_at: datetime
    updated_at: datetime
    claim_until: datetime | None
    unknown_since: datetime | None
    after_effects: list[str]
    undoes: int | None
    current: dict[str, Any] | None
    resends: int
    not_now: bool
    find_counts: bool
    own: bool
    probe_note: str | None
    task_id: str | None
    filled: dict[str, str] | None
    held_kind: HeldKind | None
    held_name: str | None
    held_why: str | None
    held_since: datetime | None
    held_until: datetime | None
    external_url: str | None
    rate_key: str | None
    conn_id: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", EffectState(self.state))

    @property
    def external_link(self) -> str | None:
        """The address of its record; None where that is not known."""
        return external_link(self.external_url, self.external_id)

    @property
    def as_plan(self) -> EffectPlan:
        """What it would send, where nothing in it is masked."""
        return EffectPlan(
            self.name, self.kind, self.plan, self.plan_digest, self.plan, self.undo, tuple(self.after_effects)
        )


@dataclass(frozen=True)
class Event:
    """One line of a job's history.

    :param actor: who, as text: ``str()`` of :attr:`by`.
    :param hash_version: which fields the hash covers; 1 covers none of the facts of who acted.
    """

    job_id: int
    seq: int
    at: datetime
    actor: str
    event: str
    from_state: str | None
    to_state: str
    reason: str | None
    detail: dict[str, Any]
    previous_hash: str
    hash: str
    actor_kind: ActorKind
    actor_name: str | None
    actor_user_id: str | None
    actor_dag_id: str | None
    actor_run_id: str | None
    actor_task_id: str | None
    actor_map_index: int | None
    actor_try_number: int | None
    hash_version: int

    @property
    def by(self) -> Actor:
        """Who, as facts."""
        return Actor(**{each.name: getattr(self, f"actor_{each.name}") for each in fields(Actor)})


@dataclass(frozen=True)
class InboxEntry:
    """One webhook that was accepted, however often it was delivered.

    :param deliveries: how often it came.
    :param polls: how often OpenAI was asked about its response.
    :param poll_at: when to ask next; None where there is nothing to ask.
    :param note: the result, as text.
    """

    webhook_id: str
    conn_id: str
    event_type: str
    response_id: str | None
    body: dict[str, Any]
    disposition: Disposition
    job_id: int | None
    deliveries: int
    received_at: datetime
    updated_at: datetime
    polls: int
    poll_at: datetime | None
    note: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "disposition", Disposition(self.disposition))


def _label(job: Job | JobHead) -> str:
    return escape(f"job {job.job_id} ({job.job_type} {job.job_key}, revision {job.revision})")


def columns(record: type, prefix: str = "", *, without: frozenset[str] = frozenset()) -> str:
    """The column list of a record, so that a later schema may add columns.

    :param prefix: a table alias to put before each.
    :param without: columns that are not read.
    """
    names = (field.name for field in fields(record) if field.name not in without)
    return ", ".join(f"{prefix}.{name}" if prefix else name for name in names)
