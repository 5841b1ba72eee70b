"""A decision is bound to exactly what its sender saw, and there is one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.errors import JobNotApproved, PlanError, StaleDecision
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, EffectPlan, Job, Verdict
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import EffectState, JobState
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, in_an_hour, job_spec

PAST = datetime.now(UTC) - timedelta(seconds=1)


def decide(ledger: Ledger, job: Job, verdict: Verdict = "approve", by: str = "bob", **changes: Any) -> Job:
    arguments = {"digest": job.review_digest, "person": Person(by), **changes}
    return ledger.reviews.decide(job.job_id, verdict, **arguments)


def decisions(ledger: Ledger, job: Job) -> list[tuple[str, str]]:
    return [(decision.verdict, decision.decided_by) for decision in ledger.record(job.job_id).decisions]


def events(ledger: Ledger, job: Job) -> list[str]:
    return [event.event for event in ledger.record(job.job_id).events]


class TestAsk:
    def test_the_plan_is_stored_in_order_with_a_key_for_each_write(self, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger), effect_plan("store"), effect_plan("post"))
        effects = ledger.record(job.job_id).effects
        assert [(effect.name, effect.state) for effect in effects] == [
            ("store", EffectState.PLANNED),
            ("post", EffectState.PLANNED),
        ]
        assert len({effect.effect_key for effect in effects}) == 2

    def test_asking_again_with_the_same_plan_changes_nothing_and_keeps_the_deadline(self, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger))
        again = ledger.reviews.ask(
            job.job_id,
            [effect_plan()],
            policy=None,
            deadline=in_an_hour() + timedelta(hours=1),
            actor=Actor.program("other"),
        )
        assert again == job
        assert events(ledger, job).count("planned") == 1

    def test_a_new_plan_replaces_one_that_no_one_decided_on(self, ledger: Ledger) -> None:
        first = ask(ledger, draft(ledger), effect_plan("store"), effect_plan("post"))
        second = ask(ledger, first, effect_plan("post", url="http://cms/other"))
        assert second.review_digest != first.review_digest
        assert [effect.name for effect in ledger.record(first.job_id).effects] == ["post"]

    def test_a_different_plan_voids_the_approval(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger)))
        asked = ask(ledger, job, effect_plan(url="http://cms/other"))
        assert (asked.state, asked.decision_id) == (JobState.REVIEW, None)
        assert asked.state_reason == "the plan is not the one that was approved"

    def test_a_plan_that_comes_back_is_decided_on_again(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger)))
        again = ask(ledger, ask(ledger, job, effect_plan(url="http://cms/other")))
        assert (again.state, again.review_digest) == (JobState.REVIEW, job.review_digest)
        assert approve(ledger, again).state is JobState.APPROVED

    def test_a_different_policy_version_voids_the_approval(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger), policy="small@1"))
        assert ask(ledger, job, policy="small@2").state is JobState.REVIEW

    def test_a_plan_that_was_approved_stays_approved_when_it_is_rendered_again(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger)))
        assert ask(ledger, job) == job

    def test_once_something_may_have_been_written_the_plan_stays(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger)))
        ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
        asked = ask(ledger, job, effect_plan(url="http://cms/other"))
        assert (asked.state, asked.review_digest) == (JobState.APPLYING, job.review_digest)

    def test_a_plan_that_the_target_refused_can_be_fixed_and_is_asked_about_again(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger)))
        claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
        ledger.effects.refuse(claim, error="404", actor=TEST)
        fixed = effect_plan(url="http://cms/fixed")
        asked = ask(ledger, job, fixed)
        assert (asked.state, asked.decision_id) == (JobState.REVIEW, None)
        with pytest.raises(JobNotApproved):
            ledger.effects.claim(job.job_id, fixed, lease=LEASE, actor=TEST)
        approve(ledger, asked)
        claim = ledger.effects.claim(job.job_id, fixed, lease=LEASE, actor=TEST)
        ledger.effects.confirm(claim, external_id="1", result=None, actor=TEST)
        assert ledger.job(job.job_id).state is JobState.COMPLETED

    def test_a_job_without_approval_has_its_refused_plan_fixed_too(self, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger, job_spec(approval="not required", approval_reason="internal")))
        claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
        ledger.effects.refuse(claim, error="404", actor=TEST)
        fixed = effect_plan(url="http://cms/fixed")
        assert ask(ledger, job, fixed).state is JobState.APPROVED
        assert ledger.effects.claim(job.job_id, fixed, lease=LEASE, actor=TEST).token is not None

    def test_two_effects_with_one_name_are_refused(self, ledger: Ledger) -> None:
        with pytest.raises(PlanError, match="the same name: publish"):
            ask(ledger, draft(ledger), effect_plan(), effect_plan(url="http://cms/other"))

    @pytest.mark.parametrize("state", [JobState.RUNNING, JobState.REJECTED])
    def test_a_job_that_waits_for_no_decision_is_left_alone(self, ledger: Ledger, state: JobState) -> None:
        job = ledger.submission.open(job_spec()).job
        if state is JobState.REJECTED:
            intent = ledger.outputs.fail(job.job_id, 1, actor=TEST, reason="x", error={})
            assert intent.state is JobState.FAILED
        assert ask(ledger, job).review_digest is None


class TestAskAgain:
    """The plan that is about to be written is not the one that was approved."""

    FIXED = effect_plan(url="http://cms/fixed")

    def ask_again(self, ledger: Ledger, job: Job, *plans: EffectPlan) -> Job:
        return ledger.reviews.ask_again(
            job.job_id, plans or [self.FIXED], deadline=in_an_hour(), actor=TEST, reason="the url differs"
        )

    def test_the_approval_is_void_and_a_person_decides_on_the_new_plan(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger), policy="small@1"))
        asked = self.ask_again(ledger, job)
        assert (asked.state, asked.decision_id) == (JobState.REVIEW, None)
        assert asked.state_reason == "the plan is not the one that was approved; the url differs"
        assert ledger.record(job.job_id).events[-1].detail["components"]["policy"] == "small@1"
        with pytest.raises(StaleDecision):
            ledger.reviews.decide(job.job_id, "approve", digest=str(job.review_digest), person=Person("bob"))
        approve(ledger, asked)
        assert ledger.effects.claim(job.job_id, self.FIXED, lease=LEASE, actor=TEST).token is not None

    def test_no_one_is_asked_once_an_external_write_may_have_been_made(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger), effect_plan(), effect_plan("label")))
        ledger.effects.claim(job.job_id, effect_plan("label"), lease=LEASE, actor=TEST)
        assert self.ask_again(ledger, job).state is JobState.APPLYING

    def test_a_plan_that_is_the_approved_one_after_all_stays_approved(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger)))
        assert self.ask_again(ledger, job, effect_plan()) == job

    def test_a_job_that_needs_no_approval_is_left_alone(self, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger, job_spec(approval="not required", approval_reason="internal")))
        assert self.ask_again(ledger, job) == job


class TestDecide:
    @pytest.mark.parametrize(("verdict", "state"), [("approve", JobState.APPROVED), ("reject", JobState.REJECTED)])
    def test_an_answer_moves_the_job_and_names_who_gave_it(
        self, ledger: Ledger, verdict: Verdict, state: JobState
    ) -> None:
        job = decide(ledger, ask(ledger, draft(ledger)), verdict, comment="Fine by me.")
        assert (job.state, job.state_reason) == (state, "Fine by me.")
        decision = ledger.record(job.job_id).decisions[0]
        assert (decision.decided_by, decision.decided_by_kind, decision.comment) == ("bob", "user", "Fine by me.")
        assert decision.digest == job.review_digest
        assert ledger.record(job.job_id).events[-1].actor == "user:bob"

    def test_a_repeated_answer_by_the_same_person_changes_nothing(self, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger))
        assert decide(ledger, job) == decide(ledger, job)
        assert decisions(ledger, job) == [("approve", "bob")]

    def test_a_repeated_answer_after_everything_was_applied_changes_nothing(self, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger))
        decide(ledger, job)
        claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
        ledger.effects.confirm(claim, external_id=None, result=None, actor=TEST)
        assert decide(ledger, job).state is JobState.COMPLETED

    @pytest.mark.parametrize(("verdict", "by"), [("approve", "carol"), ("reject", "carol"), ("reject", "bob")])
    def test_a_different_answer_comes_too_late_and_says_so(self, ledger: Ledger, verdict: Verdict, by: str) -> None:
        job = ask(ledger, draft(ledger))
        decide(ledger, job)
        with pytest.raises(StaleDecision, match=r"it is approved.*not recorded"):
            decide(ledger, job, verdict, by)
        assert decisions(ledger, job) == [("approve", "bob")]

    def test_of_many_answers_at_once_one_decides(self, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger))
        start = threading.Barrier(8)

        def answer(number: int) -> str:
            start.wait(10)
            try:
                return decide(ledger, job, "approve" if number % 2 else "reject", f"person {number}").state.value
            except StaleDecision:
                return "too late"

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(answer, range(8)))
        assert answers.count("too late") == 7
        assert len(decisions(ledger, job)) == 1

    def test_a_digest_that_is_no_longer_the_jobs_is_refused_with_what_changed(self, ledger: Ledger) -> None:
        seen = ask(ledger, draft(ledger), effect_plan("store"), effect_plan("post"), policy="small@1")
        ask(ledger, seen, effect_plan("store", url="http://other"), effect_plan("mail"), policy="small@2")
        with pytest.raises(StaleDecision) as error:
            decide(ledger, seen)
        assert (
            "the effect 'post' was removed; the effect 'mail' was added; the plan of the effect 'store' changed; "
            "the policy changed from small@1 to small@2"
        ) in str(error.value)
        assert decisions(ledger, seen) == []

    def test_a_digest_of_an_earlier_revision_is_refused_with_what_changed(self, ledger: Ledger) -> None:
        seen = ask(ledger, draft(ledger))
        newer = draft(ledger, job_spec(input={"input": "other"}), output="A pan.", response_id="resp_2")
        ask(ledger, newer)
        with pytest.raises(StaleDecision, match="the output changed"):
            decide(ledger, seen)

    @pytest.mark.parametrize("digest", ["", "0" * 64, "nul \x00", "\ud800", "'; --"])
    def test_a_digest_that_was_never_the_jobs_is_refused(self, ledger: Ledger, digest: str) -> None:
        job = ask(ledger, draft(ledger))
        with pytest.raises(StaleDecision, match="never this job's"):
            decide(ledger, job, digest=digest)

    def test_before_there_is_a_plan_there_is_nothing_to_decide_on(self, ledger: Ledger) -> None:
        with pytest.raises(JobNotApproved, match="plan has not been rendered yet"):
            decide(ledger, draft(ledger), digest="0" * 64)

    def test_a_policy_is_recorded_by_name_and_version(self, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger), policy="small@1")
        ledger.reviews.approve_by_policy(job.job_id, digest=str(job.review_digest), policy="small@1", reason="below 10")
        record = ledger.record(job.job_id)
        assert (record.decisions[0].decided_by_kind, record.decisions[0].decided_by) == ("policy", "small@1")
        assert record.events[-1].actor == "policy:small@1"

    def test_a_job_without_effects_is_completed_by_its_approval(self, ledger: Ledger) -> None:
        job = draft(ledger)
        job = ledger.reviews.ask(job.job_id, [], policy=None, deadline=in_an_hour(), actor=TEST)
        assert decide(ledger, job).state is JobState.COMPLETED

    def test_a_rejected_job_writes_nothing(self, ledger: Ledger) -> None:
        job = decide(ledger, ask(ledger, draft(ledger)), "reject")
        with pytest.raises(JobNotApproved, match="it is rejected"):
            ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)

    def test_a_comment_of_any_kind_is_recorded(self, ledger: Ledger) -> None:
        job = decide(
            ledger, ask(ledger, draft(ledger)), by="bob\ud800", comment="nul \x00 lone \ud83d pair \ud83d\ude00"
        )
        assert job.state_reason == "nul \ufffd lone \ufffd pair 😀"


class TestExpire:
    def overdue(self, ledger: Ledger) -> Job:
        job = draft(ledger)
        return ledger.reviews.ask(job.job_id, [effect_plan()], policy=None, deadline=PAST, actor=TEST)

    def expire(self, ledger: Ledger, job: Job, *, fail: bool = False) -> Job:
        return ledger.reviews.expire(job.job_id, digest=str(job.review_digest), fail=fail)

    def test_an_expired_review_counts_as_rejected(self, ledger: Ledger) -> None:
        job = self.expire(ledger, self.overdue(ledger))
        assert (job.state, job.state_reason) == (JobState.REJECTED, "no one decided in time")
        assert decisions(ledger, job) == [("reject", "timeout")]

    def test_or_fails_the_job_if_the_author_said_so(self, ledger: Ledger) -> None:
        job = self.expire(ledger, self.overdue(ledger), fail=True)
        assert (job.state, job.state_reason) == (JobState.FAILED, "no one decided in time")

    def test_before_its_time_nothing_happens(self, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger))
        assert self.expire(ledger, job) == job

    def test_a_review_expires_as_soon_as_the_clock_of_the_database_has_passed_the_deadline(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        job = ask(ledger, draft(ledger))
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.jobs SET review_deadline = clock_timestamp()")
        assert self.expire(ledger, job).state is JobState.REJECTED

    def test_a_decision_that_came_first_stands(self, ledger: Ledger, conninfo: dict[str, Any]) -> None:
        job = ask(ledger, draft(ledger))
        approved = decide(ledger, job)
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.jobs SET review_deadline = clock_timestamp()")
        assert self.expire(ledger, job).state is approved.state

    def test_a_person_is_too_late_even_before_the_review_was_ended(self, ledger: Ledger) -> None:
        job = self.overdue(ledger)
        with pytest.raises(StaleDecision, match="the time to decide ended at"):
            decide(ledger, job)
        assert not decisions(ledger, job)

    def test_a_newer_plan_has_a_time_of_its_own(self, ledger: Ledger) -> None:
        old = self.overdue(ledger)
        newer = [effect_plan(url="http://cms/other")]
        asked = ledger.reviews.ask(old.job_id, newer, policy=None, deadline=PAST, actor=TEST)
        assert self.expire(ledger, old) == asked
        assert self.expire(ledger, asked).state is JobState.REJECTED
