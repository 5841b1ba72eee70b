"""Keeps from a reader how others have voted, until they have voted themselves: each reads with their own eyes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.models import Actor, Decision, Event, Job
from airflow_provider_aihandoff.core.review.rules import Reviewed, approvals_of, has_voted, rules_of
from airflow_provider_aihandoff.core.states import JobEvent, JobState

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import JobRecord


def is_kept_from(job: Reviewed, person: Actor, voters: Iterable[Actor]) -> bool:
    """Whether a person is not to know yet how others have voted on a job that waits for a decision.

    :param voters: who has approved what it says now.
    """
    return rules_of(job).is_blind and not has_voted(person, voters)


def votes_kept_from(job: Job, person: Actor, decisions: Iterable[Decision]) -> list[Decision]:
    """The votes on a job that a person is not to know yet; none once the review has ended."""
    if job.state is not JobState.REVIEW:
        return []
    votes = approvals_of(job, decisions)
    return votes if is_kept_from(job, person, (vote.decider for vote in votes)) else []


def as_seen_by(record: JobRecord, person: Actor) -> JobRecord:
    """A job without the votes that a person is not to know yet. ``history`` of it has all lines: its hashes do."""
    votes = votes_kept_from(record.job, person, record.decisions)
    if not votes:
        return record
    kept = {vote.decision_id for vote in votes}
    return replace(
        record,
        decisions=[each for each in record.decisions if each.decision_id not in kept],
        events=[each for each in record.events if not is_vote(each)],
        unseen=tuple(each for each in record.events if is_vote(each)),
    )


def is_vote(line: Event) -> bool:
    """Whether a line of a history says that a person has approved, and more have to."""
    return line.event == JobEvent.VOTED
