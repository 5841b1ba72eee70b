"""Airflow's own features beside a job, on a real Airflow: docs/airflow-features.md says of each what is seen here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import EffectState, JobState
from demo.airflow_api import AirflowApi
from demo.local import LocalDemo, running_demo
from demo.pipelines import open_ledger
from demo.waiting import wait_until
from tests.stack.pipelines.shared import address, decide, job_of, published, responses, wait_for_state
from tests.target import Answer, Target, serve

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

DAGS = ("pool", "group", "branch", "teardown", "daily", "bound", "asset", "after", "deadline")
#: The states of a task that waits for a person.
WAITING = {"deferred", "awaiting_input"}
#: Those that need no person run at once, while the other tests wait for theirs.
BY_THEMSELVES = ("pool", "group", "branch", "teardown")


@pytest.fixture(scope="module")
def slack() -> Iterator[Target]:
    """What stands in for Slack."""
    with serve() as target:
        target.answer_by_path["/services/secret"] = Answer(200, {"ok": True})
        yield target


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file into which OpenLineage's client writes its events."""
    return Path(tmp_path_factory.mktemp("lineage")) / "events.json"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, slack: Target, lineage: Path) -> Iterator[LocalDemo]:
    dags = Path(tmp_path_factory.mktemp("dags"))
    for name in ("features.py", "product_notes.py"):
        shutil.copy(Path(__file__).parent / "dags" / name, dags)
    webhook = {"conn_type": "slackwebhook", "password": f"http://127.0.0.1:{slack.port}/services/secret"}
    settings = {
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "True",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW_CONN_REVIEWERS_SLACK": json.dumps(webhook),
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(lineage), "append": True}),
        "AIRFLOW__OPENLINEAGE__SELECTIVE_ENABLE": "True",
    }
    with running_demo(Path(tmp_path_factory.mktemp("demo")), dags, extra_env=settings) as demo:
        admin = demo.airflow.api()
        admin.wait_for_dags({f"features_{name}" for name in DAGS})
        admin.json("POST", "/api/v2/pools", json={"name": "narrow", "slots": 1})
        yield demo


@pytest.fixture(scope="module")
def admin(demo: LocalDemo) -> AirflowApi:
    return demo.airflow.api("admin")


@pytest.fixture(scope="module")
def bob(demo: LocalDemo) -> AirflowApi:
    return demo.airflow.api("bob")


@pytest.fixture(scope="module")
def ledger(demo: LocalDemo) -> Iterator[Ledger]:
    with open_ledger(demo) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def runs(admin: AirflowApi) -> dict[str, str]:
    """A run of each Dag that needs no person."""
    return {name: admin.trigger(f"features_{name}") for name in BY_THEMSELVES}


