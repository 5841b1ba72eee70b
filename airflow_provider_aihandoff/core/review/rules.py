"""Who may decide on a job, how many have to, and when people are notified. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from airflow_provider_aihandoff.core.digests import canonical_json

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.models import Actor, Decision, Job, PendingReview, QueueGroup

#: A job, or several like ones, on which someone is to decide.
Reviewed: TypeAlias = "Job | PendingReview | QueueGroup"

#: What an author puts before an account, to mean the person who uses it at a terminal.
TERMINAL = "cli:"


@dataclass(frozen=True)
class Approvers:
    """The people who may decide: everyone who is named here. By default, every user who may decide for the Dag.

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

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The people as the ledger keeps them."""
        return cls(**value)

    def to_json(self) -> dict[str, list[str]]:
        """The people as the ledger keeps them."""
        return {each.name: list(getattr(self, each.name)) for each in fields(self)}

    def __bool__(self) -> bool:
        return bool(self.users or self.roles or self.groups)

    def __contains__(self, person: Person) -> bool:
        return bool(
            person.names & set(self.users) or person.roles & set(self.roles) or person.groups & set(self.groups)
        )

    def __str__(self) -> str:
        parts = [*self.users, *(f"the role {name}" for name in self.roles), *(f"the group {n}" for n in self.groups)]
        return ", ".join(parts) or "every user who may answer human-in-the-loop tasks of the Dag"


@dataclass(frozen=True)
class Reviewers:
    """Who is to decide on a job instead of those whom its author named. Empty: as it is.

    :param approvers: who may decide.
    :param escalate_to: who may decide as well, once it is escalated.
    """

    approvers: Approvers = field(default_factory=Approvers)
    escalate_to: Approvers = field(default_factory=Approvers)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The reviewers as the ledger keeps them."""
        return cls(*(Approvers.from_json(value[each.name]) for each in fields(cls)))

    def to_json(self) -> dict[str, Any]:
        """The reviewers as the ledger keeps them."""
        return {each.name: getattr(self, each.name).to_json() for each in fields(self)}

    def __bool__(self) -> bool:
        return bool(self.approvers or self.escalate_to)

    def __str__(self) -> str:
        parts = [f"may decide: {self.approvers}"] if self.approvers else []
        parts += [f"escalated to: {self.escalate_to}"] if self.escalate_to else []
        return "; ".join(parts)

    def over(self, older: Reviewers) -> Reviewers:
        """These, and the older ones where these say nothing."""
        return Reviewers(self.approvers or older.approvers, self.escalate_to or older.escalate_to)


@dataclass(frozen=True)
class Person:
    """A person who decides.

    :param login: the login name, or the account of a person at a terminal.
    :param user_id: the auth manager's id of them.
    :param at_terminal: the login is an account on a machine. Roles and groups are not known there.
    :param roles: as the auth manager has them.
    :param groups: as the auth manager has them.
    :param shown_as: the name that Airflow shows for them. As of 3.4, it says by this who has triggered a run.
    """

    login: str
    user_id: str | None = None
    at_terminal: bool = False
    roles: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    shown_as: str | None = None

    @property
    def actor(self) -> Actor:
        """The person, as decisions and the history have them."""
        from airflow_provider_aihandoff.core.models import Actor

        return Actor.terminal(self.login) if self.at_terminal else Actor.user(self.login, self.user_id)

    @property
    def names(self) -> frozenset[str]:
        """Every name by which an author can let them decide.

        ``cli:bob`` always means an account at a terminal: a login of this form is named by its id, a role or a group.
        """
        if self.at_terminal:
            return frozenset({TERMINAL + self.login})
        return frozenset(name for name in self._logins if not name.startswith(TERMINAL))

    @property
    def may_have_asked_as(self) -> frozenset[str]:
        """Every name by which they may have asked for work: an account may be that of the login of the same name."""
        names = self._logins | {TERMINAL + self.login} if self.at_terminal else self._logins
        return names if self.shown_as is None else names | {self.shown_as}

    @property
    def _logins(self) -> frozenset[str]:
        return frozenset({self.login} if self.user_id is None else {self.login, self.user_id})


