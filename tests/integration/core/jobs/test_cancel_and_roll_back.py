"""A job is stopped in every phase, and what it wrote is rolled back: what changes, and how it is recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.effects.effect_store import Claim
from airflow_provider_aihandoff.core.errors import (
    CannotCancel,
    CannotRollBack,
    EffectOutOfOrder,
    EffectUnknown,
    JobCancelled,
    JobNotFound,
    PlanError,
)
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, EffectPlan, Job
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import EffectState, JobState, ResponseStatus, RevisionState
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec, submit
from tests.fake_provider import FakeProvider

EVE = Actor.user("eve")
OVER = timedelta(0)
UNDO = {"kind": "http", "plan": {"method": "DELETE", "url": "http://cms/posts/{external_id}"}}
APPLIED, VOID = EffectState.APPLIED, EffectState.VOID


def undoable(name: str, undo: dict[str, Any] | None = UNDO) -> EffectPlan:
    plan = effect_plan(name)
    return replace(plan, undo=undo, plan_digest=digest([plan.plan, undo]))


PLANS = undoable("store"), undoable("post")


def approved(ledger: Ledger, *plans: EffectPlan) -> Job:
    """A job whose writes, by default two, are approved."""
    return approve(ledger, ask(ledger, draft(ledger), *(plans or PLANS)))


def claim(ledger: Ledger, plan: EffectPlan, lease: timedelta = LEASE) -> Claim:
    return ledger.effects.claim(1, plan, lease=lease, actor=TEST)


def confirm(ledger: Ledger, claimed: Claim, external_id: str | None = None) -> Effect:
    external = external_id or f"{claimed.effect.name}-1"
    return ledger.effects.confirm(claimed, external_id=external, result=None, actor=TEST)


def resolve(ledger: Ledger, effect: Effect, *, applied: bool) -> None:
    ledger.effects.resolve(effect.effect_id, applied=applied, external_id=None, actor=Actor.user("bob"), why="looked")


def completed(ledger: Ledger, *plans: EffectPlan) -> Job:
    """The same job, applied."""
    approved(ledger, *plans)
    for plan in plans or PLANS:
        confirm(ledger, claim(ledger, plan))
    return ledger.job(1)


def cancel(ledger: Ledger) -> Job:
    return ledger.cancels.cancel(1, actor=EVE, reason="enough").job


def roll_back(ledger: Ledger, *leave: str) -> list[Effect]:
    return ledger.roll_backs.start(1, actor=EVE, reason="the wrong product", leave=leave)


def states(ledger: Ledger) -> list[EffectState]:
    return [effect.state for effect in ledger.record(1).current_effects]


def events(ledger: Ledger) -> list[str]:
    return [event.event for event in ledger.record(1).events]


#: How a job comes into a phase in which nothing of it is being written.
BEFORE: dict[str, Callable[[Ledger], Any]] = {
    "queued": lambda ledger: ledger.submission.open(job_spec()),
    "running": lambda ledger: submit(ledger, job_spec()),
    "review": lambda ledger: ask(ledger, draft(ledger), *PLANS),
    "approved": approved,
}

#: The outcome of the first of two effects, while the second was not claimed.
FIRST: dict[str, Callable[[Ledger], Any]] = {
    "claimed": lambda ledger: claim(ledger, PLANS[0]),
    "unknown": lambda ledger: ledger.effects.lose(claim(ledger, PLANS[0]), error="time-out", actor=TEST),
    "planned": lambda ledger: ledger.effects.release(claim(ledger, PLANS[0]), error="503", actor=TEST),
    "refused": lambda ledger: ledger.effects.refuse(claim(ledger, PLANS[0]), error="422", actor=TEST),
    "applied": lambda ledger: confirm(ledger, claim(ledger, PLANS[0])),
}

#: How a job ends without anything to stop.
ENDED: dict[str, Callable[[Ledger], Any]] = {
    "rejected": lambda ledger: decide(ledger, "reject"),
    "failed": lambda ledger: fail(ledger),
    "rolling_back": lambda ledger: (completed(ledger), roll_back(ledger)),
    "rolled_back": lambda ledger: undo_all(ledger),
}


def decide(ledger: Ledger, verdict: Any) -> None:
    job = ask(ledger, draft(ledger), *PLANS)
    ledger.reviews.decide(1, verdict, digest=str(job.review_digest), person=Person("bob"))


def fail(ledger: Ledger) -> None:
    submit(ledger, job_spec())
    ledger.outputs.fail(1, 1, actor=TEST, reason="the deadline passed", error={"kind": "deadline"})


def undo_all(ledger: Ledger) -> None:
    completed(ledger)
    for undo in roll_back(ledger):
        confirm(ledger, claim(ledger, undo.as_plan))


class TestCancelBeforeAnythingIsWritten:
    @pytest.mark.parametrize("phase", ["queued", "review", "approved"])
    def test_the_job_is_cancelled_at_once_and_the_record_says_who_and_why(self, ledger: Ledger, phase: str) -> None:
        BEFORE[phase](ledger)

        request = ledger.cancels.cancel(1, actor=EVE, reason="enough")

        assert (request.job.state, request.job.state_reason, request.revision) == (JobState.CANCELLED, "enough", None)
        last = ledger.record(1).events[-1]
        assert (last.by, last.event, last.from_state, last.reason) == (EVE, "cancelled", phase, "enough")
        assert set(states(ledger)) <= {VOID}

    @pytest.mark.parametrize("phase", BEFORE)
    def test_twice_it_is_recorded_once(self, ledger: Ledger, phase: str) -> None:
        BEFORE[phase](ledger)
        first = ledger.cancels.cancel(1, actor=EVE, reason="enough")
        assert ledger.cancels.cancel(1, actor=Actor.user("bob"), reason="again") == first

    def test_a_request_in_transit_is_counted_and_its_response_is_orphaned(self, ledger: Ledger) -> None:
        ledger.submission.open(job_spec())
        intent = ledger.submission.intend(1, 1, actor=TEST, lease=LEASE)
        assert intent.token is not None

        cancel(ledger)
        answer = ledger.submission.submitted(
            1, 1, token=intent.token, response_id="resp_1", status=ResponseStatus.QUEUED, actor=TEST
        )

        assert answer is None
        assert ledger.revision(1, 1).unknown_submissions == 1
        unknown, cancelled = [event for event in ledger.record(1).events if event.by == EVE]
        assert (unknown.event, cancelled.event) == ("submit unknown", "cancelled")
        assert "a response may exist, and may be billed" in str(unknown.reason)

    def test_a_request_that_was_not_sent_is_no_longer_sent(self, ledger: Ledger) -> None:
        ledger.submission.open(job_spec())
        cancel(ledger)
        assert ledger.revision(1, 1).unknown_submissions == 0
        with pytest.raises(JobCancelled, match="cancelled before the request was sent"):
            ledger.submission.intend(1, 1, actor=TEST, lease=LEASE)

    def test_an_approved_effect_can_no_longer_be_claimed_and_the_task_gets_the_reason(self, ledger: Ledger) -> None:
        approved(ledger)
        cancel(ledger)
        with pytest.raises(
            JobCancelled, match=r"was cancelled \(enough\)\. This attempt made no external write\."
        ) as refused:
            claim(ledger, PLANS[0])
        assert "job 1" in refused.value.job

    def test_a_job_that_does_not_exist_is_an_error(self, ledger: Ledger) -> None:
        with pytest.raises(JobNotFound, match="no job 1"):
            cancel(ledger)


class TestCancelWhileAResponseRuns:
    @pytest.fixture(autouse=True)
    def _running(self, ledger: Ledger) -> None:
        submit(ledger, job_spec())

    OUTPUT = Output(ResponseStatus.COMPLETED, "A kettle.", usage={"input_tokens": 7}, cost_usd=Decimal("0.01"))

    def test_the_wish_is_recorded_first_and_names_the_response_to_stop(self, ledger: Ledger) -> None:
        request = ledger.cancels.cancel(1, actor=EVE, reason="enough")

        assert request.revision is not None
        assert (request.job.state, request.job.cancelling) == (JobState.RUNNING, "enough")
        assert (request.revision.response_id, request.revision.state) == ("resp_1", RevisionState.RUNNING)
        last = ledger.record(1).events[-1]
        assert (last.by, last.event, last.reason) == (EVE, "cancel requested", "enough")

    def test_a_job_is_cancelled_when_its_response_is_stopped(self, ledger: Ledger) -> None:
        cancel(ledger)
        job = ledger.outputs.cancelled(1, 1, actor=EVE, reason="enough", status=ResponseStatus.CANCELLED)
        assert (job.state, job.state_reason, job.cancelling) == (JobState.CANCELLED, "enough", None)
        assert ledger.revision(1, 1).state is RevisionState.CANCELLED

    @pytest.mark.parametrize("approval", ["required", "not required"])
    def test_an_output_that_comes_after_the_wish_is_recorded_with_its_cost_and_not_taken(
        self, ledger: Ledger, approval: Any
    ) -> None:
        spec = job_spec(approval=approval, approval_reason="internal", job_key="post:pan")
        job_id = submit(ledger, spec, "resp_2").job_id
        ledger.cancels.cancel(job_id, actor=EVE, reason="enough")

        job = ledger.outputs.store(job_id, 1, self.OUTPUT, actor=Actor.program("task:late"))

        assert (job.state, job.state_reason, job.cancelling) == (JobState.CANCELLED, "enough", None)
        revision = ledger.revision(job_id, 1)
        assert (revision.state, revision.output, revision.cost_usd) == (RevisionState.CANCELLED, None, Decimal("0.01"))
        record = ledger.record(job_id)
        assert [event.event for event in record.events][-3:] == ["cancel requested", "cancelled", "output late"]
        assert (record.events[-1].detail["usage"], record.decisions) == ({"input_tokens": 7}, [])
        assert first_break(record.events, record.job) is None

    def test_after_a_cancel_a_late_output_and_a_repeated_cancel_change_nothing(self, ledger: Ledger) -> None:
        cancel(ledger)
        stored = ledger.outputs.store(1, 1, self.OUTPUT, actor=Actor.program("task:late"))
        assert ledger.outputs.cancelled(1, 1, actor=EVE, reason="enough", status=ResponseStatus.COMPLETED) == stored
        assert ledger.outputs.store(1, 1, self.OUTPUT, actor=EVE) == stored

    def test_a_response_that_ends_while_openai_is_asked_to_stop_it_changes_nothing(self, ledger: Ledger) -> None:
        class Finishing(FakeProvider):
            def cancel(self, response_id: str) -> ModelResponse | None:
                ledger.outputs.ended(1, 1, status=ResponseStatus.COMPLETED, actor=Actor.program("webhook"))
                ledger.outputs.store(1, 1, output, actor=Actor.program("task:late"))
                return super().cancel(response_id)

        output, provider = self.OUTPUT, Finishing(ResponseStatus.COMPLETED)

        job = cancel_job(ledger, lambda conn_id: provider, 1, actor=EVE, reason="enough")

        assert (job.state, job.state_reason) == (JobState.CANCELLED, "enough")
        assert events(ledger)[-4:] == ["cancel requested", "response ended", "cancelled", "output late"]
        assert ledger.revision(1, 1).cost_usd == Decimal("0.01")

    def test_a_job_is_cancelled_even_if_openai_cannot_be_asked_and_its_response_is_late(self, ledger: Ledger) -> None:
        def unreachable(conn_id: str) -> Any:
            raise ConnectionError(conn_id)

        assert cancel_job(ledger, unreachable, 1, actor=EVE, reason="enough").state is JobState.CANCELLED

        assert ledger.outputs.store(1, 1, self.OUTPUT, actor=Actor.program("task:late")).state is JobState.CANCELLED
        assert events(ledger)[-2:] == ["cancelled", "output late"]

    @pytest.mark.parametrize("how", ["failed", "deadline"])
    def test_a_response_that_fails_after_the_wish_leaves_a_cancelled_job(self, ledger: Ledger, how: str) -> None:
        cancel(ledger)
        if how == "failed":
            job = ledger.outputs.store(
                1, 1, Output(ResponseStatus.FAILED, error={"kind": "failed"}), actor=Actor.program("task:late")
            )
        else:
            job = ledger.outputs.fail(1, 1, actor=Actor.program("task:late"), reason="late", error={"kind": "deadline"})
        assert (job.state, job.state_reason, job.cancelling) == (JobState.CANCELLED, "enough", None)

    def test_a_task_that_comes_after_the_wish_is_refused(self, ledger: Ledger) -> None:
        cancel(ledger)
        for spec in (job_spec(), job_spec(input={"model": "gpt-5.2", "input": "Write about the pan."})):
            with pytest.raises(JobCancelled, match=r"was cancelled \(enough\)"):
                ledger.submission.open(spec)
        assert ledger.job(1).cancelling == "enough"

    def test_a_cancelled_job_starts_again_with_an_explicit_regenerate(self, ledger: Ledger) -> None:
        cancel(ledger)
        owner = replace(job_spec().owner, run_id="manual__2")
        opened = ledger.submission.open(job_spec(owner=owner, regenerate=True))
        assert (opened.job.state, opened.job.revision, opened.job.cancelling) == (JobState.QUEUED, 2, None)
        assert opened.superseded is not None


class TestCancelWhileApplying:
    @pytest.fixture(autouse=True)
    def _approved(self, ledger: Ledger) -> None:
        approved(ledger)

    @pytest.mark.parametrize("first", ["claimed", "unknown"])
    def test_while_an_effect_is_under_way_the_rest_is_void_and_the_record_names_it(
        self, ledger: Ledger, first: str
    ) -> None:
        FIRST[first](ledger)

        job = cancel(ledger)

        assert (job.state, job.cancelling) == (JobState.APPLYING, "enough")
        assert states(ledger) == [EffectState(first), VOID]
        last = ledger.record(1).events[-1]
        assert (last.by, last.event) == (EVE, "cancel requested")
        assert last.reason == "enough; the outcome of store is not known yet"

    @pytest.mark.parametrize(
        ("first", "left", "why"),
        [
            ("planned", VOID, "enough; 0 of 2 effects applied"),
            ("refused", VOID, "enough; 0 of 2 effects applied"),
            ("applied", APPLIED, "enough; partly applied: 1 of 2 effects applied"),
        ],
    )
    def test_a_job_without_an_effect_under_way_is_cancelled_at_once_and_says_what_stays_written(
        self, ledger: Ledger, first: str, left: EffectState, why: str
    ) -> None:
        FIRST[first](ledger)

        job = cancel(ledger)

        assert (job.state, job.state_reason, job.cancelling) == (JobState.CANCELLED, why, None)
        assert states(ledger) == [left, VOID]
        assert [event.by for event in ledger.record(1).events[-2:]] == [EVE, EVE]

    @pytest.mark.parametrize("first", FIRST)
    def test_twice_it_is_recorded_once(self, ledger: Ledger, first: str) -> None:
        FIRST[first](ledger)
        once = cancel(ledger)
        assert ledger.cancels.cancel(1, actor=Actor.user("bob"), reason="again").job == once
        assert events(ledger).count("cancel requested") == 1

    @pytest.mark.parametrize(
        ("say", "left", "why"),
        [
            ("confirm", APPLIED, "enough; partly applied: 1 of 2 effects applied"),
            ("release", VOID, "enough; 0 of 2 effects applied"),
            ("refuse", VOID, "enough; 0 of 2 effects applied"),
        ],
    )
    def test_a_job_is_cancelled_once_the_attempt_records_its_outcome(
        self, ledger: Ledger, say: str, left: EffectState, why: str
    ) -> None:
        claimed = claim(ledger, PLANS[0])
        cancel(ledger)

        how = {"external_id": "store-1", "result": None} if say == "confirm" else {"error": "503"}
        getattr(ledger.effects, say)(claimed, actor=Actor.program("task:slow"), **how)

        record = ledger.record(1)
        assert (record.job.state, record.job.state_reason, record.job.cancelling) == (JobState.CANCELLED, why, None)
        assert states(ledger) == [left, VOID]
        assert (record.events[-1].event, record.events[-1].actor) == ("cancelled", "task:slow")
        assert first_break(record.events, record.job) is None

    @pytest.mark.parametrize("died", [False, True], ids=["lost", "died"])
    @pytest.mark.parametrize(
        ("applied", "left", "why"),
        [
            (True, APPLIED, "enough; partly applied: 1 of 2 effects applied"),
            (False, VOID, "enough; 0 of 2 effects applied"),
        ],
    )
    def test_or_with_what_a_person_finds_out_about_one_that_says_nothing(
        self, ledger: Ledger, died: bool, applied: bool, left: EffectState, why: str
    ) -> None:
        claimed = claim(ledger, PLANS[0], OVER if died else LEASE)
        cancel(ledger)
        if died:
            lost = ledger.effects.give_up(claimed.effect.effect_id, actor=Actor.program("reconciler"))
        else:
            lost = ledger.effects.lose(claimed, error="time-out", actor=TEST)
        assert (lost.state, ledger.job(1).state) == (EffectState.UNKNOWN, JobState.APPLYING)
        with pytest.raises(EffectUnknown):
            claim(ledger, PLANS[0])

        resolve(ledger, lost, applied=applied)

        job = ledger.job(1)
        assert (job.state, job.state_reason, job.cancelling) == (JobState.CANCELLED, why, None)
        assert states(ledger) == [left, VOID]

    def test_of_several_effects_under_way_the_last_one_ends_the_job(self, ledger: Ledger) -> None:
        store, post = (claim(ledger, plan) for plan in PLANS)
        cancel(ledger)
        ledger.effects.refuse(store, error="422", actor=TEST)
        assert (ledger.job(1).state, states(ledger)) == (
            JobState.APPLYING,
            [EffectState.REFUSED, EffectState.CLAIMED],
        )
        confirm(ledger, post)
        assert (ledger.job(1).state, states(ledger)) == (JobState.CANCELLED, [VOID, APPLIED])

    def test_if_all_were_applied_after_all_it_is_completed(self, ledger: Ledger) -> None:
        claims = [claim(ledger, plan) for plan in PLANS]
        cancel(ledger)
        for claimed in claims:
            confirm(ledger, claimed)
        job = ledger.job(1)
        assert (job.state, job.cancelling) == (JobState.COMPLETED, None)
        with pytest.raises(CannotCancel):
            cancel(ledger)


class TestCancelOfWhatHasEnded:
    def test_cancelling_a_completed_job_is_refused_with_what_it_wrote_and_how_to_undo_it(self, ledger: Ledger) -> None:
        before = completed(ledger)
        with pytest.raises(CannotCancel, match="it is completed: there is nothing left to stop") as refused:
            cancel(ledger)
        assert "job 1" in refused.value.job
        assert refused.value.written == "What it wrote stays as it is."
        assert "`airflow aihandoff rollback 1`" in refused.value.remedy
        assert ledger.job(1) == before

    @pytest.mark.parametrize("state", ENDED)
    def test_any_other_is_refused_and_nothing_changes(self, ledger: Ledger, state: str) -> None:
        ENDED[state](ledger)
        before = ledger.record(1)
        with pytest.raises(CannotCancel, match=f"it is {state.replace('_', ' ')}: there is nothing left") as refused:
            cancel(ledger)
        assert refused.value.written == "Nothing was changed. This step made no external write."
        assert ledger.record(1) == before


class TestStartOfARollBack:
    def test_each_applied_effect_gets_its_own_undo_the_last_of_the_plan_first(self, ledger: Ledger) -> None:
        approved(ledger)
        for plan in reversed(PLANS):  # no order was declared
            confirm(ledger, claim(ledger, plan))

        undos = roll_back(ledger)

        post, store = undos
        assert [undo.name for undo in undos] == ["undo:post", "undo:store"]
        assert [undo.plan["url"] for undo in undos] == ["http://cms/posts/post-1", "http://cms/posts/store-1"]
        assert (post.after_effects, store.after_effects) == ([], ["undo:post"])
        assert {undo.state for undo in undos} == {EffectState.PLANNED}
        record = ledger.record(1)
        assert len({effect.effect_key for effect in record.effects}) == 4
        assert {undo.undoes for undo in undos} == {effect.effect_id for effect in record.current_effects}
        assert record.undos == undos

    def test_the_record_says_who_why_and_what(self, ledger: Ledger) -> None:
        completed(ledger)
        roll_back(ledger, "store")
        started = ledger.record(1).events[-1]
        assert (started.by, started.event) == (EVE, "roll back started")
        assert started.reason == "the wrong product; left as they are: store"
        assert started.detail == {"effects": ["undo:post"]}

    def test_the_applied_effects_of_a_cancelled_job_are_rolled_back(self, ledger: Ledger) -> None:
        approved(ledger)
        FIRST["applied"](ledger)
        cancel(ledger)
        assert [undo.name for undo in roll_back(ledger)] == ["undo:store"]

    def test_the_other_effects_of_a_partly_applied_job_are_void(self, ledger: Ledger) -> None:
        approved(ledger)
        FIRST["applied"](ledger)
        ledger.effects.refuse(claim(ledger, PLANS[1]), error="422", actor=TEST)
        (undo,) = roll_back(ledger)
        assert states(ledger) == [APPLIED, VOID]
        confirm(ledger, claim(ledger, undo.as_plan))
        job = ledger.job(1)
        assert (job.state, job.state_reason) == (JobState.ROLLED_BACK, "1 of 1 effects undone")

    def test_an_effect_that_was_applied_during_the_cancel_is_rolled_back_too(self, ledger: Ledger) -> None:
        approved(ledger)
        claimed = claim(ledger, PLANS[0])
        cancel(ledger)
        with pytest.raises(CannotRollBack, match="it is applying, and has nothing applied to undo"):
            roll_back(ledger)
        confirm(ledger, claimed)
        assert [undo.name for undo in roll_back(ledger)] == ["undo:store"]
        assert ledger.job(1).cancelling is None

    def test_begun_again_it_stays_as_it_was_planned_whatever_is_to_be_left_now(self, ledger: Ledger) -> None:
        completed(ledger)
        first = roll_back(ledger)
        assert roll_back(ledger, "store") == first
        for undo in first:
            confirm(ledger, claim(ledger, undo.as_plan))
        after = ledger.record(1)
        assert [undo.state for undo in roll_back(ledger)] == [APPLIED, APPLIED]
        assert ledger.record(1) == after


class TestRollBackThatDoesNotBegin:
    def refused(self, ledger: Ledger, what: str, *leave: str) -> CannotRollBack:
        before = ledger.record(1)
        with pytest.raises(CannotRollBack, match=what) as refused:
            roll_back(ledger, *leave)
        assert refused.value.written == "Nothing was undone. This step made no external write."
        assert "job 1" in refused.value.job
        assert ledger.record(1) == before
        return refused.value

    @pytest.mark.parametrize("phase", [*BEFORE, "rejected", "failed"])
    def test_a_roll_back_is_refused_where_nothing_was_ever_applied(self, ledger: Ledger, phase: str) -> None:
        (BEFORE | ENDED)[phase](ledger)
        self.refused(ledger, f"it is {phase}, and has nothing applied to undo")

    @pytest.mark.parametrize("state", ["applying", "cancelled"])
    def test_a_roll_back_is_refused_where_the_target_refused_the_effect(self, ledger: Ledger, state: str) -> None:
        approved(ledger)
        FIRST["refused"](ledger)
        if state == "cancelled":
            cancel(ledger)
        self.refused(ledger, f"it is {state}, and has nothing applied to undo")

    def test_a_roll_back_is_refused_while_the_outcome_of_an_effect_is_unknown(self, ledger: Ledger) -> None:
        approved(ledger)
        FIRST["applied"](ledger)
        lost = ledger.effects.lose(claim(ledger, PLANS[1]), error="time-out", actor=TEST)
        assert "resolve them" in self.refused(ledger, "'post' is unknown").remedy
        resolve(ledger, lost, applied=False)
        assert [undo.name for undo in roll_back(ledger)] == ["undo:store"]

    @pytest.mark.parametrize(
        ("undo", "why"),
        [
            (None, "'mail' declares no undo"),
            ({"method": "DELETE", "endpoint": "/mail"}, "'mail' has an undo that an earlier release kept for people"),
            ({"kind": "http", "plan": {"headers": {"X-Key": "***"}}}, "'mail' has an undo with a masked secret"),
        ],
    )
    def test_an_effect_that_cannot_be_undone_says_so_and_can_be_left(
        self, ledger: Ledger, undo: dict[str, Any] | None, why: str
    ) -> None:
        completed(ledger, *PLANS, undoable("mail", undo))
        assert self.refused(ledger, why).remedy == "Undo these by hand, and leave them out: `--leave NAME`."
        assert [undo.name for undo in roll_back(ledger, "mail")] == ["undo:post", "undo:store"]
        for planned in roll_back(ledger):
            confirm(ledger, claim(ledger, planned.as_plan))
        assert (ledger.job(1).state, states(ledger)) == (JobState.ROLLED_BACK, [APPLIED] * 3)

    @pytest.mark.parametrize("external_id", [None, "", ".", ".."])
    def test_an_undo_that_names_the_external_id_needs_one_that_leads_to_a_record(
        self, ledger: Ledger, external_id: str | None
    ) -> None:
        approved(ledger)
        for plan, external in zip(PLANS, ("store-1", external_id), strict=True):
            ledger.effects.confirm(claim(ledger, plan), external_id=external, result=None, actor=TEST)
        self.refused(ledger, "'post' has an undo that names {external_id}, and its external id is")
        assert [undo.name for undo in roll_back(ledger, "post")] == ["undo:store"]

    def test_a_roll_back_that_would_leave_everything_is_refused(self, ledger: Ledger) -> None:
        completed(ledger)
        self.refused(ledger, "it is completed, and has nothing applied to undo", "store", "post")

    def test_a_roll_back_that_names_an_effect_that_the_job_does_not_have_is_refused(self, ledger: Ledger) -> None:
        completed(ledger)
        assert self.refused(ledger, "it has no effect 'male', 'tmp' to leave", "tmp", "store", "male").remedy

    def test_a_job_that_does_not_exist_is_an_error(self, ledger: Ledger) -> None:
        with pytest.raises(JobNotFound):
            roll_back(ledger)

    def test_no_effect_can_be_called_like_the_undo_of_another(self, ledger: Ledger) -> None:
        job = draft(ledger)
        with pytest.raises(PlanError, match="'undo:post'"):
            ask(ledger, job, undoable("undo:post"), undoable("post"))


class TestRollBackThatIsTakenUpAgain:
    @pytest.fixture
    def undos(self, ledger: Ledger) -> list[EffectPlan]:
        completed(ledger)
        return [undo.as_plan for undo in roll_back(ledger)]

    def finish(self, ledger: Ledger, undos: list[EffectPlan]) -> None:
        for undo in undos:
            confirm(ledger, claim(ledger, undo))
        job = ledger.job(1)
        assert (job.state, job.state_reason) == (JobState.ROLLED_BACK, "2 of 2 effects undone")

    @pytest.mark.parametrize("what", ["refuse", "release"])
    def test_an_undo_that_was_not_applied_is_sent_again_and_the_ones_after_it_wait(
        self, ledger: Ledger, undos: list[EffectPlan], what: str
    ) -> None:
        post, store = undos
        getattr(ledger.effects, what)(claim(ledger, post), error="403", actor=TEST)
        job = ledger.job(1)
        assert (job.state, job.state_reason) == (JobState.ROLLING_BACK, "0 of 2 effects undone; undo:post: 403")
        with pytest.raises(EffectOutOfOrder, match="'undo:store' comes after 'undo:post'"):
            claim(ledger, store)
        self.finish(ledger, undos)

    @pytest.mark.parametrize("applied", [True, False])
    def test_an_unknown_undo_waits_for_a_person_and_then_the_roll_back_continues(
        self, ledger: Ledger, undos: list[EffectPlan], applied: bool
    ) -> None:
        post, store = undos
        lost = ledger.effects.lose(claim(ledger, post), error="time-out", actor=TEST)
        with pytest.raises(EffectUnknown, match="'undo:post' may have been applied"):
            claim(ledger, post)
        with pytest.raises(EffectOutOfOrder):
            claim(ledger, store)
        resolve(ledger, lost, applied=applied)
        self.finish(ledger, [store] if applied else undos)

    def test_the_last_one_that_a_person_finds_undone_ends_it(self, ledger: Ledger, undos: list[EffectPlan]) -> None:
        confirm(ledger, claim(ledger, undos[0]))
        resolve(ledger, ledger.effects.lose(claim(ledger, undos[1]), error="cut", actor=TEST), applied=True)
        record = ledger.record(1)
        assert (record.job.state, record.events[-1].actor) == (JobState.ROLLED_BACK, "user:bob")
        assert first_break(record.events, record.job) is None
