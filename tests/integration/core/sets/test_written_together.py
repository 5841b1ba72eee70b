"""Writes of many jobs in one transaction: for each what the step of a single effect does, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from airflow_provider_aihandoff.core.admission.pause_store import Scope
from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.effects.effect_store import Claim
from airflow_provider_aihandoff.core.errors import (
    ClaimLost,
    EffectHeld,
    JobCancelled,
    LedgerUnavailable,
    PlanNotApproved,
)
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, EffectPlan, Job
from airflow_provider_aihandoff.core.rates import rate_store
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure
from airflow_provider_aihandoff.core.sets.shared_steps import SharedWrites
from airflow_provider_aihandoff.core.sets.written_together import WriteWish, Written
from airflow_provider_aihandoff.core.states import EffectState, JobState
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec

WRITER = Actor.program("writer")
PLAN = effect_plan(connection="cms")


def approved(ledger: Ledger, number: int = 3, *plans: EffectPlan) -> list[Job]:
    """Jobs with these effects, which a person has approved."""
    made = [draft(ledger, job_spec(job_key=f"t{index}"), response_id=f"resp_{index}") for index in range(number)]
    return [approve(ledger, ask(ledger, job, *(plans or (PLAN,)))) for job in made]


def wishes(jobs: Sequence[Job], plan: EffectPlan = PLAN, lease: timedelta = LEASE) -> list[WriteWish]:
    return [WriteWish(job.job_id, plan, uuid4(), lease) for job in jobs]


def claimed(ledger: Ledger, jobs: Sequence[Job], lease: timedelta = LEASE) -> list[Claim]:
    found = ledger.written_together.claim(wishes(jobs, lease=lease), actor=WRITER)
    return [each for each in found if each is not None]


def written(claims: Sequence[Claim]) -> list[Written]:
    return [Written(each, f"post-{each.effect.job_id}", {"id": each.effect.job_id}, own=True) for each in claims]


def are_claimed(ledger: Ledger, jobs: Sequence[Job], plan: EffectPlan = PLAN) -> list[bool]:
    return [each is not None for each in ledger.written_together.claim(wishes(jobs, plan), actor=WRITER)]


def test_jobs_go_from_claim_to_completed_together_each_with_its_own_history(ledger: Ledger) -> None:
    jobs = approved(ledger)
    done = ledger.written_together.confirm(written(claimed(ledger, jobs)), actor=WRITER)
    assert [effect.state for effect in done if effect is not None] == [EffectState.APPLIED] * 3
    for job in jobs:
        record = ledger.record(job.job_id)
        assert record.job.state is JobState.COMPLETED
        assert [line.event for line in record.events][-3:] == ["effect claimed", "effect applied", "all applied"]
        assert record.events[-2].reason == "1 of 1 effects applied"
        (effect,) = record.current_effects
        assert (effect.external_id, effect.result) == (f"post-{job.job_id}", {"id": job.job_id})
        assert (effect.attempt, effect.claimed_by, effect.conn_id) == (1, str(WRITER), "cms")
        assert first_break(record.events, record.job) is None


def test_it_leaves_what_the_step_of_a_single_effect_leaves(ledger: Ledger) -> None:
    together, alone = approved(ledger, 2)
    ledger.written_together.confirm(written(claimed(ledger, [together])), actor=WRITER)
    claim = ledger.effects.claim(alone.job_id, PLAN, lease=LEASE, actor=WRITER)
    ledger.effects.confirm(claim, external_id=f"post-{alone.job_id}", result={"id": alone.job_id}, actor=WRITER)

    def left(job: Job) -> tuple[Any, Any]:
        record = ledger.record(job.job_id)
        own = {"effect_id", "job_id", "effect_key", "external_id", "result", "claim_token"}
        columns = {
            name: value
            for name, value in vars(record.current_effects[0]).items()
            if name not in own and not name.endswith(("_at", "_until"))
        }
        lines = [(line.event, line.actor, line.reason, sorted(line.detail)) for line in record.events]
        return columns, lines

    assert left(together) == left(alone)


def test_each_effect_of_a_group_is_claimed_once(ledger: Ledger) -> None:
    jobs = approved(ledger)
    asked = wishes(jobs)
    first = ledger.written_together.claim(asked, actor=WRITER)
    assert [None if each is None else each.token for each in first] == [wish.token for wish in asked]
    assert are_claimed(ledger, jobs) == [False] * 3
    again = ledger.written_together.claim(asked, actor=WRITER)
    assert [None if each is None else each.token for each in again] == [wish.token for wish in asked], (
        "its commit was in doubt"
    )
    assert {ledger.record(job.job_id).current_effects[0].attempt for job in jobs} == {1}


def test_a_group_that_dies_before_its_outcomes_leaves_each_unknown(ledger: Ledger) -> None:
    jobs = approved(ledger)
    assert len(claimed(ledger, jobs, lease=timedelta(0))) == 3
    for job in jobs:
        with pytest.raises(Exception, match="may have been applied"):
            ledger.effects.claim(job.job_id, PLAN, lease=LEASE, actor=WRITER)
    assert are_claimed(ledger, jobs) == [False] * 3


def test_one_that_is_not_plain_holds_up_no_other(ledger: Ledger) -> None:
    jobs = approved(ledger)
    ledger.cancels.cancel(jobs[1].job_id, actor=TEST, reason="a test")
    assert are_claimed(ledger, jobs) == [True, False, True]
    with pytest.raises(JobCancelled):
        SharedWrites(ledger, actor=WRITER, most=4).claim(jobs[1].job_id, PLAN, lease=LEASE, actor=WRITER)


def test_what_no_one_has_approved_is_not_claimed(ledger: Ledger) -> None:
    asked = [ask(ledger, draft(ledger, job_spec(job_key="asked")), PLAN)]
    assert are_claimed(ledger, asked) == [False]


def test_another_plan_than_was_approved_is_not_claimed(ledger: Ledger) -> None:
    jobs = approved(ledger, 1)
    other = effect_plan(connection="cms", url="http://cms/posts/teapot")
    assert are_claimed(ledger, jobs, other) == [False]
    with pytest.raises(PlanNotApproved):
        SharedWrites(ledger, actor=WRITER, most=4).claim(jobs[0].job_id, other, lease=LEASE, actor=WRITER)


def test_what_a_decision_on_another_digest_approves_is_not_claimed(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    jobs = approved(ledger, 1)
    with psycopg.connect(**conninfo) as connection:
        connection.execute("UPDATE aihandoff.jobs SET review_digest = 'another'")
    assert are_claimed(ledger, jobs) == [False]


def test_an_effect_that_comes_after_another_is_left_to_the_step_of_a_single_effect(ledger: Ledger) -> None:
    second = replace(effect_plan("label", connection="cms"), after=("publish",))
    (job,) = approved(ledger, 1, PLAN, second)
    assert are_claimed(ledger, [job], second) == [False]
    assert are_claimed(ledger, [job]) == [True]


def test_the_first_of_two_effects_does_not_complete_its_job(ledger: Ledger) -> None:
    (job,) = approved(ledger, 1, PLAN, effect_plan("label", connection="cms"))
    ledger.written_together.confirm(written(claimed(ledger, [job])), actor=WRITER)
    record = ledger.record(job.job_id)
    assert (record.job.state, record.events[-1].reason) == (JobState.APPLYING, "1 of 2 effects applied")


@pytest.mark.parametrize("what", ["pause", "limit", "limit of a key"])
def test_what_something_may_hold_is_left_to_the_step_of_a_single_effect(ledger: Ledger, what: str) -> None:
    plan, jobs = PLAN, approved(ledger, 1)
    match what:
        case "pause":
            ledger.pauses.begin(Scope(), writes=True, reason="a test", actor=TEST)
        case "limit":
            ledger.rate_limits.set(LimitKind.TARGET, "cms", Measure.REQUESTS, 0, reason="a test", actor=TEST)
        case "limit of a key":
            ledger.rate_limits.set(LimitKind.KEY, "shop", Measure.REQUESTS, 0, reason="a test", actor=TEST)
            plan = replace(PLAN, rate_key="shop")
    assert are_claimed(ledger, jobs, plan) == [False]
    with pytest.raises(EffectHeld):
        SharedWrites(ledger, actor=WRITER, most=4).claim(jobs[0].job_id, plan, lease=LEASE, actor=WRITER)


def test_a_pause_of_requests_alone_holds_no_write(ledger: Ledger) -> None:
    jobs = approved(ledger, 1)
    ledger.pauses.begin(Scope(), writes=False, reason="a test", actor=TEST)
    assert are_claimed(ledger, jobs) == [True]


def test_the_end_of_a_write_that_someone_waits_for_is_left_to_the_step_of_a_single_effect(ledger: Ledger) -> None:
    claims = claimed(ledger, approved(ledger, 1))
    ledger.rate_limits.set(LimitKind.TARGET, "cms", Measure.IN_FLIGHT, 1, reason="a test", actor=TEST)
    assert ledger.written_together.confirm(written(claims), actor=WRITER) == [None]
    done = SharedWrites(ledger, actor=WRITER, most=4).confirm(claims[0], external_id="1", result=None, actor=WRITER)
    assert done.state is EffectState.APPLIED


def test_outcomes_that_are_recorded_again_change_nothing(ledger: Ledger) -> None:
    jobs = approved(ledger)
    what = written(claimed(ledger, jobs))
    first = ledger.written_together.confirm(what, actor=WRITER)
    assert ledger.written_together.confirm(what, actor=WRITER) == first
    assert [line.event for line in ledger.record(jobs[0].job_id).events].count("effect applied") == 1


def test_an_outcome_whose_claim_is_lost_is_not_recorded(ledger: Ledger) -> None:
    claims = claimed(ledger, approved(ledger))
    lost = replace(claims[1], token=UUID(int=1))
    found = ledger.written_together.confirm(written([claims[0], lost, claims[2]]), actor=WRITER)
    assert [each is not None for each in found] == [True, False, True]
    with pytest.raises(ClaimLost):
        SharedWrites(ledger, actor=WRITER, most=4).confirm(lost, external_id="1", result=None, actor=WRITER)


def test_an_outcome_of_a_job_that_is_being_cancelled_ends_it(ledger: Ledger) -> None:
    jobs = approved(ledger, 1, PLAN, effect_plan("label", connection="cms"))
    (claim,) = claimed(ledger, jobs)
    ledger.cancels.cancel(jobs[0].job_id, actor=TEST, reason="a test")
    SharedWrites(ledger, actor=WRITER, most=4).confirm(claim, external_id="1", result=None, actor=WRITER)
    assert ledger.job(jobs[0].job_id).state is JobState.CANCELLED


def test_a_group_that_the_database_refuses_is_done_one_by_one(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise psycopg.DataError("out of range")

    monkeypatch.setattr(ledger.written_together, "claim", refuse)
    monkeypatch.setattr(ledger.written_together, "confirm", refuse)
    writes = SharedWrites(ledger, actor=WRITER, most=4)
    (job,) = approved(ledger, 1)
    claim = writes.claim(job.job_id, PLAN, lease=LEASE, actor=WRITER)
    assert writes.confirm(claim, external_id="1", result=None, actor=WRITER).state is EffectState.APPLIED


def test_one_that_another_transaction_has_locked_holds_up_no_other(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    jobs = approved(ledger)
    claims = claimed(ledger, jobs[:2])
    with psycopg.connect(**conninfo) as other:
        other.execute("SELECT FROM aihandoff.jobs WHERE job_id = ANY(%s) FOR UPDATE", [[jobs[1].job_id]])
        found = ledger.written_together.confirm(written(claims), actor=WRITER)
        assert [each is not None for each in found] == [True, False]
        assert are_claimed(ledger, jobs[1:]) == [False, True]


def test_an_outcome_is_kept_as_soon_as_the_step_of_the_group_has_failed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise LedgerUnavailable("the ledger is unavailable.")

    (claim,), kept = claimed(ledger, approved(ledger, 1)), list[str]()
    monkeypatch.setattr(ledger.written_together, "confirm", refuse)
    writes = SharedWrites(ledger, actor=WRITER, most=4)
    writes.confirm(claim, external_id="1", result=None, actor=WRITER, keep=lambda: kept.append("1"))
    assert kept == ["1"]


def test_what_ends_sees_the_first_one_that_waits(
    ledger: Ledger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_wait = rate_store.keep_wait

    def watched(*arguments: Any) -> None:
        with psycopg.connect(**conninfo) as other, pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("SELECT FROM aihandoff.rate_limits FOR UPDATE NOWAIT")
        keep_wait(*arguments)

    monkeypatch.setattr(rate_store, "keep_wait", watched)
    ledger.rate_limits.set(LimitKind.TARGET, "cms", Measure.IN_FLIGHT, 1, reason="a test", actor=TEST)
    first, second = approved(ledger, 2)
    ledger.effects.claim(first.job_id, PLAN, lease=LEASE, actor=WRITER)
    with pytest.raises(EffectHeld):
        ledger.effects.claim(second.job_id, PLAN, lease=LEASE, actor=WRITER)
