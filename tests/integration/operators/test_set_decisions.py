"""A task that writes for a set while the rest waits for its decision: when it is woken, and when it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from psycopg.rows import dict_row

from airflow_provider_aihandoff.core.admission.pause_store import Scope
from airflow_provider_aihandoff.core.errors import EffectHeld
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import EffectPlan, Job
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.sets.set_record import JobSet, LeftOut
from airflow_provider_aihandoff.core.sets.set_store import SetSpec
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.operators import set_effects
from airflow_provider_aihandoff.policies import Approve, AskPerson
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.triggers import wake_queries
from tests.factories import LEASE, OWNER, TEST, approve, ask, draft, effect_plan, job_spec
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.test_sets import Policy, draft_set, write
from tests.target import Target

LONG_AGO = timedelta(hours=1)


@pytest.fixture
def job_set(ledger: Ledger) -> JobSet:
    return ledger.sets.open(SetSpec("publishing", "nightly", "alice", OWNER, timedelta(hours=1)), LeftOut())


@pytest.fixture
def is_woken(ledger: Ledger, job_set: JobSet) -> Callable[..., bool]:
    """Whether a task that writes for the set has something to do, with jobs that were approved so long ago."""

    def is_woken(within: timedelta = LONG_AGO) -> bool:
        key = (job_set.set_id, "publish", (ledger.now() - within).isoformat())

        async def woken() -> bool:
            async with await psycopg.AsyncConnection.connect(
                **ledger._database.conninfo, row_factory=dict_row
            ) as connection:
                return await wake_queries.decided_sets(connection, [key, (99, "publish", key[2])]) != {
                    (99, "publish", key[2])
                }

        return asyncio.run(woken())

    return is_woken


def asked(ledger: Ledger, job_set: JobSet, key: str) -> tuple[Job, EffectPlan]:
    plan = replace(effect_plan(), task_id="publish")
    spec = job_spec(job_key=key, set_id=job_set.set_id, deadline=job_set.deadline)
    return ask(ledger, draft(ledger, spec, response_id=f"resp_{key}"), plan), plan


def test_a_task_is_woken_by_an_approval_until_it_has_tried_the_write(
    ledger: Ledger, job_set: JobSet, is_woken: Callable[..., bool]
) -> None:
    first, plan = asked(ledger, job_set, "first")
    asked(ledger, job_set, "second")
    assert not is_woken(), "none is decided"
    approve(ledger, first)
    assert is_woken()
    assert not is_woken(timedelta(0)), "it was approved before"
    claim = ledger.effects.claim(first.job_id, plan, lease=LEASE, actor=TEST)
    assert not is_woken(), "it is being written"
    ledger.effects.confirm(claim, external_id="post-1", result=None, actor=TEST)
    assert not is_woken(), "it is written, and the other one waits"


def test_a_task_is_not_woken_by_an_approval_of_which_a_pause_holds_the_write(
    ledger: Ledger, job_set: JobSet, is_woken: Callable[..., bool]
) -> None:
    asked(ledger, job_set, "second")
    first, plan = asked(ledger, job_set, "first")
    approve(ledger, first)
    ledger.pauses.begin(Scope(), writes=True, reason="a test", actor=TEST)
    with pytest.raises(EffectHeld):
        ledger.effects.claim(first.job_id, plan, lease=LEASE, actor=TEST)
    assert ledger.job(first.job_id).state is JobState.APPROVED
    assert not is_woken()


def test_a_task_is_woken_when_the_last_job_is_decided_and_not_while_a_change_is_made(
    ledger: Ledger, job_set: JobSet, is_woken: Callable[..., bool]
) -> None:
    job, _ = asked(ledger, job_set, "first")
    bob = Person("bob")
    ledger.reviews.decide(job.job_id, "request changes", digest=str(job.review_digest), person=bob, comment="Shorter.")
    assert not is_woken()
    other, _ = asked(ledger, job_set, "second")
    ledger.cancels.cancel(job.job_id, actor=TEST, reason="a test")
    assert not is_woken()
    ledger.reviews.decide(other.job_id, "reject", digest=str(other.review_digest), person=bob)
    assert is_woken()


def pipeline(policy: Any = None, **effect: Any) -> None:
    draft = draft_set(approval="required", approval_reason=None)
    approve = ApprovalSensor(task_id="approve", job=draft, policy=policy or Policy())
    draft >> approve
    # These tests run one task at a time, to its end: the one that asks comes first.
    draft >> EmptyOperator(task_id="later") >> write(draft, wait_for_decisions=True, **effect)


class Some(Policy):
    """Leaves one ticket to people."""

    def decide(self, job: Any, plan: Any) -> Any:
        return Approve("plain") if job.job_key != "t2" else AskPerson("not plain")


def test_a_task_beside_the_approval_writes_what_is_decided_and_ends_after_the_last_decision(
    dags: Dags, ledger: Ledger, target: Target
) -> None:
    ended = threading.Event()

    def decide() -> None:
        while not ended.is_set():
            for job in ledger.jobs(states=[JobState.REVIEW]):
                if job.review_digest:
                    ledger.reviews.decide(job.job_id, "approve", digest=job.review_digest, person=Person("bob"))
            time.sleep(0.1)

    people = threading.Thread(target=decide)
    people.start()
    try:
        done = dags.run(dags.make(lambda: pipeline(Some())))
    finally:
        ended.set()
        people.join()
    assert done.state == "success", done.errors
    assert done.xcoms["write"]["said"] == "7 applied"
    assert len(target.received) == 7


def test_a_job_that_cannot_be_asked_about_is_waited_for_only_as_long_as_the_approval_task(
    dags: Dags, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [True, False]
    is_under_way = set_effects.is_under_way

    def first_it_is(context: Any, task: Any) -> bool:
        assert task.task_id == "approve"
        return answers.pop(0) or is_under_way(context, task)

    monkeypatch.setattr(set_effects, "is_under_way", first_it_is)
    monkeypatch.setattr(set_effects, "_ASKING_WAIT", 0.1)
    done = dags.run(dags.make(lambda: pipeline(json={"of": "{{ 1 // (job.job_key != 't3') }}"})))
    assert done.state == "success", done.errors
    assert done.xcoms["write"]["said"] == "6 applied, 1 in review"
    assert (len(target.received), answers) == (6, [])
