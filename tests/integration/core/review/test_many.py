"""Decisions on many jobs at once are those on each of them: the same checks, lines and consequences."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.database.history import Move, first_break
from airflow_provider_aihandoff.core.errors import IllegalTransition, StaleBulkDecision
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review import review_store
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, ReviewRules
from airflow_provider_aihandoff.core.states import JobEvent, JobState
from tests.factories import TEST, draft, effect_plan, in_an_hour, job_spec
from tests.integration.core.database.test_wake_notifications import Listener

BOB, CAROL = Person("bob"), Person("carol")


def asked(ledger: Ledger, number: int, rules: ReviewRules | None = None, *, skipped: bool = False) -> Job:
    job = draft(ledger, job_spec(job_key=f"ticket:{number}"), response_id=f"resp_{number}")
    plan = replace(effect_plan(), skipped=skipped)
    return ledger.reviews.ask(job.job_id, [plan], policy=None, deadline=in_an_hour(), actor=TEST, rules=rules)


def choices(*jobs: Job) -> list[tuple[int, str]]:
    return [(job.job_id, str(job.review_digest)) for job in jobs]


def lines(ledger: Ledger, job: Job) -> list[tuple[Any, ...]]:
    """What the history says, apart from what is of one job alone."""
    record = ledger.record(job.job_id)
    assert first_break(record.events, record.job) is None
    return [
        (line.event, line.from_state, line.to_state, line.actor, line.reason, line.detail.get("approvals"))
        for line in record.events
    ]


@pytest.mark.parametrize("verdict", ["approve", "reject"])
@pytest.mark.parametrize("rules", [None, ReviewRules(approvals=2)])
@pytest.mark.parametrize("skipped", [False, True])
def test_each_job_is_as_after_a_decision_on_it_alone(
    ledger: Ledger, verdict: Any, rules: ReviewRules | None, skipped: bool
) -> None:
    alone, *together = (asked(ledger, number, rules, skipped=skipped) for number in range(3))
    for person in (BOB, CAROL) if rules and verdict == "approve" else (BOB,):
        one = ledger.reviews.decide(
            alone.job_id, verdict, digest=str(alone.review_digest), person=person, comment="Fine."
        )
        done = ledger.reviews.decide_many(choices(*together), verdict, person=person, comment="Fine.")
        assert {job.state for job in done} == {one.state}
        for job in done:
            now = ledger.job(job.job_id)
            assert now == replace(job, input=now.input, permissions=now.permissions)
            assert lines(ledger, job) == lines(ledger, alone)
            decisions = [ledger.record(each.job_id).decisions[-1] for each in (job, alone)]
            assert len({(each.decider, each.verdict, each.comment) for each in decisions}) == 1
            assert now.decision_id == (None if one.decision_id is None else decisions[0].decision_id)


def test_jobs_in_several_lots_are_all_decided_or_none(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_store, "_AT_ONCE", 2)
    jobs = [asked(ledger, number) for number in range(5)]
    named = asked(ledger, 5, ReviewRules(Approvers(users=("carol",))))
    with pytest.raises(StaleBulkDecision, match="1 of 6") as refused:
        ledger.reviews.decide_many(choices(*jobs, named), "approve", person=BOB)
    assert refused.value.stale == {named.job_id: "Only these may decide on it: carol."}
    assert [ledger.job(job.job_id) for job in jobs] == jobs
    done = ledger.reviews.decide_many(choices(*reversed(jobs)), "approve", person=BOB)
    assert [job.job_id for job in done] == [job.job_id for job in reversed(jobs)]
    assert {job.state for job in done} == {JobState.APPROVED}


def test_what_waits_for_each_of_the_jobs_is_notified(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    jobs = [asked(ledger, number) for number in range(3)]
    listener = Listener(conninfo)
    ledger.reviews.decide_many(choices(*jobs), "approve", person=BOB)
    assert set(listener.heard()) == {str(job.job_id) for job in jobs}
    listener.connection.close()


def test_one_that_counts_already_stays_as_it_is_and_the_others_are_decided(ledger: Ledger) -> None:
    first, second = asked(ledger, 1), asked(ledger, 2)
    ledger.reviews.decide(first.job_id, "approve", digest=str(first.review_digest), person=BOB)
    done = ledger.reviews.decide_many(choices(first, second), "approve", person=BOB)
    assert {job.state for job in done} == {JobState.APPROVED}
    assert [len(ledger.record(job.job_id).decisions) for job in done] == [1, 1]


def test_of_two_people_who_decide_on_the_same_jobs_at_once_one_is_counted(ledger: Ledger) -> None:
    jobs = [asked(ledger, number) for number in range(30)]
    outcomes: list[str] = []

    def decide(person: Person, chosen: list[tuple[int, str]]) -> None:
        try:
            ledger.reviews.decide_many(chosen, "approve", person=person)
            outcomes.append("done")
        except StaleBulkDecision as refused:
            outcomes.append(f"{len(refused.stale)} stale")

    threads = [
        threading.Thread(target=decide, args=args)
        for args in ((BOB, choices(*jobs)), (CAROL, choices(*reversed(jobs))))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["30 stale", "done"]
    deciders = {ledger.record(job.job_id).decisions[0].decided_by for job in jobs}
    assert len(deciders) == 1
    assert {len(ledger.record(job.job_id).decisions) for job in jobs} == {1}


def test_many_steps_are_refused_together_where_another_process_has_moved_one(ledger: Ledger) -> None:
    first, second = asked(ledger, 1), asked(ledger, 2)
    ledger.reviews.decide(second.job_id, "reject", digest=str(second.review_digest), person=BOB)

    def work(connection: LedgerConnection) -> None:
        moves = [Move(job, JobEvent.REMINDED) for job in (first, second)]  # the second one as it was
        history.move_many(connection, moves, actor=TEST, at=history.now(connection))

    with pytest.raises(IllegalTransition, match=r"one of 2 jobs.*another process moved the job"):
        ledger._database.transact(work)
    assert ledger.job(first.job_id) == first
    assert lines(ledger, first)[-1][0] == "planned"
