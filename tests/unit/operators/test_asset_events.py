"""Which attempt of which task makes the event of an asset, and what it says."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from airflow.sdk import DAG, AssetAlias, BaseOperator
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_provider_aihandoff import airflow_compat
from airflow_provider_aihandoff.assets import applied_asset
from airflow_provider_aihandoff.core.effects import completion
from airflow_provider_aihandoff.core.effects.completion import Completion
from airflow_provider_aihandoff.core.models import Actor, ActorKind
from airflow_provider_aihandoff.operators.asset_events import announce, announce_set
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator

ASSET = applied_asset("note")
ALIAS = AssetAlias(ASSET.uri)
SAME = {"job_id": 7, "job_type": "note", "job_key": "kettle", "revision": 2}


def actor(task_id: str = "second", try_number: int = 1, run_id: str = "r") -> Actor:
    return Actor(ActorKind.TASK, dag_id="d", run_id=run_id, task_id=task_id, map_index=-1, try_number=try_number)


@pytest.fixture
def dag() -> DAG:
    """Two tasks that write for one job, of which the first names the asset."""
    with DAG("d", schedule=None) as dag:
        for task_id, outlets in (("first", [ASSET]), ("second", [])):
            HttpSideEffectOperator(task_id=task_id, job=7, http_conn_id="cms", endpoint="/posts", outlets=outlets)
    return dag


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Who completed the job, with which effects; and what the asset had before."""
    effect = SimpleNamespace(name="second", external_id="post-17")
    found = SimpleNamespace(by=actor(), applied=[effect], before=[])

    def completion_of(record: Any) -> Completion | None:
        return Completion(datetime.now(UTC), found.by, found.applied) if found.applied else None

    def events(asset: Any, *, since: datetime, limit: int) -> list[Any]:
        if isinstance(found.before, Exception):
            raise found.before
        return [SimpleNamespace(extra=extra) for extra in found.before]

    monkeypatch.setattr(completion, "completion_of", completion_of)
    monkeypatch.setattr(airflow_compat, "asset_events", events)
    return found


def ledger() -> Any:
    found = MagicMock()
    job = SimpleNamespace(job_id=7, job_type="note", job_key="kettle", revision=2, label="job 7")
    found.record.return_value = SimpleNamespace(job=job)
    found.sets.completed.return_value = (3, 7)
    found.sets.read.return_value = SimpleNamespace(set_key="k", set_type="note", label="set 1")
    return found


def extras(
    dag: DAG,
    task_id: str = "second",
    *,
    try_number: int = 1,
    of_set: bool = False,
    written_before: bool = False,
    **more: Any,
) -> list[dict[str, Any]]:
    """The extras of the events that a task makes."""
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id=task_id, map_index=-1, id="x", try_number=try_number, **more)
    task, events = dag.get_task(task_id), OutletEventAccessors()
    context: Any = {"dag": dag, "ti": ti, "outlet_events": events}
    if of_set:
        announce_set(task, context, ledger(), 1)
    else:
        announce(task, context, ledger(), 7, written_before)
    added = [event.extra for event in events[ALIAS].asset_alias_events]
    assert not added or ALIAS in task.outlets, "otherwise Airflow ignores it"
    return added


def test_the_task_that_completed_the_job_makes_it_though_another_one_names_the_asset(dag: DAG, completed: Any) -> None:
    assert extras(dag) == [{**SAME, "applied": 1, "external_ids": {"second": "post-17"}}]


def test_another_task_or_one_of_another_run_makes_none(dag: DAG, completed: Any) -> None:
    assert extras(dag, "first") == []
    for by in (actor(run_id="earlier"), None):
        completed.by = by
        assert extras(dag) == []


@pytest.mark.parametrize(("state", "events"), [("failed", 1), ("success", 0), ("up_for_retry", 0), ("running", 0)])
def test_another_task_makes_it_where_the_one_that_wrote_last_has_failed(
    dag: DAG, completed: Any, state: str, events: int
) -> None:
    completed.by = actor(run_id="earlier")
    states = {"earlier": {"second": state}}
    assert len(extras(dag, get_task_states=lambda **_: states)) == events
    completed.before = [SAME]
    assert extras(dag, get_task_states=lambda **_: states) == []


def test_an_attempt_that_finds_the_job_written_asks_whether_one_with_its_number_was_there(
    dag: DAG, completed: Any
) -> None:
    assert len(extras(dag, written_before=True)) == 1
    completed.before = [SAME]
    assert extras(dag, written_before=True) == []


def test_an_asset_that_was_added_later_has_no_event_of_its_own(dag: DAG, completed: Any) -> None:
    completed.applied = []
    second = dag.get_task("second")
    assert isinstance(second, BaseOperator)
    second.add_outlets([ASSET])
    assert extras(dag) == []
    assert ASSET not in second.outlets


def test_a_job_that_has_written_nothing_has_none(dag: DAG, completed: Any) -> None:
    completed.applied = []
    assert extras(dag) == []


def test_a_later_attempt_makes_it_only_where_airflow_has_none_of_this_revision(dag: DAG, completed: Any) -> None:
    completed.before = [{**SAME, "revision": 1}, {"job_id": 8, "revision": 2}]
    assert len(extras(dag, try_number=2)) == 1
    completed.before.append(SAME)
    assert extras(dag, try_number=2) == []
    assert len(extras(dag, try_number=1)) == 1, "it has applied the last one itself, and asks no one"


def test_an_airflow_that_does_not_say_gets_the_event_rather_twice_than_never(dag: DAG, completed: Any) -> None:
    completed.before = RuntimeError("no answer")
    assert len(extras(dag, try_number=2)) == 1


def test_external_ids_are_bounded(dag: DAG, completed: Any) -> None:
    completed.applied = [SimpleNamespace(name=f"second[{number}]", external_id=str(number)) for number in range(300)]
    (extra,) = extras(dag)
    assert (extra["applied"], len(extra["external_ids"])) == (300, 100)


def test_a_set_makes_one_until_more_of_its_jobs_are_written(dag: DAG, completed: Any) -> None:
    told = {"set_id": 1, "set_key": "k", "job_type": "note", "applied": 3}
    assert extras(dag, of_set=True) == [told]
    completed.before = [{**told, "applied": 2}]
    assert extras(dag, of_set=True) == [told]
    completed.before = [told]
    assert extras(dag, of_set=True) == []
    assert extras(dag, "first", of_set=True) == []


def test_a_dag_that_names_no_asset_asks_the_ledger_nothing() -> None:
    with DAG("d", schedule=None) as plain:
        task = HttpSideEffectOperator(task_id="second", job=7, http_conn_id="cms", endpoint="/posts")
    found = ledger()
    context: Any = {"dag": plain, "outlet_events": OutletEventAccessors()}
    announce(task, context, found, 7)
    announce_set(task, context, found, 1)
    assert found.mock_calls == []
