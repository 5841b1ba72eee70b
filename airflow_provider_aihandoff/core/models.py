"""The rows of the ledger as frozen values. Each field is the column of the same name in `schema.sql`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from airflow_provider_aihandoff.core.review.rules import ReviewRules
from airflow_provider_aihandoff.core.states import Disposition, EffectState, JobState, RevisionState

Approval = Literal["required", "not required"]
Verdict = Literal["approve", "reject", "request changes"]
DeciderKind = Literal["user", "policy", "timeout"]
OnTimeout = Literal["reject", "fail"]

#: How :attr:`Owner.actor` names an attempt. Only the id of a run may hold a slash.
_ACTOR = re.compile(r"task:([^/]+)/(.+)/([^/\[\]#]+)(?:\[(\d+)\])?#(\d+)")


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
    def actor(self) -> str:
        """The attempt, as the history names it."""
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"task:{self.dag_id}/{self.run_id}/{self.task_id}{index}#{self.try_number}"

    @classmethod
    def from_actor(cls, actor: str) -> Owner | None:
        """The attempt that the history names, without the id of its task instance; None where it is no task."""
        match = _ACTOR.fullmatch(actor)
        if match is None:
            return None
        dag_id, run_id, task_id, index, try_number = match.groups()
        return cls(dag_id, run_id, task_id, -1 if index is None else int(index), "", int(try_number))


@dataclass(frozen=True)
class JobSpec:
    """What a task asks for.

    :param input: the snapshot of everything that decides what the model is asked; its digest tells whether two
        tasks with the same key ask for the same work.
    :param request: the arguments of the request for a new revision: the input and how it is to be processed.
    :param deadline: the absolute time until which a new revision may take.
    :param triggered_by: the user who triggered the Dag run, if somebody has, whoever ``requested_by`` names.
    :param max_cost_usd: no further revision by the model is asked for once those there are have cost as much.
    :param regenerate: make a new revision, whatever there is, unless a task of the same Dag run has made one.
    :param shown_input: the input as the ledger keeps it, where secrets are masked; by default as it is. The digest is
        that of the input itself.
    :param shown_request: the same for the request.
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
    deadline: datetime
    owner: Owner
    shown_input: dict[str, Any] | None = None
    shown_request: dict[str, Any] | None = None
    regenerate: bool = False
    triggered_by: str | None = None
    max_cost_usd: Decimal | None = None

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", JobState(self.state))

    @property
    def rules(self) -> ReviewRules:
        """Who may decide on it, and how many have to."""
        return ReviewRules.from_json(self.review)

    @property
    def label(self) -> str:
        """How messages name the job."""
        return f"job {self.job_id} ({self.job_type} {self.job_key}, revision {self.revision})"

    @property
    def owner(self) -> Owner:
        """The task instance that the job belongs to now."""
        return Owner(self.dag_id, self.run_id, self.task_id, self.map_index, self.ti_id, self.try_number)


@dataclass(frozen=True)
class Revision:
    """One version of a job's output.

    :param author: ``model``, or the person who edited.
    :param based_on: the number of the revision that it edits, or changes at a reviewer's wish.
    :param changes: the reviewer's words that the model was asked to follow.
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
    response_status: str | None
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", RevisionState(self.state))


@dataclass(frozen=True)
class Decision:
    """An answer to one exact digest."""

    decision_id: int
    job_id: int
    revision: int
    verdict: Verdict
    digest: str
    decided_by: str
    decided_by_kind: DeciderKind
    comment: str | None
    created_at: datetime


@dataclass(frozen=True)
class PendingReview:
    """A job that waits for a decision: as much of it as tells whose turn it is.

    :param voters: who has approved what it says now, the first one first.
    """

    job_id: int
    job_type: str
    job_key: str
    dag_id: str
    run_id: str
    requested_by: str
    triggered_by: str | None
    review: dict[str, Any] | None
    review_digest: str | None
    review_deadline: datetime | None
    review_asked_at: datetime | None
    escalated_at: datetime | None
    created_at: datetime
    voters: list[str]

    @property
    def rules(self) -> ReviewRules:
        """Who may decide on it, and how many have to."""
        return ReviewRules.from_json(self.review)


@dataclass(frozen=True)
class EffectPlan:
    """One intended write, rendered.

    :param name: the effect's name within its job, by default the id of the task that applies it.
    :param kind: what sends it: ``http``, ``postgres``, or the class of the operator.
    :param plan: the exact request. It is stored as ``shown``, where secrets are masked.
    :param undo: the declared way back as it may be shown, or None: see :mod:`core.effects.undo`.
    :param after: names of the effects that must be applied before this one.
    :param current: what the target has now, for whoever decides: ``{"at", "record"}``, or ``{"at", "error"}`` where it
        could not be read. No part of what is approved: the target goes on changing.
    """

    name: str
    kind: str
    plan: dict[str, Any]
    plan_digest: str
    shown: dict[str, Any]
    undo: dict[str, Any] | None = None
    after: tuple[str, ...] = ()
    current: dict[str, Any] | None = None


@dataclass(frozen=True)
class Effect:
    """One intended write, as the ledger has it at one moment.

    :param claim_until: until then the claim is its holder's, even if the holder has died.
    :param undoes: the id of the effect that this one takes back.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", EffectState(self.state))

    @property
    def as_plan(self) -> EffectPlan:
        """What it would send, where nothing in it is masked."""
        return EffectPlan(
            self.name, self.kind, self.plan, self.plan_digest, self.plan, self.undo, tuple(self.after_effects)
        )


@dataclass(frozen=True)
class Event:
    """One line of a job's history."""

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


@dataclass(frozen=True)
class InboxEntry:
    """One webhook that was accepted, however often it was delivered.

    :param deliveries: how often it came.
    :param looks: how often OpenAI was asked about its response.
    :param look_at: when to ask next; None where there is nothing to ask.
    :param note: what came of it, in words.
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
    looks: int
    look_at: datetime | None
    note: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "disposition", Disposition(self.disposition))


def columns(record: type, prefix: str = "") -> str:
    """The column list of a record, so that a later schema may add columns beside them.

    :param prefix: a table alias to put before each.
    """
    return ", ".join(f"{prefix}.{field.name}" if prefix else field.name for field in fields(record))
