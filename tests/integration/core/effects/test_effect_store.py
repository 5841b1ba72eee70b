"""A write happens at most once, only as it was approved, and an unknown outcome is recorded as unknown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.effects.effect_store import Claim
from airflow_provider_aihandoff.core.errors import (
    ClaimLost,
    EffectBusy,
    EffectNotFound,
    EffectOutOfOrder,
    EffectUnknown,
    HandoffError,
    IllegalTransition,
    JobCancelled,
    JobNotApproved,
    PlanNotApproved,
)
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, EffectPlan, Job
from airflow_provider_aihandoff.core.states import EffectState, JobState, ResponseStatus
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec


@pytest.fixture
def job(ledger: Ledger) -> Job:
    """A job whose one write is approved."""
    return approve(ledger, ask(ledger, draft(ledger)))


OVER = timedelta(0)


def claim(
    ledger: Ledger,
    job: Job,
    plan: EffectPlan | None = None,
    *,
    lease: timedelta = LEASE,
    resends: int = 0,
) -> Claim:
    return ledger.effects.claim(job.job_id, plan or effect_plan(), lease=lease, resends=resends, actor=TEST)


def confirm(ledger: Ledger, claimed: Claim, external_id: str | None = "post-1") -> Effect:
    return ledger.effects.confirm(claimed, external_id=external_id, result={"status": 201}, actor=TEST)


def state(ledger: Ledger, job: Job) -> JobState:
    return ledger.job(job.job_id).state


def events(ledger: Ledger, job: Job) -> list[str]:
    return [event.event for event in ledger.record(job.job_id).events]


def test_the_address_of_a_record_is_what_the_attempt_has_and_no_part_of_what_is_approved(ledger: Ledger) -> None:
    old, new = (replace(effect_plan(), external_url=f"https://{host}.example/{{external_id}}") for host in "ab")
    job = approve(ledger, ask(ledger, draft(ledger), old))
    assert ledger.record(job.job_id).effects[0].external_url == old.external_url
    done = confirm(ledger, claim(ledger, job, new))
    assert (done.external_url, done.external_link) == (new.external_url, "https://b.example/post-1")
    assert state(ledger, job) is JobState.COMPLETED


class TestRefusal:
    def test_before_approval_nothing_is_claimed(self, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger))
        with pytest.raises(JobNotApproved, match="no one has approved"):
            claim(ledger, job)
        assert ledger.record(job.job_id).effects[0].attempt == 0

    def test_before_a_plan_was_stored_nothing_is_claimed_even_where_no_approval_is_needed(self, ledger: Ledger) -> None:
        job = draft(ledger, job_spec(approval="not required", approval_reason="internal"))
        with pytest.raises(JobNotApproved):
            claim(ledger, job)

    def test_a_plan_that_is_asked_about_again_is_no_longer_approved(self, ledger: Ledger, job: Job) -> None:
        other = effect_plan(url="http://cms/other")
        ask(ledger, job, other)
        for plan in (effect_plan(), other):
            with pytest.raises(JobNotApproved):
                claim(ledger, job, plan)

    def test_a_decision_on_another_digest_approves_nothing(
        self, ledger: Ledger, conninfo: dict[str, Any], job: Job
    ) -> None:
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.decisions SET digest = repeat('0', 64)")
        with pytest.raises(JobNotApproved):
            claim(ledger, job)

    def test_for_a_cancelled_job_nothing_is_claimed(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        ledger.outputs.cancelled(job.job_id, 1, actor=TEST, reason="enough", status=ResponseStatus.CANCELLED)
        with pytest.raises(JobCancelled, match="enough"):
            claim(ledger, job)

    def test_a_request_that_is_not_the_approved_one_is_refused_with_what_differs(
        self, ledger: Ledger, job: Job
    ) -> None:
        with pytest.raises(
            PlanNotApproved,
            match=r"Changed: method, url\..*planned. No external write was made with the changed request",
        ):
            claim(ledger, job, effect_plan(url="http://cms/other", method="POST"))

    def test_a_difference_that_only_shows_in_a_secret_is_refused_without_showing_it(
        self, ledger: Ledger, job: Job
    ) -> None:
        approved = effect_plan()
        secret = EffectPlan("publish", "http", {"token": "s3cr3t"}, "0" * 64, shown=approved.shown)
        with pytest.raises(PlanNotApproved, match="Changed: a masked value") as error:
            claim(ledger, job, secret)
        assert "s3cr3t" not in str(error.value)

    def test_an_effect_that_is_not_in_the_plan_is_refused(self, ledger: Ledger, job: Job) -> None:
        with pytest.raises(PlanNotApproved, match="'mail' is not part of the plan"):
            claim(ledger, job, effect_plan("mail"))

    def test_an_applied_effect_with_another_request_is_refused_and_not_sent_again(
        self, ledger: Ledger, job: Job
    ) -> None:
        confirm(ledger, claim(ledger, job))
        with pytest.raises(PlanNotApproved, match=r"applied before.*external id post-1.*not sent again"):
            claim(ledger, job, effect_plan(url="http://cms/other"))


class TestOnce:
    def test_the_last_effect_that_is_applied_completes_the_job(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger), effect_plan("store"), effect_plan("post")))
        confirm(ledger, claim(ledger, job, effect_plan("post")))
        assert state(ledger, job) is JobState.APPLYING
        confirm(ledger, claim(ledger, job, effect_plan("store")))
        assert state(ledger, job) is JobState.COMPLETED

    def test_an_applied_effect_is_given_back_and_never_sent_again(self, ledger: Ledger, job: Job) -> None:
        confirm(ledger, claim(ledger, job))
        for resend in (False, True):
            again = claim(ledger, job, resends=resend)
            assert (again.applied, again.token, again.effect.external_id) == (True, None, "post-1")

    def test_of_eight_claims_at_once_one_gets_the_token_and_the_others_get_its_expiry(
        self, ledger: Ledger, job: Job
    ) -> None:
        start = threading.Barrier(8)

        def attempt(_: int) -> Claim | None:
            start.wait(10)
            try:
                return claim(ledger, job)
            except EffectBusy:
                return None

        with ThreadPoolExecutor(8) as threads:
            claims = [claimed for claimed in threads.map(attempt, range(8)) if claimed]
        assert len(claims) == 1
        assert events(ledger, job).count("effect claimed") == 1

    def test_of_several_claims_on_a_target_that_can_repeat_only_the_newest_counts(
        self, ledger: Ledger, job: Job
    ) -> None:
        first, second = claim(ledger, job, lease=OVER), claim(ledger, job, resends=1)
        assert (first.resent, second.resent) == (False, True)
        assert first.effect.effect_key == second.effect.effect_key
        with pytest.raises(ClaimLost):
            confirm(ledger, first)
        assert confirm(ledger, second).attempt == 2

    def test_a_confirmation_can_be_repeated_and_counts_once(self, ledger: Ledger, job: Job) -> None:
        claimed = claim(ledger, job)
        assert confirm(ledger, claimed) == confirm(ledger, claimed)
        assert events(ledger, job).count("effect applied") == 1

    @pytest.mark.parametrize("what", ["release", "refuse", "lose"])
    def test_a_failure_can_be_recorded_again_and_counts_once(self, ledger: Ledger, job: Job, what: str) -> None:
        claimed, record = claim(ledger, job), getattr(ledger.effects, what)
        assert record(claimed, error="503", actor=TEST) == record(claimed, error="503", actor=TEST)
        assert len(events(ledger, job)) == len(set(events(ledger, job)))

    def test_the_key_stays_the_same_for_every_attempt_at_the_same_write(self, ledger: Ledger, job: Job) -> None:
        keys = set()
        for _ in range(3):
            claimed = claim(ledger, job)
            keys.add(claimed.effect.effect_key)
            ledger.effects.release(claimed, error="503", actor=TEST)
        assert len(keys) == 1


class TestLease:
    @pytest.mark.parametrize("resend", [False, True])
    def test_while_a_claim_lasts_no_one_else_gets_it_and_everyone_gets_its_expiry(
        self, ledger: Ledger, job: Job, resend: bool
    ) -> None:
        first = claim(ledger, job)
        with pytest.raises(EffectBusy, match="may be sending it right now") as busy:
            claim(ledger, job, resends=resend)
        assert 0 < busy.value.seconds <= LEASE.total_seconds()
        assert confirm(ledger, first).state is EffectState.APPLIED

    def test_after_the_lease_nothing_is_sent_again_unless_it_is_requested(self, ledger: Ledger, job: Job) -> None:
        claim(ledger, job, lease=OVER)
        for _ in range(2):
            with pytest.raises(EffectUnknown):
                claim(ledger, job)
        assert events(ledger, job).count("effect unknown") == 1
        assert claim(ledger, job, resends=1).resent

    def test_a_probe_result_of_an_earlier_attempt_does_not_resolve_a_later_one(self, ledger: Ledger, job: Job) -> None:
        first = claim(ledger, job, lease=OVER)
        second = claim(ledger, job, resends=1)
        lost = ledger.effects.lose(second, error="time-out", actor=TEST)
        for attempt, state in ((first.effect.attempt, EffectState.UNKNOWN), (2, EffectState.PLANNED)):
            found = ledger.effects.resolve(
                lost.effect_id, applied=False, external_id=None, actor=Actor.program("probe"), why="?", attempt=attempt
            )
            assert found.state is state


class TestOrder:
    @pytest.fixture
    def ordered(self, ledger: Ledger) -> Job:
        plans = effect_plan("create"), replace(effect_plan("label"), after=("create",))
        return approve(ledger, ask(ledger, draft(ledger), *plans))

    def label(self, ledger: Ledger, job: Job) -> Claim:
        return claim(ledger, job, replace(effect_plan("label"), after=("create",)))

    def test_an_effect_waits_for_those_that_its_author_wants_before_it(self, ledger: Ledger, ordered: Job) -> None:
        with pytest.raises(EffectOutOfOrder, match="'label' comes after 'create', which is planned"):
            self.label(ledger, ordered)
        create = claim(ledger, ordered, effect_plan("create"))
        with pytest.raises(EffectOutOfOrder, match="which is claimed"):
            self.label(ledger, ordered)
        confirm(ledger, create)
        confirm(ledger, self.label(ledger, ordered))
        assert state(ledger, ordered) is JobState.COMPLETED

    def test_a_job_of_which_one_effect_is_refused_says_that_it_is_partly_applied(
        self, ledger: Ledger, ordered: Job
    ) -> None:
        confirm(ledger, claim(ledger, ordered, effect_plan("create")))
        ledger.effects.refuse(self.label(ledger, ordered), error="422", actor=TEST)
        after = ledger.job(ordered.job_id)
        assert after.state is JobState.APPLYING
        assert after.state_reason == "partly applied: 1 of 2 effects applied; label: 422"


class TestFailure:
    def test_a_released_effect_is_tried_again(self, ledger: Ledger, job: Job) -> None:
        released = ledger.effects.release(claim(ledger, job), error="503", actor=TEST)
        assert (released.state, released.error) == (EffectState.PLANNED, "503")
        again = claim(ledger, job)
        assert (again.resent, again.effect.attempt) == (False, 2)

    def test_a_refused_effect_is_tried_again_when_its_task_is_cleared(self, ledger: Ledger, job: Job) -> None:
        refused = ledger.effects.refuse(claim(ledger, job), error="404", actor=TEST)
        assert (refused.state, state(ledger, job)) == (EffectState.REFUSED, JobState.APPLYING)
        assert claim(ledger, job).resent is False

    def test_an_effect_whose_outcome_is_not_known_waits_for_a_person(self, ledger: Ledger, job: Job) -> None:
        effect = ledger.effects.lose(claim(ledger, job), error="time-out", actor=TEST)
        with pytest.raises(EffectUnknown, match=r"may have been applied: time-out.*--applied EXTERNAL_ID") as error:
            claim(ledger, job)
        assert error.value.effect.effect_id == effect.effect_id
        assert effect.effect_key in str(error.value)

    def test_an_attempt_that_died_with_its_claim_is_unknown_where_the_target_cannot_repeat(
        self, ledger: Ledger, job: Job
    ) -> None:
        died = claim(ledger, job, lease=OVER)
        with pytest.raises(EffectUnknown, match="attempt 1 by test ended without an outcome"):
            claim(ledger, job)
        assert ledger.effects.read(died.effect.effect_id).state is EffectState.UNKNOWN
        with pytest.raises(ClaimLost, match="lost its claim"):
            confirm(ledger, died)

    def test_an_attempt_that_died_with_its_claim_is_sent_again_where_the_target_can_repeat(
        self, ledger: Ledger, job: Job
    ) -> None:
        claim(ledger, job, lease=OVER)
        again = claim(ledger, job, resends=1)
        assert (again.resent, again.effect.attempt) == (True, 2)

    @pytest.mark.parametrize("what", ["release", "refuse", "lose"])
    def test_a_lost_claim_cannot_record_an_outcome(self, ledger: Ledger, job: Job, what: str) -> None:
        lost, newer = claim(ledger, job, lease=OVER), claim(ledger, job, resends=1)
        with pytest.raises(ClaimLost):
            getattr(ledger.effects, what)(lost, error="?", actor=TEST)
        assert ledger.effects.read(lost.effect.effect_id) == newer.effect

    def test_an_attempt_whose_plan_was_replaced_meanwhile_has_lost_its_claim(self, ledger: Ledger, job: Job) -> None:
        stalled = claim(ledger, job, lease=OVER)
        with pytest.raises(EffectUnknown):
            claim(ledger, job)
        ledger.effects.resolve(
            stalled.effect.effect_id, applied=False, external_id=None, actor=Actor.program("bob"), why="looked"
        )
        ask(ledger, job, effect_plan(url="http://cms/other"))
        with pytest.raises(ClaimLost):
            confirm(ledger, stalled)

    @pytest.mark.parametrize("text", ["nul \x00", "lone \ud800", "x" * 1_000_000])
    def test_whatever_a_target_says_is_recorded(self, ledger: Ledger, job: Job, text: str) -> None:
        ledger.effects.refuse(claim(ledger, job), error=text, actor=TEST)
        assert confirm(ledger, claim(ledger, job), external_id=text).state is EffectState.APPLIED
        assert state(ledger, job) is JobState.COMPLETED


class TestResolve:
    @pytest.fixture
    def unknown(self, ledger: Ledger, job: Job) -> Effect:
        return ledger.effects.lose(claim(ledger, job), error="time-out", actor=TEST)

    def resolve(self, ledger: Ledger, effect: Effect, *, applied: bool, external_id: str | None = None) -> Effect:
        return ledger.effects.resolve(
            effect.effect_id,
            applied=applied,
            external_id=external_id,
            actor=Actor.program("cli:bob"),
            why="looked it up",
        )

    def test_found_it_is_applied_and_completes_the_job(self, ledger: Ledger, job: Job, unknown: Effect) -> None:
        effect = self.resolve(ledger, unknown, applied=True, external_id="post-9")
        assert (effect.state, effect.external_id) == (EffectState.APPLIED, "post-9")
        assert state(ledger, job) is JobState.COMPLETED
        resolved = next(event for event in ledger.record(job.job_id).events if event.event == "effect resolved")
        assert (resolved.actor, resolved.reason) == ("cli:bob", "publish: applied as post-9: looked it up")

    def test_an_effect_that_was_not_found_is_sent_again(self, ledger: Ledger, job: Job, unknown: Effect) -> None:
        assert self.resolve(ledger, unknown, applied=False).state is EffectState.PLANNED
        again = claim(ledger, job)
        assert (again.resent, again.effect.effect_key) == (False, unknown.effect_key)
        confirm(ledger, again)
        assert state(ledger, job) is JobState.COMPLETED

    def test_the_attempt_that_was_resolved_can_no_longer_confirm(self, ledger: Ledger, job: Job) -> None:
        stalled = claim(ledger, job, lease=OVER)
        with pytest.raises(EffectUnknown):
            claim(ledger, job)
        self.resolve(ledger, stalled.effect, applied=False)
        with pytest.raises(ClaimLost):
            confirm(ledger, stalled)

    @pytest.mark.parametrize("what", ["release", "refuse", "lose"])
    def test_an_attempt_that_gave_up_cannot_record_an_outcome_after_a_person_has(
        self, ledger: Ledger, job: Job, what: str
    ) -> None:
        given_up = claim(ledger, job)
        self.resolve(ledger, ledger.effects.lose(given_up, error="time-out", actor=TEST), applied=False)
        with pytest.raises(ClaimLost):
            getattr(ledger.effects, what)(given_up, error="?", actor=TEST)

    @pytest.mark.parametrize("applied", [True, False])
    def test_only_an_unknown_effect_can_be_resolved(self, ledger: Ledger, job: Job, applied: bool) -> None:
        effect = confirm(ledger, claim(ledger, job))
        with pytest.raises(IllegalTransition, match="in the state 'applied'"):
            self.resolve(ledger, effect, applied=applied)

    def test_of_two_people_who_resolve_an_effect_at_once_one_does(
        self, ledger: Ledger, job: Job, unknown: Effect
    ) -> None:
        start = threading.Barrier(2)

        def attempt(applied: bool) -> EffectState | None:
            start.wait(10)
            try:
                return self.resolve(ledger, unknown, applied=applied, external_id="post-9" if applied else None).state
            except IllegalTransition:
                return None

        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(attempt, [True, False])).count(None) == 1

    def test_an_effect_that_does_not_exist_is_an_error(self, ledger: Ledger) -> None:
        with pytest.raises(EffectNotFound, match="no effect 7"):
            ledger.effects.resolve(7, applied=True, external_id=None, actor=Actor.program("bob"), why="?")


class TestWithoutEffects:
    def test_an_approved_job_that_intends_nothing_is_completed(self, ledger: Ledger) -> None:
        job = draft(ledger, job_spec(approval="not required", approval_reason="internal"))
        assert ledger.effects.complete_without_effects(job.job_id, actor=TEST).state is JobState.COMPLETED

    def test_a_job_that_intends_an_effect_is_not_completed_without_it(self, ledger: Ledger, job: Job) -> None:
        assert ledger.effects.complete_without_effects(job.job_id, actor=TEST).state is JobState.APPROVED

    def test_a_job_that_no_one_has_approved_is_not_completed(self, ledger: Ledger) -> None:
        job = draft(ledger)
        assert ledger.effects.complete_without_effects(job.job_id, actor=TEST).state is JobState.REVIEW


def test_every_refusal_says_the_job_whether_something_was_written_and_what_to_do(ledger: Ledger, job: Job) -> None:
    refusals: list[Callable[[], Any]] = [
        lambda: claim(ledger, job, effect_plan("mail")),
        lambda: claim(ledger, job, effect_plan(url="http://cms/other")),
        lambda: confirm(ledger, Claim(claim(ledger, job).effect, None)),
        lambda: claim(ledger, job),
    ]
    for refusal in refusals:
        with pytest.raises(HandoffError) as error:
            refusal()
        assert f"job {job.job_id}" in error.value.job
        assert error.value.written
        assert error.value.remedy
