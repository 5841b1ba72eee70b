"""The asset of a job type: one event when a job is approved and written, and none otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.models.asset import AssetEvent
from sqlalchemy import select

from airflow_provider_aihandoff.assets import applied_asset
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.operators import asset_events, side_effect
from airflow_provider_aihandoff.policies import AskPerson
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags, open_session
from tests.integration.operators.tasks import Policy, ask, ask_unapproved, publish, store
from tests.integration.operators.test_effect_waits import resolve_when_unknown
from tests.integration.operators.test_sets import draft_set
from tests.target import DROP, Target

pytestmark = pytest.mark.usefixtures("sales")

OUTLETS = [applied_asset("publishing")]


@pytest.fixture(autouse=True)
def _no_events_before(airflow: None) -> None:
    with open_session() as session:
        session.query(AssetEvent).delete()
        session.commit()


def events() -> list[AssetEvent]:
    with open_session() as session:
        return list(session.scalars(select(AssetEvent).order_by(AssetEvent.id)))


def sources() -> list[str | None]:
    return [event.source_task_id for event in events()]


def pipeline(verdict: Any = None, **arguments: Any) -> None:
    """A note that a policy decides on, that is put to the CMS and then written into a table."""
    draft = ask()
    approve = ApprovalSensor(task_id="approve", job=draft, policy=Policy(verdict), on_reject="skip", **arguments)
    draft >> approve >> publish(draft, outlets=OUTLETS) >> store(draft)


def test_the_task_that_applies_the_last_effect_makes_one_event_with_the_ids_and_no_content(
    run: RunDag, ledger: Ledger
) -> None:
    done = run(pipeline)
    assert done.state == "success", done.errors
    (event,) = events()
    job = ledger.job(1)
    assert (event.source_task_id, event.source_run_id) == ("store", done.run_id)
    assert event.extra == {
        "job_id": 1,
        "job_type": "publishing",
        "job_key": "post:kettle",
        "revision": job.revision,
        "applied": 2,
        "external_ids": {effect.name: effect.external_id for effect in ledger.record(1).current_effects},
    }


def test_a_job_that_no_one_approves_makes_no_event(run: RunDag) -> None:
    done = run(lambda: pipeline(AskPerson("a person decides"), timeout=0.5))
    assert done.states["publish"] == "skipped", done.states
    assert events() == []


def test_a_job_of_which_no_effect_applies_makes_no_event(run: RunDag, ledger: Ledger) -> None:
    def define() -> None:
        draft = ask_unapproved()
        draft >> publish(draft, when="{{ False }}", outlets=OUTLETS)

    assert run(define).state == "success"
    assert ledger.job(1).state is JobState.COMPLETED
    assert events() == []


def test_a_clear_that_writes_nothing_makes_no_second_event(dags: Dags) -> None:
    dag = dags.make(pipeline)
    done = dags.run(dag)
    assert dags.clear(dag, done).state == "success"
    assert sources() == ["store"]


def test_another_run_that_finds_the_job_written_makes_no_event(dags: Dags) -> None:
    dag = dags.make(pipeline)
    dags.run(dag)
    assert dags.run(dag).state == "success"
    assert sources() == ["store"]


def test_an_attempt_that_is_cut_off_after_the_last_write_leaves_the_event_to_the_next_one(
    dags: Dags, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(task: Any, *rest: Any) -> None:
        asset_events.announce(task, *rest)
        if task.task_id == "store":
            monkeypatch.setattr(side_effect, "announce", asset_events.announce)
            raise RuntimeError("cut off")

    monkeypatch.setattr(side_effect, "announce", cut_off)
    done = dags.run(dags.make(pipeline))
    assert (done.state, len(done.errors["store"]), sources()) == ("success", 1, ["store"])


def test_a_write_that_a_person_resolves_makes_the_event_with_the_task_that_waited(
    run: RunDag, target: Target, ledger: Ledger
) -> None:
    target.answers = [DROP]
    person = resolve_when_unknown(ledger, applied=True)

    def define() -> None:
        draft = ask_unapproved()
        draft >> publish(draft, hold_timeout=None, outlets=OUTLETS)

    done = run(define)
    person.join()
    assert done.state == "success", done.errors
    assert sources() == ["publish"]


def test_the_asset_of_another_type_is_refused_before_anything_is_sent(run: RunDag, target: Target) -> None:
    def define() -> None:
        draft = ask_unapproved()
        draft >> publish(draft, outlets=[applied_asset("tickets")])

    done = run(define)
    assert "of the type 'tickets', and this one is of the type 'publishing'" in done.error("publish")
    assert target.received == []
    assert events() == []


def test_a_set_makes_one_event_with_the_number_of_jobs_and_a_clear_no_second_one(dags: Dags, ledger: Ledger) -> None:
    def define() -> None:
        draft = draft_set()
        draft >> publish(draft, endpoint="/posts/{{ job.job_key }}", outlets=[applied_asset("ticket")])

    dag = dags.make(define)
    done = dags.run(dag)
    assert done.state == "success", done.errors
    (event,) = events()
    found = ledger.sets.read(1)
    assert event.extra == {"set_id": 1, "set_key": found.set_key, "job_type": "ticket", "applied": 7}
    assert dags.clear(dag, done).state == "success"
    assert len(events()) == 1
