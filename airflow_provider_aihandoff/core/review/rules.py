"""Who may decide on a job, how many have to, and when people are told. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.models import Job, PendingReview

#: What stands before the name of a person at a terminal, who is known by their account on that machine.
TERMINAL = "cli:"


@dataclass(frozen=True)
class Approvers:
    """The people who may decide: everybody who is named in one of these ways. With none, whoever may for the Dag.

    :param users: login names.
    :param roles: roles, where Airflow's auth manager has them.
    :param groups: groups (or teams), where it has them.
    """

    users: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for each in fields(self):
            names = getattr(self, each.name)
            if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
                raise ValueError(f"{each.name} must be a list of names, not {names!r}.")
            object.__setattr__(self, each.name, tuple(names))

    def __bool__(self) -> bool:
        return bool(self.users or self.roles or self.groups)

    def __contains__(self, person: Person) -> bool:
        return bool(
            person.all_names & set(self.users) or person.roles & set(self.roles) or person.groups & set(self.groups)
        )

    def __str__(self) -> str:
        parts = [*self.users, *(f"the role {name}" for name in self.roles), *(f"the group {n}" for n in self.groups)]
        return ", ".join(parts) or "whoever may answer human-in-the-loop tasks of the Dag"


@dataclass(frozen=True)
class Person:
    """Somebody who decides.

    :param name: how decisions name them.
    :param names: their login name and id, where these are others.
    :param roles: as the auth manager has them.
    :param groups: as the auth manager has them.
    """

    name: str
    names: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    @property
    def all_names(self) -> frozenset[str]:
        """Every name that an author can mean them by."""
        return self.names | {self.name}

    @property
    def may_be(self) -> frozenset[str]:
        """Every name that they may be known by: somebody at a terminal may have the same login as in Airflow."""
        return self.all_names | {name.removeprefix(TERMINAL) for name in self.all_names}


@dataclass(frozen=True)
class ReviewRules:
    """What a job's author says about its review.

    :param approvers: who may decide.
    :param approvals: how many of them must approve, each on the same digest.
    :param requester_may_approve: whoever asked for the work may decide on it as well.
    :param escalate_to: who may decide as well, from ``escalate_after`` on.
    :param remind_after: seconds from the asking to the reminder; None for no reminder.
    :param escalate_after: seconds from the asking to the escalation; None for none.
    :param because: why a person is asked, and the policy that says so.
    """

    approvers: Approvers = field(default_factory=Approvers)
    approvals: int = 1
    requester_may_approve: bool = False
    escalate_to: Approvers = field(default_factory=Approvers)
    remind_after: float | None = None
    escalate_after: float | None = None
    because: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Self:
        """The rules as the ledger keeps them; those of an author who says nothing, where it keeps none."""
        known = {each.name for each in fields(cls)}
        parts = {name: part for name, part in (value or {}).items() if name in known}
        for name in ("approvers", "escalate_to"):
            if name in parts:
                parts[name] = Approvers(**parts[name])
        return cls(**parts)

    def to_json(self) -> dict[str, Any]:
        """The rules as the ledger keeps them."""
        return {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "approvers": _as_json(self.approvers),
            "escalate_to": _as_json(self.escalate_to),
            "because": dict(self.because),
        }

    @property
    def bound(self) -> dict[str, Any] | None:
        """The part that an approval is bound to: who decides. None where the author says nothing about it.

        It does not cover who is asked later, and when: an escalation voids nothing.
        """
        if self == type(self)(
            escalate_to=self.escalate_to,
            remind_after=self.remind_after,
            escalate_after=self.escalate_after,
            because=self.because,
        ):
            return None
        return {
            "approvers": _as_json(self.approvers),
            "approvals": self.approvals,
            "requester_may_approve": self.requester_may_approve,
        }


def _as_json(approvers: Approvers) -> dict[str, list[str]]:
    return {each.name: list(getattr(approvers, each.name)) for each in fields(approvers)}


def why_not(job: Job | PendingReview, person: Person) -> str | None:
    """Why a person may not decide on a job, as a sentence; None where its author's rules let them.

    Whether they may decide for the Dag at all is Airflow's to say. Nobody is exempt from the rules, whatever they may
    do in Airflow.
    """
    rules = job.rules
    asked = {name for name in (job.requested_by, job.triggered_by) if name}
    if not rules.requester_may_approve and asked & person.may_be:
        return "You asked for this work; somebody else has to decide on it."
    if not rules.approvers or person in rules.approvers:
        return None
    if job.escalated_at is not None and person in rules.escalate_to:
        return None
    escalated = f", {rules.escalate_to}" if job.escalated_at is not None and rules.escalate_to else ""
    return f"Only these may decide on it: {rules.approvers}{escalated}."


def distinct(names: Iterable[str]) -> list[str]:
    """People by the names that decisions give them, each once, however they came."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(name.removeprefix(TERMINAL).partition(" (")[0], name)
    return list(found.values())


def due_times(job: Job) -> dict[str, datetime]:
    """When a job's reviewers are to be told something that they have not been told: ``reminder``, ``escalation``."""
    if job.review_asked_at is None:
        return {}
    rules = job.rules
    after = {
        "reminder": None if job.reminded_at is not None else rules.remind_after,
        "escalation": None if job.escalated_at is not None else rules.escalate_after,
    }
    return {
        what: job.review_asked_at + timedelta(seconds=seconds) for what, seconds in after.items() if seconds is not None
    }
