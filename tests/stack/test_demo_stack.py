"""The demo's Airflow: it becomes healthy, survives crashes of its parts, and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo import guardian
from demo.airflow_api import AirflowApi, AirflowApiError
from demo.airflow_stack import COMPONENTS, AirflowStack, Component
from demo.local import AlreadyRunningError, running_demo
from demo.postgres import Postgres
from demo.processes import GuardedProcess, ProcessSpec, log_tail, python
from demo.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

GREETING_DAG = """
import time
from airflow.sdk import dag, task

@dag(schedule=None, params={"seconds": 0})
def greeting():
    @task
    def greet(name, params=None):
        time.sleep(params["seconds"])
        print("hello", name)
        return name

    greet.expand(name=["Ada", "Grace"])

greeting()
"""
STARTER = """
import json, signal, sys, time
from pathlib import Path
from demo.local import running_demo

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests in the background ignores it
home, dags_folder, addresses = map(Path, sys.argv[1:])
with running_demo(home, dags_folder) as demo:
    addresses.write_text(json.dumps({"airflow": demo.airflow.base_url, "business": demo.business_url}))
    while True:
        demo.check_alive()
        time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def dags_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("dags"))
    (folder / "greeting.py").write_text(GREETING_DAG)
    return folder


@pytest.fixture(scope="module")
def stack(postgres: Postgres, dags_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    with AirflowStack(Path(tmp_path_factory.mktemp("airflow")), postgres, dags_folder) as stack:
        stack.migrate()
        stack.start()
        stack.wait_healthy()
        yield stack


@pytest.fixture(scope="module")
def alice(stack: AirflowStack) -> AirflowApi:
    api = stack.api("alice")
    api.wait_for_dags({"greeting"})
    return api


def test_a_person_triggers_a_run_and_sees_its_tasks_and_their_logs(alice: AirflowApi) -> None:
    run_id = alice.trigger("greeting", run_id="by-hand")
    assert alice.wait_for_run("greeting", run_id) == "success"
    assert alice.runs("greeting") == {"by-hand": "success"}
    assert alice.task_states("greeting", run_id) == {("greet", 0): "success", ("greet", 1): "success"}
    assert "hello Grace" in alice.task_log("greeting", run_id, "greet", map_index=1)
    assert alice.xcom("greeting", run_id, "greet", map_index=0) == "Ada"


def test_a_cleared_run_runs_again(alice: AirflowApi) -> None:
    run_id = alice.trigger("greeting")
    alice.wait_for_run("greeting", run_id)
    alice.clear("greeting", run_id)
    assert alice.wait_for_run("greeting", run_id) == "success"
    assert {task.try_number for task in alice.task_instances("greeting", run_id)} == {2}


def test_a_user_who_may_only_read_cannot_trigger(stack: AirflowStack, alice: AirflowApi) -> None:
    with pytest.raises(AirflowApiError, match="403"):
        stack.api("vic").trigger("greeting")
    assert "greeting" in stack.api("vic").dag_ids()
    with pytest.raises(AirflowApiError, match="does not let mallory in"):
        AirflowApi(stack.base_url, "mallory", "mallory").dag_ids()


def test_a_paused_dag_waits_until_it_is_unpaused(alice: AirflowApi) -> None:
    alice.set_paused("greeting", paused=True)
    run_id = alice.trigger("greeting")
    alice.set_paused("greeting", paused=False)
    assert alice.wait_for_run("greeting", run_id) == "success"


@pytest.mark.parametrize("component", COMPONENTS)
def test_after_a_crash_each_component_starts_again(
    stack: AirflowStack, alice: AirflowApi, component: Component
) -> None:
    crashed = stack.process(component).descendants()
    stack.kill(component)
    assert not crashed & guardian.process_table().keys()
    stack.start(component)
    stack.wait_healthy()
    assert alice.wait_for_run("greeting", alice.trigger("greeting")) == "success"


def test_a_killed_demo_leaves_nothing_and_starts_again_with_its_data_and_without_a_migration(
    tmp_path: Path, dags_folder: Path
) -> None:
    addresses = tmp_path / "addresses.json"
    command = python("-c", STARTER, str(tmp_path / "home"), str(dags_folder), str(addresses))
    spec = ProcessSpec("starter", command, tmp_path / "starter.log", env={**os.environ, "OPENAI_API_KEY": ""})

    demo = GuardedProcess(spec)
    found = wait_until(lambda: addresses_of(demo, addresses), "the demo")
    assert put_page(found["business"]).status_code == 201
    alice = AirflowApi(found["airflow"], "alice", "alice")
    alice.wait_for_dags({"greeting"})
    run_id = alice.trigger("greeting", {"seconds": 600})
    alice.wait_for_task("greeting", run_id, "greet", {"running"}, map_index=1)
    with pytest.raises(AlreadyRunningError), running_demo(tmp_path / "home"):
        pass
    members = demo.descendants()
    demo.kill(descendants=False)
    demo.wait_gone()
    assert not members & guardian.process_table().keys()

    migrations = [tmp_path / "home/airflow/logs" / f"{name}.log" for name in ("db-migrate", "aihandoff-db-upgrade")]
    before = [log.stat().st_mtime_ns for log in migrations]
    addresses.unlink()
    demo = GuardedProcess(spec)
    found = wait_until(lambda: addresses_of(demo, addresses), "the demo, again")
    assert put_page(found["business"]).headers["Idempotency-Replayed"] == "true"
    assert run_id in AirflowApi(found["airflow"], "alice", "alice").runs("greeting")
    assert [log.stat().st_mtime_ns for log in migrations] == before
    members = demo.descendants()
    demo.send_signal(signal.SIGINT)
    demo.wait_gone()
    assert not members & guardian.process_table().keys()


def put_page(business_url: str) -> httpx.Response:
    page = {"title": "Kettle", "body": "Hot."}
    return httpx.put(f"{business_url}/cms/posts/kettle", json=page, headers={"Idempotency-Key": "k"})


def addresses_of(demo: GuardedProcess, file: Path) -> dict[str, str] | None:
    assert demo.poll() is None, log_tail(demo.spec.log)
    text = file.read_text() if file.exists() else ""
    return json.loads(text) if text else None
