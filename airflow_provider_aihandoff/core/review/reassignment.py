"""Whether a review may be given to other people, and which approvals stay then. Pure.

A reassignment replaces whom the author of a job has named, and nothing else: the requester still decides nothing, as
many have to approve as before, and what is approved is the same. A user who reassigns gets no right by it, and the
requester reassigns nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from airflow_provider_aihandoff.core.models import Actor, ActorKind, Decision, Job
from airflow_provider_aihandoff.core.review.rules import (
    TERMINAL,
    Approvers,
    Person,
    Reassignment,
    Reviewers,
    author_rules,
    has_asked,
    has_reassigned,
    rules_of,
    why_not,
)
from airflow_provider_aihandoff.core.states import JobState


def reassigned(job: Job, to: Reviewers, *, by: Actor) -> Job:
    """The job as it would be after a reassignment."""
    before = Reassignment.from_json(job.reassigned)
    people = (*(actor for actor in before.by if actor != by), by)
    after = Reassignment(to.over(before.reviewers), people, before.number + 1)
    return replace(job, reassigned=after.to_json())


def cannot_reassign(job: Job, to: Reviewers, *, by: Actor) -> str | None:
    """Why a review cannot be given to these people, as a sentence; None where it can.

    The end of the time to decide is the ledger's to find out.
    """
    author = author_rules(job)
    if has_asked(job, _person(by)):
        return "you asked for this work; another user has to say who decides on it."
    if job.state is not JobState.REVIEW:
        return f"it waits for no decision: it is {job.state.value.replace('_', ' ')}."
    if job.review_digest is None:
        return "its plan has not been rendered yet, so no one can decide on it."
    if not to:
        return "no one is named who may decide."
    if to.escalate_to and author.escalate_after is None:
        return "its author escalates it to no one, so that it cannot be escalated to others."
    after = reassigned(job, to, by=by)
    rules = rules_of(after)
    named = [rules.approvers, rules.escalate_to]
    if not rules.approvers or any(people.roles or people.groups for people in named):
        return None
    able = {name.removeprefix(TERMINAL) for people in named for name in people.users if _may_decide(after, name)}
    if len(able) >= author.approvals:
        return None
    said = f"only {', '.join(sorted(able))} may" if able else "none may"
    return (
        f"{author.approvals} must approve, and of those who are named then, {said}: the requester decides nothing, and "
        "a user who reassigns a review decides only where its author has named them."
    )


def voided_by(before: Job, after: Job, votes: Iterable[Decision]) -> list[Decision]:
    """The approvals that do not count after a reassignment.

    Of a person who voted, the ledger knows the login, and neither roles nor groups. So an approval stays if its author
    is named by their login among those who may decide now, or if those are the same as before.
    """
    same = _deciding(before) == _deciding(after)
    return [vote for vote in votes if not _stays(after, vote.decider, same=same)]


def _stays(after: Job, voter: Actor, *, same: bool) -> bool:
    person = _person(voter)
    if same and not has_reassigned(after, person):
        return True
    return why_not(after, person) is None


def _person(actor: Actor) -> Person:
    """An actor who is a person: of their roles and groups, the ledger knows nothing."""
    return Person(actor.name or "", actor.user_id, at_terminal=actor.kind is ActorKind.TERMINAL)


def _may_decide(job: Job, name: str) -> bool:
    """Whether a person may decide whom this name means, now or once it is escalated."""
    person = Person(name.removeprefix(TERMINAL), at_terminal=name.startswith(TERMINAL))
    return why_not(replace(job, escalated_at=job.escalated_at or job.updated_at), person) is None


def _deciding(job: Job) -> tuple[Approvers, Approvers | None]:
    rules = rules_of(job)
    return rules.approvers, rules.escalate_to if job.escalated_at is not None else None
