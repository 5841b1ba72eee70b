"""Jobs that are asked about for the first time, many in one transaction: as if each was asked about alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.errors import PlanError
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import EffectPlan, Job
from airflow_provider_aihandoff.core.review.ask_first import FirstAsk
from airflow_provider_aihandoff.core.review.rules import Person, ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import TEST, ask, draft, effect_plan, job_spec

DEADLINE = timedelta(hours=1)


def drafts(ledger: Ledger, number: int = 3) -> list[Job]:
    keys = range(number)
    return [draft(ledger, job_spec(job_key=f"t{key}"), response_id=f"resp_{key}") for key in keys]


def of(job: Job, *plans: EffectPlan, approved: str | None = None) -> FirstAsk:
    return FirstAsk(job.job_id, job.revision, plans or (effect_plan(),), ReviewRules(), approved_since=approved)


def ask_first(ledger: Ledger, asks: Sequence[FirstAsk], policy: str | None = None) -> list[Job | None]:
    return ledger.reviews.ask_first(asks, policy=policy, deadline=DEADLINE, actor=TEST, on_timeout="reject")


def test_it_is_what_asking_about_each_alone_would_be(ledger: Ledger) -> None:
    one, *others = drafts(ledger)
    alone = ask(ledger, one, effect_plan())
    together = ask_first(ledger, [of(job) for job in others])
    first = ledger.record(one.job_id)
    for job, done in zip(others, together, strict=True):
        record = ledger.record(job.job_id)
        assert done is not None
        assert (done.state, done.review_digest, done.review) == (alone.state, alone.review_digest, alone.review)
        assert done.review_deadline is not None
        assert [event.detail for event in record.events][-1] == [event.detail for event in first.events][-1]
        assert [each.plan for each in record.current_effects] == [each.plan for each in first.current_effects]
        assert first_break(record.events, record.job) is None


def test_what_the_policy_approves_is_decided_in_the_same_step_each_for_its_reason(ledger: Ledger) -> None:
    jobs = drafts(ledger)
    asks = [of(jobs[0], approved="it is sure"), of(jobs[1]), of(jobs[2], approved="it is very sure")]
    done = ask_first(ledger, asks, "plain@1")
    assert [job.state for job in done if job] == [JobState.APPROVED, JobState.REVIEW, JobState.APPROVED]
    for job, reason in ((jobs[0], "it is sure"), (jobs[2], "it is very sure")):
        record = ledger.record(job.job_id)
        (decision,) = record.decisions
        assert (decision.decided_by, decision.comment) == ("plain@1", reason)
        assert decision.digest == record.job.review_digest
        assert first_break(record.events, record.job) is None


def test_a_job_whose_plan_leaves_everything_out_is_completed_once_it_is_approved(ledger: Ledger) -> None:
    (job,) = drafts(ledger, 1)
    (done,) = ask_first(ledger, [of(job, replace(effect_plan(), skipped=True), approved="nothing to write")], "plain@1")
    assert done is not None
    assert done.state is JobState.COMPLETED


def test_one_that_was_asked_about_edited_or_moved_on_is_left_and_holds_up_no_other(ledger: Ledger) -> None:
    asked, edited, cancelled, new = drafts(ledger, 4)
    ask(ledger, asked, effect_plan())
    digest = ask(ledger, edited, effect_plan()).review_digest
    ledger.reviews.edit(edited.job_id, digest=str(digest), output="Another kettle.", person=Person("bob"))
    ledger.cancels.cancel(cancelled.job_id, actor=TEST, reason="a test")
    jobs = [ledger.job(each.job_id) for each in (asked, edited, cancelled, new)]
    done = ask_first(ledger, [of(job) for job in jobs])
    assert [job is not None for job in done] == [False, False, False, True]
    assert ask_first(ledger, [of(jobs[3])]) == [None], "safe to repeat"
    assert len(ledger.record(new.job_id).current_effects) == 1


def test_a_plan_of_another_revision_is_not_stored(ledger: Ledger) -> None:
    (job,) = drafts(ledger, 1)
    assert ask_first(ledger, [replace(of(job), revision=2)]) == [None]
    assert ledger.job(job.job_id).review_digest is None


def test_two_effects_of_one_name_are_refused(ledger: Ledger) -> None:
    (job,) = drafts(ledger, 1)
    with pytest.raises(PlanError, match="the same name"):
        ask_first(ledger, [of(job, effect_plan(), effect_plan())])