@dataclass(frozen=True)
class ReviewRules:
    """What a job's author says about its review.

    :param approvers: who may decide.
    :param approvals: how many of them must approve, each on the same digest.
    :param blind: where several have to approve, no one knows how others have voted before they have voted themselves.
    :param requester_may_approve: the requester may decide on it as well.
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
    blind: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Self:
        """The rules as the ledger keeps them; those of an author who says nothing, where it keeps none."""
        known = {each.name for each in fields(cls)}
        parts = {name: part for name, part in (value or {}).items() if name in known}
        for name in ("approvers", "escalate_to"):
            if name in parts:
                parts[name] = Approvers.from_json(parts[name])
        return cls(**parts)

    def to_json(self) -> dict[str, Any]:
        """The rules as the ledger keeps them."""
        said = {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "approvers": self.approvers.to_json(),
            "escalate_to": self.escalate_to.to_json(),
            "because": dict(self.because),
        }
        if not self.blind:  # as before there was such a rule
            del said["blind"]
        return said

    @property
    def is_blind(self) -> bool:
        """Whether votes are kept from those who have not voted."""
        return self.blind and self.approvals > 1

    @property
    def reviewers(self) -> Reviewers:
        """Whom the author has named."""
        return Reviewers(self.approvers, self.escalate_to)

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
            "approvers": self.approvers.to_json(),
            "approvals": self.approvals,
            "requester_may_approve": self.requester_may_approve,
            **({"blind": True} if self.blind else {}),
        }


@dataclass(frozen=True)
class Reassignment:
    """What people have said about who decides on a job, over its author's rules.

    :param reviewers: who decides instead; the author's other rules stay.
    :param by: everyone who has reassigned it, each once, the last one last.
    :param number: how often it was reassigned.
    """

    reviewers: Reviewers = field(default_factory=Reviewers)
    by: tuple[Actor, ...] = ()
    number: int = 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Self:
        """It as the ledger keeps it; an empty one, where it keeps none."""
        from airflow_provider_aihandoff.core.models import Actor, ActorKind

        if value is None:
            return cls()
        by = tuple(Actor(ActorKind(kind), name, user_id) for kind, name, user_id in value["by"])
        return cls(Reviewers.from_json(value), by, value["number"])

    def to_json(self) -> dict[str, Any]:
        """It as the ledger keeps it."""
        by = [[actor.kind.value, actor.name, actor.user_id] for actor in self.by]
        return {**self.reviewers.to_json(), "by": by, "number": self.number}


def rules_of(job: Reviewed) -> ReviewRules:
    """Who may decide on a job, and how many have to: as its author says, or as it was reassigned since."""
    rules, reviewers = author_rules(job), Reassignment.from_json(job.reassigned).reviewers
    return replace(
        rules,
        approvers=reviewers.approvers or rules.approvers,
        escalate_to=reviewers.escalate_to or rules.escalate_to,
    )


def author_rules(job: Reviewed) -> ReviewRules:
    """What the author of a job says about its review. This alone is part of what is approved."""
    return ReviewRules.from_json(job.review)


def why_not(job: Reviewed, person: Person) -> str | None:
    """Why a person may not decide on a job, as a sentence; None where its author's rules let them, as they were
    reassigned since.

    Whether they may decide for the Dag at all is Airflow's to say. No one is exempt from the rules, also with
    every permission in Airflow; and no one can give themselves a right that the author has not given them.
    """
    rules = rules_of(job)
    if has_asked(job, person):
        return "You asked for this work; another user has to decide on it."
    if not _admits(rules, job, person):
        escalated = f", {rules.escalate_to}" if job.escalated_at is not None and rules.escalate_to else ""
        return f"Only these may decide on it: {rules.approvers}{escalated}."
    if has_reassigned(job, person) and not _admits(author_rules(job), job, person):
        return "You have reassigned this review, and its author did not name you; another user has to decide on it."
    return None


def decides_who(job: Reviewed) -> tuple[str | bool | None, ...]:
    """All that :func:`why_not` reads of a job: where this is the same, so is its answer, for every person."""
    rules = None if job.review is None else {name: part for name, part in job.review.items() if name != "because"}
    said = canonical_json([rules, job.reassigned])
    return job.requested_by, job.triggered_by, said, job.escalated_at is not None


def has_asked(job: Reviewed, person: Person) -> bool:
    """Whether a person has asked for the work, under whichever of their accounts, and its author wants another user."""
    asked = {name for name in (job.requested_by, job.triggered_by) if name}
    return not author_rules(job).requester_may_approve and bool(asked & person.may_have_asked_as)


def has_reassigned(job: Reviewed, person: Person) -> bool:
    """Whether a person has reassigned the review of a job, under whichever of their accounts."""
    by = Reassignment.from_json(job.reassigned).by
    return bool({name for actor in by for name in (actor.name, actor.user_id)} & person.may_have_asked_as)


def _admits(rules: ReviewRules, job: Reviewed, person: Person) -> bool:
    if not rules.approvers or person in rules.approvers:
        return True
    return job.escalated_at is not None and person in rules.escalate_to


def distinct(people: Iterable[Actor]) -> list[Actor]:
    """The people among those who decided, each once: an account may be that of the login of the same name."""
    found: dict[str | None, Actor] = {}
    for person in people:
        found.setdefault(person.name, person)
    return list(found.values())


def has_voted(person: Actor, voters: Iterable[Actor]) -> bool:
    """Whether a person is one of those who approved, under whichever of their accounts."""
    return any(voter.name == person.name for voter in voters)


def approvals_of(job: Job, decisions: Iterable[Decision]) -> list[Decision]:
    """The approvals that count for what a job says now: one of each person, the oldest first.

    Its digest may have been asked about before; what was said then is void, as is what a reassignment has voided.

    :param decisions: the job's, the oldest first.
    """
    from airflow_provider_aihandoff.core.models import PERSON_KINDS

    found: dict[str | None, Decision] = {}
    for each in decisions:
        of_now = each.digest == job.review_digest and each.decision_id > (job.decided_before or 0)
        if of_now and each.voided_at is None and each.verdict == "approve" and each.decider.kind in PERSON_KINDS:
            found.setdefault(each.decider.name, each)
    return list(found.values())


def due_times(job: Job) -> dict[str, datetime]:
    """When a job's reviewers are to be notified of what they do not know yet: ``reminder``, ``escalation``."""
    if job.review_asked_at is None:
        return {}
    rules = rules_of(job)
    after = {
        "reminder": None if job.reminded_at is not None else rules.remind_after,
        "escalation": None if job.escalated_at is not None else rules.escalate_after,
    }
    return {
        what: job.review_asked_at + timedelta(seconds=seconds) for what, seconds in after.items() if seconds is not None
    }
