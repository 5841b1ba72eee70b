"""A review is given to others: on the record, once, with the approvals that still count, and by its author's rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.errors import CannotReassign, JobNotFound, MayNotDecide
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, Reassignment, Reviewers, ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import TEST
from tests.integration.core.review.test_rules import BOB, CAROL, DAVE, approve, ask, asked, events

ADMIN = Actor.user("admin", "1")
RULES = ReviewRules(Approvers(users=("bob", "carol")), approvals=2)


def users(*names: str) -> Reviewers:
    return Reviewers(Approvers(users=names))


def reassign(ledger: Ledger, job: Job, to: Reviewers, **more: Any) -> Job:
    return ledger.reassignments.reassign(job.job_id, to, **{"actor": ADMIN, "reason": "on holiday", **more})


def test_it_is_on_the_record_and_changes_nothing_that_is_approved(ledger: Ledger) -> None:
    job = asked(ledger, RULES)
    after = reassign(ledger, job, users("carol", "dave"))
    assert (after.state, after.review_digest, after.review) == (JobState.REVIEW, job.review_digest, job.review)
    assert events(ledger, job)[-1] == "reassigned"
    line = ledger.record(job.job_id).events[-1]
    assert (line.by, line.reason) == (ADMIN, "on holiday; may decide: carol, dave")
    assert line.detail["approvers"] == {"users": ["carol", "dave"], "roles": [], "groups": []}
    (waiting,) = ledger.reviews.pending()
    assert waiting.reassigned == after.reassigned


def test_the_votes_that_still_count_stay_and_the_others_are_void(ledger: Ledger) -> None:
    job = asked(ledger, ReviewRules(Approvers(users=("bob", "carol", "eve")), approvals=3))
    approve(ledger, job, BOB)
    approve(ledger, job, CAROL)
    reassign(ledger, job, users("carol", "dave", "eve"))
    record = ledger.record(job.job_id)
    assert [vote.decided_by for vote in ledger.reviews.votes(record.job)] == ["carol"]
    assert [(each.decided_by, each.voided_at is None) for each in record.decisions] == [("bob", False), ("carol", True)]
    assert [voter.name for voter in ledger.reviews.pending()[0].voters] == ["carol"]
    assert (record.events[-1].reason or "").endswith("void: the approval of bob")
    with pytest.raises(MayNotDecide):
        approve(ledger, job, BOB)
    assert approve(ledger, job, DAVE).state is JobState.REVIEW
    assert approve(ledger, job, Person("eve")).state is JobState.APPROVED


def test_whose_vote_was_void_votes_again_where_the_review_comes_back_to_them(ledger: Ledger) -> None:
    job = asked(ledger, RULES)
    approve(ledger, job, BOB)
    reassign(ledger, job, users("carol", "dave"))
    reassign(ledger, job, users("bob", "dave"))
    assert ledger.reviews.votes(ledger.job(job.job_id)) == []
    assert approve(ledger, job, DAVE).state is JobState.REVIEW
    assert approve(ledger, job, BOB).state is JobState.APPROVED


def test_the_same_again_changes_nothing(ledger: Ledger) -> None:
    job = asked(ledger, RULES)
    once = reassign(ledger, job, users("carol", "dave"), seen=0)
    assert reassign(ledger, job, users("carol", "dave"), seen=0) == once
    assert reassign(ledger, job, users("carol", "dave")) == once
    with pytest.raises(CannotReassign, match="it was reassigned since you saw it"):
        reassign(ledger, job, users("bob", "dave"), seen=0)
    assert ledger.job(job.job_id) == once


def test_no_one_votes_by_a_right_that_they_have_given_themselves(ledger: Ledger) -> None:
    job = asked(ledger, RULES)
    reassign(ledger, job, users("admin", "dave", "eve"))
    with pytest.raises(MayNotDecide, match="You have reassigned this review"):
        approve(ledger, job, Person("admin", "1"))
    approve(ledger, job, DAVE)
    assert approve(ledger, job, Person("eve")).state is JobState.APPROVED


def test_it_is_refused_when_the_time_to_decide_has_ended(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    job = asked(ledger, RULES)
    with psycopg.connect(**conninfo) as connection:
        connection.execute("UPDATE aihandoff.jobs SET review_deadline = %s", [datetime.now(UTC) - timedelta(hours=1)])
    with pytest.raises(CannotReassign, match="the time to decide has ended"):
        reassign(ledger, job, users("carol", "dave"))
    assert "reassigned" not in events(ledger, job)


def test_a_job_that_was_decided_or_is_not_there_is_refused(ledger: Ledger) -> None:
    job = asked(ledger, ReviewRules())
    approve(ledger, job, BOB)
    with pytest.raises(CannotReassign, match="it waits for no decision: it is approved"):
        reassign(ledger, job, users("carol"))
    with pytest.raises(JobNotFound):
        ledger.reassignments.reassign(99, users("carol"), actor=ADMIN, reason="on holiday")


def test_it_holds_for_a_later_plan_and_ends_where_the_author_names_others(ledger: Ledger) -> None:
    job = asked(ledger, RULES)
    reassign(ledger, job, users("carol", "dave"))
    changed = ask(ledger, job, RULES, url="http://cms/other")
    assert Reassignment.from_json(changed.reassigned).reviewers == users("carol", "dave")
    assert ask(ledger, job, RULES, url="http://cms/third").reassigned is not None
    others = ask(ledger, job, ReviewRules(Approvers(users=("frank", "george")), approvals=2))
    assert others.reassigned is None


def test_a_plan_that_is_rendered_again_alike_keeps_it(ledger: Ledger) -> None:
    """The approval task is cleared: what its author says is bound to the digest, and not who was named since."""
    job = asked(ledger, RULES)
    after = reassign(ledger, job, users("carol", "dave"))
    assert ask(ledger, job, RULES) == after


def test_reviewers_are_notified_once_of_each(ledger: Ledger) -> None:
    job = asked(ledger, RULES)
    ledger.reviews.notified(job, "asked", actor=TEST)
    first = reassign(ledger, job, users("carol", "dave"))
    assert ledger.reviews.notices(first) == {"asked"}
    ledger.reviews.notified(first, "reassigned", actor=TEST)
    assert ledger.reviews.notices(ledger.job(job.job_id)) == {"asked", "reassigned"}
    second = reassign(ledger, job, users("bob", "dave"))
    assert ledger.reviews.notices(second) == {"asked"}
