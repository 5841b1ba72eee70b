"""Bulk actions: what was shown is what is done, each job once, whatever dies in the middle."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core import crashpoints
from airflow_provider_aihandoff.core.bulk import bulk_run
from airflow_provider_aihandoff.core.bulk.bulk_run import Preview, begin, preview, run
from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction, Outcome
from airflow_provider_aihandoff.core.bulk.bulk_totals import in_words
from airflow_provider_aihandoff.core.errors import BulkChanged, BulkNotFound, CannotReassign, FilterRefused
from airflow_provider_aihandoff.core.generation.provider import ModelProvider
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job, Owner
from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, Reviewers, ReviewRules
from airflow_provider_aihandoff.core.states import EffectState, JobState, ResponseStatus
from tests.factories import LEASE, OWNER, TEST, ask, draft, effect_plan, job_spec, submit
from tests.integration.web.world import approved, cms, completed, confirm, lose, plan_of
from tests.target import Target

BOB = Actor.user("bob", "7")
PUBLISHING = JobFilter(job_type="publishing")


def anyone(dag_ids: Iterable[str]) -> list[str]:
    """A user who may act on the jobs of every Dag."""
    return list(dag_ids)


def no_provider(conn_id: str) -> ModelProvider:
    raise AssertionError("no response runs")


def ended(owners: Collection[Owner]) -> dict[Owner, TaskState]:
    """Every task has ended."""
    return dict.fromkeys(owners, TaskState.ENDED)


def in_review(ledger: Ledger, number: int, **owner: Any) -> Job:
    spec = job_spec(job_key=f"post:{number}", owner=replace(OWNER, **owner))
    return ask(ledger, draft(ledger, spec, response_id=f"resp_{number}"))


def shown(
    ledger: Ledger,
    action: BulkAction = BulkAction.CANCEL,
    wanted: JobFilter = PUBLISHING,
    reviewers: Reviewers | None = None,
) -> Preview:
    return preview(ledger, action, wanted, answerable=anyone, actor=BOB, reviewers=reviewers)


def begun(
    ledger: Ledger,
    action: BulkAction = BulkAction.CANCEL,
    wanted: JobFilter = PUBLISHING,
    reviewers: Reviewers | None = None,
) -> int:
    seen = shown(ledger, action, wanted, reviewers)
    return begin(ledger, seen, count=seen.count, digest=seen.digest, reason="a wrong prompt", actor=BOB)


def events(ledger: Ledger, job_id: int, name: str) -> list[Any]:
    return [event for event in ledger.record(job_id).events if event.event == name]


@pytest.fixture
def target() -> Iterator[Target]:
    with cms() as target:
        yield target


def test_a_preview_says_what_each_job_is_in_for_and_changes_nothing(ledger: Ledger) -> None:
    job = in_review(ledger, 1)
    cancelled = in_review(ledger, 2)
    ledger.cancels.cancel(cancelled.job_id, actor=TEST, reason="no longer needed")
    seen = shown(ledger)
    words = {step.job.job_id: (step.refused, step.words) for step in seen.steps}
    assert words[job.job_id] == (False, "No external write will be made.")
    assert words[cancelled.job_id] == (True, "It is cancelled already, or is being cancelled.")
    assert (seen.count, seen.refused) == (1, 1)
    assert ledger.job(job.job_id) == job
    assert not events(ledger, job.job_id, "cancelled")


def test_jobs_are_cancelled_each_with_its_own_record(ledger: Ledger) -> None:
    jobs = [in_review(ledger, number) for number in range(3)]
    bulk_id = begun(ledger)
    progress = run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone)
    assert (progress.done, progress.is_over) == (3, True)
    for job in jobs:
        assert ledger.job(job.job_id).state is JobState.CANCELLED
        (event,) = events(ledger, job.job_id, "cancelled")
        assert (event.by, event.reason) == (BOB, f"a wrong prompt (bulk action {bulk_id})")
    assert {each.outcome for each in ledger.bulks.report(bulk_id)} == {Outcome.DONE}


@pytest.mark.parametrize("other", ["the number", "the jobs", "none"])
def test_what_was_not_shown_like_this_is_not_done(ledger: Ledger, other: str) -> None:
    in_review(ledger, 1)
    seen = shown(ledger)
    count = 2 if other == "the number" else seen.count
    if other == "the jobs":
        in_review(ledger, 2)
        ledger.cancels.cancel(1, actor=TEST, reason="no longer needed")
    if other == "none":
        ledger.cancels.cancel(1, actor=TEST, reason="no longer needed")
        seen, count = shown(ledger), 0
    now = shown(ledger)
    with pytest.raises(BulkChanged):
        begin(ledger, now, count=count, digest=seen.digest, reason="no", actor=BOB)
    assert ledger.bulks.newest(BOB, 10) == []


def test_a_filter_is_needed_and_finds_no_more_than_a_bound(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FilterRefused, match="needs a filter"):
        shown(ledger, wanted=JobFilter())
    in_review(ledger, 1)
    in_review(ledger, 2)
    monkeypatch.setattr(bulk_run, "MAX_JOBS", 1)
    with pytest.raises(FilterRefused, match="more than 1 jobs"):
        shown(ledger)


def test_rights_are_checked_for_each_job_when_it_is_shown_and_when_it_is_taken(ledger: Ledger) -> None:
    mine, other = in_review(ledger, 1, dag_id="mine"), in_review(ledger, 2, dag_id="other")
    seen = preview(ledger, BulkAction.CANCEL, PUBLISHING, answerable=lambda dag_ids: {"mine"} & set(dag_ids), actor=BOB)
    assert {step.job.job_id: step.refused for step in seen.steps} == {mine.job_id: False, other.job_id: True}

    bulk_id = begun(ledger)  # when the user still may act on both
    run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=lambda dag_ids: {"mine"} & set(dag_ids))
    assert ledger.job(mine.job_id).state is JobState.CANCELLED
    assert ledger.job(other.job_id) == other
    report = {each.job_id: each.outcome for each in ledger.bulks.report(bulk_id)}
    assert report == {mine.job_id: Outcome.DONE, other.job_id: Outcome.REFUSED}


def test_a_run_takes_as_much_as_it_has_time_for_and_the_next_one_goes_on(ledger: Ledger) -> None:
    for number in range(3):
        in_review(ledger, number)
    bulk_id = begun(ledger)
    first = run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone, seconds=0)
    assert (first.done, first.left) == (0, 3)
    assert run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone).done == 3
    assert run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone).done == 3


def test_a_step_that_breaks_keeps_no_other_from_being_taken(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [in_review(ledger, number) for number in range(2)]
    cancel_job = bulk_run.cancel_job

    def breaks(ledger: Ledger, provider_for: Any, job_id: int, **more: Any) -> Job:
        if job_id == jobs[0].job_id:
            raise RuntimeError("the network")
        return cancel_job(ledger, provider_for, job_id, **more)

    bulk_id = begun(ledger)
    with monkeypatch.context() as patch:
        patch.setattr(bulk_run, "cancel_job", breaks)
        progress = run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone)
    assert (progress.done, progress.unfinished) == (1, 1)
    assert run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone).done == 2


def test_what_is_not_there_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(BulkNotFound):
        run(ledger, 99, provider_for=no_provider, states_of=ended, answerable=anyone)


class TestRollBack:
    """Many jobs rolled back."""

    def test_each_write_is_undone_once(self, ledger: Ledger, target: Target) -> None:
        for key in ("a", "b"):
            plan = plan_of(target, key)
            confirm(ledger, approved(ledger, plan, key=key), plan)
        waiting = in_review(ledger, 1)
        bulk_id = begun(ledger, BulkAction.ROLL_BACK)
        progress = run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone)
        assert (progress.done, progress.refused) == (2, 1)
        run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone)
        assert sorted(request.path for request in target.received) == ["/a/a-1", "/b/b-1"]
        assert ledger.job(waiting.job_id) == waiting

    def test_what_was_applied_since_it_was_shown_is_not_undone(self, ledger: Ledger, target: Target) -> None:
        plans = [plan_of(target, "a"), plan_of(target, "b")]
        job = approved(ledger, *plans)
        confirm(ledger, job, plans[0])
        bulk_id = begun(ledger, BulkAction.ROLL_BACK)
        confirm(ledger, job, plans[1])
        progress = run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone)
        assert (progress.done, progress.refused) == (0, 1)
        assert ledger.job(job.job_id).state is JobState.COMPLETED
        assert target.received == []

    def test_one_without_an_undo_is_refused_before(self, ledger: Ledger, target: Target) -> None:
        completed(ledger, plan_of(target, "a", undo={}))
        (step,) = shown(ledger, BulkAction.ROLL_BACK).steps
        assert step.refused


class TestResolve:
    """Many unknown effects answered alike."""

    @pytest.mark.parametrize(
        ("action", "state"),
        [
            (BulkAction.RESOLVE_APPLIED, EffectState.APPLIED),
            (BulkAction.RESOLVE_NOT_APPLIED, EffectState.PLANNED),
        ],
    )
    def test_each_effect_gets_the_answer(self, ledger: Ledger, action: BulkAction, state: EffectState) -> None:
        effects = [lose(ledger, approved(ledger, effect_plan(), key=key), effect_plan()) for key in ("a", "b")]
        bulk_id = begun(ledger, action)
        assert run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone).done == 2
        assert {ledger.effects.read(effect.effect_id).state for effect in effects} == {state}

    def test_an_attempt_that_was_not_shown_is_not_answered(self, ledger: Ledger) -> None:
        job = approved(ledger, effect_plan(), key="a")
        effect = lose(ledger, job, effect_plan())
        bulk_id = begun(ledger, BulkAction.RESOLVE_APPLIED)
        ledger.effects.resolve(
            effect.effect_id, applied=False, external_id=None, actor=TEST, why="not there", attempt=effect.attempt
        )
        lose(ledger, job, effect_plan())
        progress = run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone)
        assert (progress.done, progress.refused) == (0, 1)
        assert ledger.effects.read(effect.effect_id).state is EffectState.UNKNOWN


class TestReconcile:
    """Next steps for many jobs at once."""

    def test_only_the_jobs_of_the_filter_get_their_next_step(self, ledger: Ledger, conninfo: dict[str, Any]) -> None:
        jobs = [in_review(ledger, number) for number in range(3)]
        with psycopg.connect(**conninfo) as connection:
            connection.execute(
                """UPDATE aihandoff.jobs SET review_on_timeout = 'reject',
                    review_deadline = now() - CASE WHEN job_id < 3 THEN interval '1 h' ELSE interval '-1 h' END"""
            )
        bulk_id = begun(ledger, BulkAction.RECONCILE, JobFilter(key="post:1"))
        run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone)
        assert [ledger.job(job.job_id).state for job in jobs] == [JobState.REVIEW, JobState.REJECTED, JobState.REVIEW]
        bulk_id = begun(ledger, BulkAction.RECONCILE)
        run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone)
        assert [ledger.job(job.job_id).state for job in jobs] == [JobState.REJECTED, JobState.REJECTED, JobState.REVIEW]
        report = {each.job_id: (each.outcome, each.note) for each in ledger.bulks.report(bulk_id)}
        assert report[jobs[1].job_id] == (Outcome.REFUSED, "It is rejected: nothing can be left behind.")
        assert report[jobs[2].job_id] == (Outcome.DONE, "Nothing was left behind.")

    def test_a_request_that_was_lost_is_counted_and_a_claim_that_expired_is_unknown(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        lost = ledger.submission.open(job_spec(job_key="lost")).job
        ledger.submission.intend(lost.job_id, 1, actor=TEST, lease=LEASE)
        claimed = approved(ledger, effect_plan(), key="claimed")
        claim = ledger.effects.claim(claimed.job_id, effect_plan(), lease=LEASE, actor=TEST)
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.jobs SET updated_at = now() - interval '1 h'")
            connection.execute("UPDATE aihandoff.effects SET claim_until = now() - interval '1 h'")
            connection.execute("UPDATE aihandoff.revisions SET submit_lease_until = now() - interval '1 h'")
        bulk_id = begun(ledger, BulkAction.RECONCILE)
        assert run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone).done == 2
        assert ledger.revision(lost.job_id, 1).unknown_submissions == 1
        assert ledger.effects.read(claim.effect.effect_id).state is EffectState.UNKNOWN


class TestReassign:
    """Many reviews given to others."""

    TO = Reviewers(Approvers(users=("carol", "dave")))

    def test_each_review_is_reassigned_with_its_own_record_and_its_votes(self, ledger: Ledger) -> None:
        rules = ReviewRules(Approvers(users=("bob", "carol")), approvals=2)
        jobs = [
            ask(ledger, draft(ledger, job_spec(job_key=f"post:{n}"), response_id=f"resp_{n}"), rules=rules)
            for n in range(2)
        ]
        for job, name in zip(jobs, ("bob", "carol"), strict=True):
            ledger.reviews.decide(job.job_id, "approve", digest=str(job.review_digest), person=Person(name))
        cancelled = in_review(ledger, 9)
        ledger.cancels.cancel(cancelled.job_id, actor=TEST, reason="no longer needed")

        seen = shown(ledger, BulkAction.REASSIGN, reviewers=self.TO)
        assert {step.job.job_id: step.words for step in seen.steps} == {
            jobs[0].job_id: "May decide: carol, dave. Voids the approval of bob.",
            jobs[1].job_id: "May decide: carol, dave. 1 approval stays.",
            cancelled.job_id: "It waits for no decision: it is cancelled.",
        }
        assert in_words(seen.action, seen.totals)[0] == "1 approval is void then, and 1 approval stays."

        bulk_id = begun(ledger, BulkAction.REASSIGN, reviewers=self.TO)
        assert ledger.bulks.read(bulk_id).reviewers == self.TO
        progress = run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone)
        assert (progress.done, progress.refused) == (2, 1)
        for job in jobs:
            (event,) = events(ledger, job.job_id, "reassigned")
            assert event.by == BOB
            assert (event.reason or "").startswith(f"a wrong prompt (bulk action {bulk_id}); may decide: carol, dave")

    def test_what_was_reassigned_since_it_was_shown_is_not_overwritten(self, ledger: Ledger) -> None:
        job = in_review(ledger, 1)
        bulk_id = begun(ledger, BulkAction.REASSIGN, reviewers=self.TO)
        ledger.reassignments.reassign(job.job_id, Reviewers(Approvers(users=("eve",))), actor=TEST, reason="ill")
        progress = run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone)
        assert (progress.done, progress.refused) == (0, 1)
        assert "it was reassigned since you saw it" in str(ledger.bulks.report(bulk_id)[0].note)

    def test_other_people_than_were_shown_are_not_confirmed(self, ledger: Ledger) -> None:
        in_review(ledger, 1)
        seen = shown(ledger, BulkAction.REASSIGN, reviewers=self.TO)
        now = shown(ledger, BulkAction.REASSIGN, reviewers=Reviewers(Approvers(users=("eve",))))
        with pytest.raises(BulkChanged):
            begin(ledger, now, count=1, digest=seen.digest, reason="no", actor=BOB)

    @pytest.mark.parametrize(("action", "to"), [(BulkAction.REASSIGN, None), (BulkAction.CANCEL, TO)])
    def test_people_are_named_for_a_reassignment_and_for_nothing_else(
        self, ledger: Ledger, action: BulkAction, to: Reviewers | None
    ) -> None:
        with pytest.raises(CannotReassign):
            shown(ledger, action, reviewers=to)


class TestTotals:
    """What a preview says of responses, writes and money."""

    def test_cancelling_says_which_responses_stop_and_what_one_costs(self, ledger: Ledger) -> None:
        for number, cost in enumerate(("0.02", "0.04", "0.10")):
            revision = submit(ledger, job_spec(job_key=f"done:{number}"), f"resp_done_{number}")
            output = Output(ResponseStatus.COMPLETED, "A kettle.", cost_usd=Decimal(cost))
            ledger.outputs.store(revision.job_id, 1, output, actor=TEST)
        submit(ledger, job_spec(job_key="run:1"), "resp_run_1")
        submit(ledger, job_spec(job_key="run:2", job_type="report"), "resp_run_2")
        seen = preview(ledger, BulkAction.CANCEL, JobFilter(run_id="manual__1"), answerable=anyone, actor=BOB)
        assert in_words(seen.action, seen.totals) == [
            "2 responses run and are stopped. What each has used by then is billed.",
            "One response of the type publishing has cost $0.0400 in the median, and at most $0.1000 "
            "(of 3 that are known).",
            "What one response of the type report costs is unknown.",
            "The model has cost $0.1600 for these jobs so far, as far as it is known.",
        ]

    def test_a_response_that_has_ended_is_not_stopped_and_one_without_a_price_is_said(self, ledger: Ledger) -> None:
        job = in_review(ledger, 1)
        seen = shown(ledger)
        assert in_words(seen.action, seen.totals) == [
            "No response runs: nothing is stopped at the model provider.",
            "1 planned write is never sent.",
            "The model has cost $0.0000 for these jobs so far, as far as it is known, and 1 response of an unknown "
            "price.",
        ]
        assert ledger.job(job.job_id) == job

    def test_a_roll_back_says_what_it_writes_and_why_others_are_refused(self, ledger: Ledger, target: Target) -> None:
        for key in ("a", "b"):
            plan = plan_of(target, key)
            confirm(ledger, approved(ledger, plan, key=key), plan)
        for number in range(2):
            in_review(ledger, number)
        seen = shown(ledger, BulkAction.ROLL_BACK)
        assert in_words(seen.action, seen.totals)[0] == ("2 external writes are made, to undo earlier ones (http: 2).")
        assert seen.totals.refusals == {"It is review, and has nothing applied to undo.": 2}


def _die_at(conninfo: dict[str, Any], bulk_id: int, step: int) -> None:
    """Run it, and die as by SIGKILL when this job's step was committed, and not yet recorded."""
    taken = iter(range(1, 1_000))

    def on_reached(point: str) -> None:
        if point == "cancel.request: after commit" and next(taken) == step:
            os._exit(9)

    crashpoints.arm(on_reached)
    with Ledger(conninfo) as ledger:
        run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone)


def test_two_hundred_jobs_are_cancelled_each_once_though_the_first_run_is_killed(
    ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    for number in range(200):
        in_review(ledger, number)
    bulk_id = begun(ledger)
    process = multiprocessing.get_context("spawn").Process(target=_die_at, args=(conninfo, bulk_id, 90))
    process.start()
    process.join(120)
    assert process.exitcode == 9
    killed = ledger.bulks.progress(bulk_id)
    assert (killed.done, killed.left) == (89, 111), "the step of the ninetieth was taken, and not recorded"

    progress = run(ledger, bulk_id, provider_for=no_provider, states_of=ended, answerable=anyone)
    assert (progress.done, progress.total, progress.is_over) == (200, 200, True)
    with psycopg.connect(**conninfo) as connection:
        states = connection.execute("SELECT state, count(*) FROM aihandoff.jobs GROUP BY state").fetchall()
        cancels = connection.execute(
            "SELECT count(*), count(DISTINCT job_id) FROM aihandoff.events WHERE event = 'cancelled'"
        ).fetchone()
    assert states == [("cancelled", 200)]
    assert cancels == (200, 200)
