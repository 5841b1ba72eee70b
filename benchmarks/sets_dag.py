"""A set of many items in this process, as an author writes it, run by Airflow's ``dag.test()``.

Run as ``python -m benchmarks.sets_dag ITEMS TARGET IN_FLIGHT AT_ONCE``; without a target as ``-``, it is drafted alone.
The last line that it prints says what it took from the first task's first leg, as a meter reads it, as a whole and by
task, and its peak memory.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_provider_aihandoff.hooks.model_provider import load_sdk
from benchmarks.meter import Meter
from benchmarks.sets_request import INSTRUCTIONS, MODEL, Label

_meters: dict[str, Meter] = {}
_legs: list[str] = []


def _note(context: Any) -> None:
    task_id = context["ti"].task_id
    _legs.append(task_id)
    if task_id not in _meters:
        _meters[task_id] = Meter()


def make_dag(items: Path, *, writes: bool, in_flight: int, at_once: int) -> Any:
    """The Dag: a draft; or the draft, an approval by policy, and a write."""
    from airflow.sdk import DAG

    from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
    from airflow_provider_aihandoff.operators.items import JsonLines
    from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
    from airflow_provider_aihandoff.policies import MinimumConfidence
    from airflow_provider_aihandoff.sensors.approval import ApprovalSensor

    noted: dict[str, Any] = {"on_execute_callback": _note}
    approval: dict[str, Any] = {} if writes else {"approval": "not required", "approval_reason": "a benchmark"}
    with DAG("sets", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        draft = OpenAIResponseSetOperator(
            task_id="draft",
            items=JsonLines(items.as_uri()),
            job_type="ticket",
            job_key="{{ item.id }}",
            model=MODEL,
            instructions=INSTRUCTIONS,
            input="{{ item.text }}",
            output_type=Label,
            max_in_flight=in_flight,
            send_at_once=at_once,
            **noted,
            **approval,
        )
        if writes:
            approve = ApprovalSensor(task_id="approve", job=draft, policy=MinimumConfidence(0.0), **noted)
            write = HttpSideEffectOperator(
                task_id="write",
                job=draft,
                http_conn_id="channel",
                method="POST",
                endpoint="/channel/messages",
                json={"channel": "benchmark", "text": "{{ job.output.suggested_reply or 'no reply' }}"},
                write_at_once=at_once,
                **noted,
            )
            draft >> approve >> write
    return dag


def run(dag: Any) -> Any:
    """Run a Dag to its end, in an empty Airflow."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils import db

    db.initdb()
    DagBundlesManager().sync_bundles_to_db()
    SerializedDAG.bulk_write_to_db("dags-folder", None, [dag])
    SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), bundle_name="dags-folder")
    return dag.test()


def main() -> None:
    """Run it, and print seconds, memory, and how it ended."""
    items, target, in_flight, at_once = sys.argv[1:]
    dag = make_dag(Path(items), writes=target != "-", in_flight=int(in_flight), at_once=int(at_once))
    load_sdk()  # as a scheduler that imports what tasks need
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    done = run(dag)
    measured = {task_id: meter.read() for task_id, meter in _meters.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert str(done.state) == "success", done.state
    found = {**next(iter(measured.values())), "peak_kib": peak, "before_kib": before, "legs": _legs.count("draft")}
    print(json.dumps({**found, "tasks": _each(measured)}))


def _each(measured: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """What each task took by itself, of what the meters say that began with each of them and ended together."""
    following = [*list(measured.values())[1:], {}]
    return {
        task_id: {name: value - after.get(name, 0.0) for name, value in whole.items()}
        for (task_id, whole), after in zip(measured.items(), following, strict=True)
    }


if __name__ == "__main__":
    main()