def times(admin: AirflowApi, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
    """What Airflow says of the tasks of a run, with the times."""
    found = admin.json("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
    return {each["task_id"]: each for each in found}


def states(admin: AirflowApi, dag_id: str, run_id: str) -> dict[str, str | None]:
    return {task_id: state for (task_id, _), state in admin.task_states(dag_id, run_id).items()}


def links(admin: AirflowApi, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
    """The buttons that Airflow shows with a task."""
    path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links"
    found: dict[str, str | None] = admin.json("GET", path)["extra_links"]
    return found


def test_dags_scheduled_on_a_type_run_once_after_approved_and_written_and_not_after_rejected(
    runs: dict[str, str], demo: LocalDemo, admin: AirflowApi, bob: AirflowApi, ledger: Ledger, lineage: Path
) -> None:
    asked = {slug: admin.trigger("features_asset", {"slug": slug}) for slug in ("unwanted", "wanted")}
    jobs = {
        slug: ledger.job(wait_for_state(ledger, admin, "features_asset", run_id, JobState.REVIEW))
        for slug, run_id in asked.items()
    }
    run_id, job = asked["wanted"], jobs["wanted"]
    admin.wait_for_task("features_asset", run_id, "approve", WAITING)
    # A task stores its links a moment after its state.
    wait_until(lambda: links(admin, "features_asset", run_id, "approve")["Review"], "the link of the task that waits")
    assert links(admin, "features_asset", run_id, "approve") == {"Review": address(demo, job)}
    decide(bob, jobs["unwanted"], "reject")
    assert admin.wait_for_run("features_asset", asked["unwanted"]) == "success"
    assert states(admin, "features_asset", asked["unwanted"])["publish"] == "skipped"
    decide(bob, job)
    assert admin.wait_for_run("features_asset", run_id) == "success"

    (after,) = wait_until(lambda: admin.runs("features_after"), "the Dag that is scheduled on the asset to run")
    assert admin.wait_for_run("features_after", after) == "success"
    (effect,) = ledger.record(job.job_id).current_effects
    told = {"job_id": job.job_id, "job_type": "feature", "job_key": "wanted", "revision": 1, "applied": 1}
    assert admin.xcom("features_after", after, "told") == [{**told, "external_ids": {"publish": effect.external_id}}]
    wait_until(lambda: links(admin, "features_asset", run_id, "publish")["Review"], "the link of the task that wrote")
    assert links(admin, "features_asset", run_id, "publish") == {
        "Review": address(demo, job),
        "External record": f"https://cms.example/posts/{effect.external_id}",
    }

    admin.clear("features_asset", run_id)
    wait_until(lambda: admin.run_state("features_asset", run_id) != "success", "the run to start again")
    assert admin.wait_for_run("features_asset", run_id) == "success"
    assert len(published(demo, "wanted")) == 1
    assert list(admin.runs("features_after")) == [after], "a clear writes nothing, and starts no run"

    facets = wait_until(lambda: _facets(lineage), "OpenLineage to get facets of the draft and of the effect")
    assert facets["aihandoff_draft"]["model"] == "gpt-5.2"
    assert facets["aihandoff_effects"]["approvers"] == [{"kind": "user", "name": "bob"}]
    assert facets["aihandoff_effects"]["effects"][0]["externalId"] == effect.external_id
    output = ledger.revision(job.job_id, 1).output
    assert output["body"] not in lineage.read_text("utf-8")


def _facets(lineage: Path) -> dict[str, Any] | None:
    """What OpenLineage got of runs, once both of our facets are there."""
    if not lineage.exists():
        return None
    told: dict[str, Any] = {}
    for line in lineage.read_text("utf-8").splitlines():
        told |= json.loads(line)["run"]["facets"]
    return told if {"aihandoff_draft", "aihandoff_effects"} <= told.keys() else None


def test_a_deferred_draft_holds_no_pool_slot_and_priority_weights_order_those_that_wait(
    runs: dict[str, str], admin: AirflowApi
) -> None:
    assert admin.wait_for_run("features_pool", runs["pool"]) == "success"
    tasks = times(admin, "features_pool", runs["pool"])
    slow, quick = tasks["slow"], tasks["quick"]
    assert slow["start_date"] < quick["start_date"], "the one with the higher weight begins"
    assert quick["end_date"] < slow["end_date"], "it gives its only slot away while it waits"
    assert slow["pool"] == quick["pool"] == "narrow"


def test_jobs_of_task_groups_and_of_mapped_groups_are_their_own(
    runs: dict[str, str], admin: AirflowApi, ledger: Ledger
) -> None:
    assert admin.wait_for_run("features_group", runs["group"]) == "success"
    jobs = ledger.jobs(dag_id="features_group", run_id=runs["group"])
    assert {(job.job_key, job.state) for job in jobs} == {
        (key, JobState.COMPLETED) for key in ("grouped", "each-0", "each-1")
    }


def test_an_effect_that_a_branch_skips_is_left_out_and_the_task_that_joins_runs(
    runs: dict[str, str], admin: AirflowApi, ledger: Ledger, demo: LocalDemo
) -> None:
    assert admin.wait_for_run("features_branch", runs["branch"]) == "success"
    assert states(admin, "features_branch", runs["branch"])["second"] == "skipped"
    assert states(admin, "features_branch", runs["branch"])["join"] == "success"
    job_id = job_of(ledger, "features_branch", runs["branch"])
    assert job_id is not None
    record = ledger.record(job_id)
    assert record.job.state is JobState.COMPLETED
    assert {effect.name: effect.state for effect in record.current_effects} == {
        "first": EffectState.APPLIED,
        "second": EffectState.SKIPPED,
    }
    assert published(demo, "branched-second") == []


def test_a_teardown_that_rolls_back_runs_after_the_work_failed(
    runs: dict[str, str], admin: AirflowApi, ledger: Ledger, demo: LocalDemo
) -> None:
    assert admin.wait_for_run("features_teardown", runs["teardown"]) == "failed"
    assert states(admin, "features_teardown", runs["teardown"]) == {
        "draft": "success",
        "publish": "success",
        "check": "failed",
        "retract": "success",
    }
    job_id = job_of(ledger, "features_teardown", runs["teardown"])
    assert job_id is not None
    assert ledger.job(job_id).state is JobState.ROLLED_BACK
    assert [method for method, _ in published(demo, "torn-down")] == ["PUT", "DELETE"]


def test_a_backfill_waits_for_the_day_before_where_the_author_says_so_and_repeats_nothing(
    admin: AirflowApi, bob: AirflowApi, ledger: Ledger, demo: LocalDemo
) -> None:
    backfill(admin)
    first, second = wait_until(lambda: two_days(admin), "a run of each day")
    jobs = [
        ledger.job(wait_for_state(ledger, admin, "features_daily", run_id, JobState.REVIEW))
        for run_id in (first, second)
    ]
    decide(bob, jobs[1])
    admin.wait_for_task("features_daily", second, "approve", {"success"})
    assert states(admin, "features_daily", second)["publish"] is None
    decide(bob, jobs[0])
    for run_id in (first, second):
        assert admin.wait_for_run("features_daily", run_id) == "success"
    ended = times(admin, "features_daily", first)["publish"]["end_date"]
    assert ended < times(admin, "features_daily", second)["publish"]["start_date"]

    paid = len(responses(demo))
    wait_until(lambda: backfills(admin) == 0, "the backfill to be over")
    backfill(admin)
    for run_id in (first, second):
        wait_until(partial(was_run_again, admin, run_id), "the backfill to run the day again")
        assert admin.wait_for_run("features_daily", run_id) == "success"
    assert len(responses(demo)) == paid
    assert [len(published(demo, f"daily-2026-01-0{day}")) for day in (1, 2)] == [1, 1]


def backfill(admin: AirflowApi) -> None:
    """Ask Airflow to run two days, also where they have run before."""
    days = {"from_date": "2026-01-01T00:00:00Z", "to_date": "2026-01-02T00:00:00Z"}
    body = {"dag_id": "features_daily", **days, "max_active_runs": 2, "reprocess_behavior": "completed"}
    admin.json("POST", "/api/v2/backfills", json=body)


def was_run_again(admin: AirflowApi, run_id: str) -> bool:
    """Whether the last task of a day has begun another attempt."""
    return int(times(admin, "features_daily", run_id)["publish"]["try_number"]) > 1


def backfills(admin: AirflowApi) -> int:
    """How many of them are not over."""
    found = admin.json("GET", "/api/v2/backfills", params={"dag_id": "features_daily"})["backfills"]
    return sum(each["completed_at"] is None for each in found)


def two_days(admin: AirflowApi) -> list[str] | None:
    """The runs of both days, the first one first, once they are there."""
    found = sorted(admin.runs("features_daily"))
    return found if len(found) == 2 else None


def test_a_task_that_waits_counts_for_the_most_that_may_be_active(admin: AirflowApi) -> None:
    first, second = (admin.trigger("features_bound", {"slug": slug}) for slug in ("first", "second"))
    for run_id in (first, second):
        assert admin.wait_for_run("features_bound", run_id) == "success"
    drafts = [times(admin, "features_bound", run_id)["draft"] for run_id in (first, second)]
    earlier, later = sorted(drafts, key=lambda draft: str(draft["start_date"]))
    assert earlier["end_date"] <= later["start_date"]


def test_a_deadline_of_the_dag_reminds_while_a_job_waits_for_its_decision(
    admin: AirflowApi, bob: AirflowApi, ledger: Ledger, slack: Target
) -> None:
    run_id = admin.trigger("features_deadline")
    job = ledger.job(wait_for_state(ledger, admin, "features_deadline", run_id, JobState.REVIEW))
    wait_until(lambda: slack.received, "the deadline to be noticed", timeout_seconds=120)
    assert "No one has decided yet." in str(slack.received[0])
    assert ledger.job(job.job_id).state is JobState.REVIEW, "it ends nothing"
    decide(bob, job)
    assert admin.wait_for_run("features_deadline", run_id) == "success"


def test_the_test_button_of_the_ledgers_connection_says_whether_its_database_is_reached(
    demo: LocalDemo, admin: AirflowApi
) -> None:
    named = json.loads(demo.airflow.env["AIRFLOW_CONN_AIHANDOFF_LEDGER"])
    body = {**named, "connection_id": "aihandoff_ledger", "extra": json.dumps(named["extra"])}
    assert admin.json("POST", "/api/v2/connections/test", json=body)["status"] is True
    refused = admin.json("POST", "/api/v2/connections/test", json={**body, "password": "wrong"})
    assert refused["status"] is False
    assert "password authentication failed" in refused["message"]
