"""A task that writes for a set while the rest waits for its decision: when it is woken, and when it ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
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
from tests.integration.operators.tasks import NOTE, Policy, ask_unapproved, publish
from tests.integration.operators.test_sets import draft_set, write
from tests.target import Answer, Target

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


def test_a_task_that_two_effects_of_a_job_wait_in_is_woken_for_its_own(
    ledger: Ledger, job_set: JobSet, is_woken: Callable[..., bool]
) -> None:
    plans = [replace(effect_plan(name), task_id=name) for name in ("announce", "publish")]
    spec = job_spec(job_key="both", set_id=job_set.set_id, deadline=job_set.deadline)
    asked(ledger, job_set, "other")
    job = approve(ledger, ask(ledger, draft(ledger, spec, response_id="resp_both"), *plans))
    claim = ledger.effects.claim(job.job_id, plans[0], lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id="post-1", result=None, actor=TEST)
    assert ledger.job(job.job_id).state is JobState.APPLYING
    assert is_woken()


def test_a_job_that_cannot_be_asked_about_keeps_no_task_asleep(
    ledger: Ledger, job_set: JobSet, is_woken: Callable[..., bool]
) -> None:
    draft(ledger, job_spec(job_key="unasked", set_id=job_set.set_id, deadline=job_set.deadline), response_id="resp_2")
    job, _ = asked(ledger, job_set, "first")
    assert not is_woken()
    ledger.reviews.decide(job.job_id, "reject", digest=str(job.review_digest), person=Person("bob"))
    assert is_woken()


def test_a_write_that_a_pause_holds_is_waited_for_until_its_job_is_cancelled(ledger: Ledger, job_set: JobSet) -> None:
    job, plan = asked(ledger, job_set, "first")
    approve(ledger, job)
    ledger.pauses.begin(Scope(), writes=True, reason="a test", actor=TEST)
    with pytest.raises(EffectHeld):
        ledger.effects.claim(job.job_id, plan, lease=LEASE, actor=TEST)
    assert [effect.name for effect in ledger.sets.waiting_effects(job_set.set_id, "publish")] == ["publish"]
    ledger.cancels.cancel(job.job_id, actor=TEST, reason="a test")
    assert ledger.sets.waiting_effects(job_set.set_id, "publish") == []


@pytest.mark.parametrize(
    ("waits", "is_asked", "under_way", "seconds"),
    [
        (True, True, False, set_effects._LONGEST_WAIT),
        (True, False, True, set_effects._ASKING_WAIT),
        (True, False, False, None),
        (False, True, True, None),
    ],
)
def test_a_task_waits_for_decisions_only_where_its_author_says_so_and_someone_may_decide(
    ledger: Ledger,
    job_set: JobSet,
    monkeypatch: pytest.MonkeyPatch,
    waits: bool,
    is_asked: bool,
    under_way: bool,
    seconds: float | None,
) -> None:
    job = draft(ledger, job_spec(job_key="first", set_id=job_set.set_id, deadline=job_set.deadline))
    if is_asked:
        ask(ledger, job)
    monkeypatch.setattr(set_effects, "approval_task", lambda dag, source: None)
    monkeypatch.setattr(set_effects, "is_under_way", lambda context, task: under_way)
    task: Any = SimpleNamespace(wait_for_decisions=waits, job_source="draft")
    context: Any = {"dag": None}
    found = set_effects._decisions(task, context, ledger, job_set.set_id)
    assert (None if found is None else found.seconds) == seconds
    assert found is None or (found.since is not None) is is_asked


@contextmanager
def people(ledger: Ledger) -> Iterator[None]:
    """Someone approves what waits for people."""
    ended = threading.Event()

    def decide() -> None:
        while not ended.is_set():
            for job in ledger.jobs(states=[JobState.REVIEW]):
                if job.review_digest:
                    ledger.reviews.decide(job.job_id, "approve", digest=job.review_digest, person=Person("bob"))
            time.sleep(0.1)

    thread = threading.Thread(target=decide)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Some(Policy):
    """Leaves one ticket to people."""

    def decide(self, job: Any, plan: Any) -> Any:
        return Approve("plain") if job.job_key != "t2" else AskPerson("not plain")


def test_a_task_beside_the_approval_writes_what_is_decided_and_ends_after_the_last_decision(
    dags: Dags, ledger: Ledger, target: Target
) -> None:
    with people(ledger):
        done = dags.run(dags.make(lambda: pipeline(Some())))
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


def test_what_is_asked_about_again_since_its_plan_has_changed_is_waited_for_and_written(
    dags: Dags, ledger: Ledger, target: Target
) -> None:
    target.answer_by_path |= {f"/posts/t{number}": Answer(422, {"error": "no"}) for number in range(7)}
    dag = dags.make(pipeline)
    done = dags.run(dag)
    assert done.states["write"] == "failed"
    target.reset()
    changed = dags.make(lambda: pipeline(json={"text": "{{ job.output.title }}"}), dag_id=dag.dag_id)
    with people(ledger):
        again = dags.clear(changed, done, ["write"])
    assert again.state == "success", again.errors
    assert again.xcoms["write"]["said"] == "7 applied"
    assert [each.json for each in target.received] == [{"text": NOTE["title"]}] * 7


def test_a_job_of_its_own_has_no_decisions_of_others_to_wait_for(dags: Dags, ledger: Ledger, target: Target) -> None:
    def define() -> None:
        first = ask_unapproved()
        first >> publish(first, wait_for_decisions=True)

    done = dags.run(dags.make(define))
    assert "`wait_for_decisions` is for the jobs of a set" in done.error("publish")
    assert target.received == []
