"""The three pipelines on a real Airflow: with a person in a browser, through crashes, and when all is cleared."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import EffectState, JobState, ResponseStatus
from demo.airflow_api import AirflowApi
from demo.check import finish
from demo.comparison import as_table, compare
from demo.local import LocalDemo
from demo.pipelines import PIPELINES, approve_what_waits
from demo.waiting import wait_until
from tests.airflow_compat import WAITS_FOR_APPROVAL
from tests.factories import TEST
from tests.stack.browser import chromium_page
from tests.stack.pipelines.shared import job_of, outside, process_titled, responses, wait_for_state, writes

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

TRIGGERS_ARE_NOTIFIED = pytest.mark.skipif(
    RELEASE < (3, 3), reason="a trigger learns that its task was ended as of Airflow 3.3"
)


def assert_no_differences(demo: LocalDemo) -> None:
    rows = compare(demo)
    assert not [difference for row in rows for difference in row.differences], as_table(rows)


def test_a_person_approves_in_the_browser_and_the_write_happens(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    before = writes(demo)
    run_id = admin.trigger("publishing", {"slug": "northlight-espresso"})
    job_id = wait_for_state(ledger, admin, "publishing", run_id, JobState.REVIEW)
    assert writes(demo) == before
    with chromium_page(demo.airflow.base_url, "bob") as page:
        page.goto(f"{demo.airflow.base_url}/aihandoff/jobs/{job_id}")
        assert "Northlight" in page.inner_text("main")
        assert "/cms/posts/northlight-espresso" in page.inner_text("main")
        page.fill("textarea[name=comment]", "Reads well")
        page.click("button[value=approve]")
        # By then the write may have happened, and the page may say so.
        page.wait_for_selector(", ".join(f".explanation.{state}" for state in ("approved", "applying", "completed")))
    assert admin.wait_for_run("publishing", run_id) == "success"
    record = ledger.record(job_id)
    assert record.job.state is JobState.COMPLETED
    assert [(d.decided_by, d.comment) for d in record.decisions] == [("bob", "Reads well")]
    assert writes(demo) == [*before, ("PUT", "/cms/posts/northlight-espresso")]


def test_a_rejection_skips_what_comes_after_and_clearing_the_run_asks_no_one_again(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id = admin.trigger("publishing", {"slug": "clearwell-purifier"})
    job_id = wait_for_state(ledger, admin, "publishing", run_id, JobState.REVIEW)
    before = (writes(demo), len(responses(demo)))
    decision = {"verdict": "reject", "digest": ledger.job(job_id).review_digest, "comment": "too shrill"}
    demo.airflow.api("alice").json("POST", f"/aihandoff/api/v1/jobs/{job_id}/decisions", json=decision)
    assert admin.wait_for_run("publishing", run_id) == "success"
    skipped = {"approve": "skipped", "publish": "skipped"}
    assert {name: admin.task_states("publishing", run_id)[name, -1] for name in skipped} == skipped
    admin.clear("publishing", run_id)
    wait_until(lambda: admin.run_state("publishing", run_id) != "success", "the run to start again")
    assert admin.wait_for_run("publishing", run_id) == "success"
    assert {name: admin.task_states("publishing", run_id)[name, -1] for name in skipped} == skipped
    assert (writes(demo), len(responses(demo))) == before


def start_slow_draft(demo: LocalDemo, admin: AirflowApi, ledger: Ledger, case: str) -> tuple[str, int]:
    """Start a draft that takes ten minutes; return its run and its job when a trigger waits for it."""
    run_id = admin.trigger("slow_draft", {"case": case})
    admin.wait_for_task("slow_draft", run_id, "draft", {"deferred"})
    job_id = job_of(ledger, "slow_draft", run_id)
    assert job_id is not None
    # The task itself does not poll the response: a poll comes from the trigger.
    wait_until(lambda: at_openai(demo, ledger, job_id)["retrieves"], "the trigger to poll the response")
    return run_id, job_id


def mark_failed(admin: AirflowApi, dag_id: str, run_id: str, task_id: str) -> None:
    path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
    admin.json("PATCH", path, json={"new_state": "failed"})


def at_openai(demo: LocalDemo, ledger: Ledger, job_id: int) -> dict[str, Any]:
    """What the stand-in says about the response of the job's current revision."""
    response_id = ledger.revision(job_id, ledger.job(job_id).revision).response_id
    return next(seen for seen in responses(demo) if seen["response"]["id"] == response_id)


@TRIGGERS_ARE_NOTIFIED
def test_marking_a_deferred_draft_failed_cancels_its_response(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id, job_id = start_slow_draft(demo, admin, ledger, "mark-failed")
    mark_failed(admin, "slow_draft", run_id, "draft")
    wait_until(lambda: ledger.job(job_id).state is JobState.CANCELLED, "the job to be cancelled")
    assert at_openai(demo, ledger, job_id)["response"]["status"] == "cancelled"
    assert "cancel requested" in [event.event for event in ledger.record(job_id).events]


def test_marking_a_running_draft_failed_cancels_its_response(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id = admin.trigger("attended_draft", {"case": "mark-running-failed"})
    job_id = wait_for_state(ledger, admin, "attended_draft", run_id, JobState.RUNNING)
    wait_until(lambda: at_openai(demo, ledger, job_id)["retrieves"], "the worker to poll the response")
    assert admin.task_states("attended_draft", run_id)["draft", -1] == "running"
    mark_failed(admin, "attended_draft", run_id, "draft")
    wait_until(lambda: ledger.job(job_id).state is JobState.CANCELLED, "the job to be cancelled")
    assert at_openai(demo, ledger, job_id)["response"]["status"] == "cancelled"
    assert ledger.job(job_id).state_reason == "the task was ended while it ran"


@TRIGGERS_ARE_NOTIFIED
def test_marking_an_approval_that_waits_failed_cancels_the_job_and_nothing_is_written(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id = admin.trigger("function_effect", {"slug": "never-approved"})
    job_id = wait_for_state(ledger, admin, "function_effect", run_id, JobState.REVIEW)
    admin.wait_for_task("function_effect", run_id, "approve", {WAITS_FOR_APPROVAL})
    if WAITS_FOR_APPROVAL == "deferred":  # one whose task is ended before the triggerer has it is never called
        wait_until(lambda: "starting" in admin.task_log("function_effect", run_id, "approve"), "the trigger to run")
    mark_failed(admin, "function_effect", run_id, "approve")
    wait_until(lambda: ledger.job(job_id).state is JobState.CANCELLED, "the job to be cancelled")
    record = ledger.record(job_id)
    assert [effect.state for effect in record.effects] == [EffectState.VOID]
    assert record.job.state_reason == "the task that waited for its decision was marked failed"
    assert not [path for _, path in writes(demo) if path.endswith("never-approved")]


def test_neither_a_restart_of_the_triggerer_nor_a_clear_cancels_a_response(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id, job_id = start_slow_draft(demo, admin, ledger, "restart-and-clear")
    demo.airflow.restart("triggerer")
    demo.airflow.wait_healthy()
    admin.clear("slow_draft", run_id)
    wait_until(lambda: ledger.record(job_id).events[-1].event == "attached", "the new attempt to attach")
    admin.wait_for_task("slow_draft", run_id, "draft", {"deferred"})
    assert ledger.job(job_id).state is JobState.RUNNING
    assert at_openai(demo, ledger, job_id)["response"]["status"] in ("queued", "in_progress")
    assert ledger.revision(job_id, 1).submissions == 1
    # Ended in the ledger, so that no test after this one finds a job that still runs.
    ledger.outputs.cancelled(job_id, 1, actor=TEST, reason="the test is over", status=ResponseStatus.RUNNING)
    assert admin.wait_for_run("slow_draft", run_id) == "failed"


#: What is killed, and what the pipelines work on meanwhile: the same work twice would be attached to.
VICTIMS = {
    "triggerer": ("tidewater-kettle", "2026-11-19T07:00:00Z", "2026-11-19T09:00:00Z"),
    "scheduler": ("beacon-lamp", "2026-11-19T09:00:00Z", "2026-11-19T11:00:00Z"),
    "task": ("drift-bottle", "2026-11-19T11:00:00Z", "2026-11-19T13:00:00Z"),
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_pipelines_end_in_the_same_table_when_something_is_killed_in_the_middle(
    demo: LocalDemo, admin: AirflowApi, victim: str
) -> None:
    slug, opened_from, opened_to = VICTIMS[victim]
    runs = {
        "publishing": admin.trigger("publishing", {"slug": slug}),
        "report_drafting": admin.trigger("report_drafting"),
        "ticket_classification": admin.trigger(
            "ticket_classification", {"opened_from": opened_from, "opened_to": opened_to}
        ),
    }
    # A request whose worker dies while it is sent may wait for a person.
    for (dag_id, run_id), task_id in zip(runs.items(), ("draft", "draft", "label"), strict=True):
        admin.wait_for_task(dag_id, run_id, task_id, {"deferred", "success"})
    with ThreadPoolExecutor(1) as threads:
        if victim == "task":
            killed = threads.submit(kill_task, admin, "publishing", runs["publishing"], "publish")
        else:
            killed = threads.submit(kill_component, demo, victim)
            killed.result()
        finish(demo, admin, runs, report=print)
        killed.result()
    assert {dag_id: admin.run_state(dag_id, run_id) for dag_id, run_id in runs.items()} == dict.fromkeys(
        runs, "success"
    )
    assert_no_differences(demo)


def kill_component(demo: LocalDemo, component: Any) -> None:
    """SIGKILL a component with all its processes, and start it again."""
    demo.airflow.kill(component)
    demo.airflow.start(component)
    demo.airflow.wait_healthy()


def kill_task(admin: AirflowApi, dag_id: str, run_id: str, task_id: str) -> None:
    """SIGKILL the process of a task as soon as there is one."""
    title = next(f"airflow worker -- {ti.id}" for ti in admin.task_instances(dag_id, run_id) if ti.task_id == task_id)
    os.kill(wait_until(lambda: process_titled(title), f"{task_id} to run", 300, every_seconds=0.02), signal.SIGKILL)


def test_clearing_every_task_of_finished_runs_writes_nothing_and_asks_the_model_nothing(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    finished = [
        (dag_id, run_id) for dag_id in PIPELINES for run_id, state in admin.runs(dag_id).items() if state == "success"
    ]
    before = (writes(demo), len(responses(demo)), as_table(compare(demo)))
    for dag_id, run_id in finished:
        admin.clear(dag_id, run_id)
    for dag_id, run_id in finished:
        assert admin.wait_for_run(dag_id, run_id, 300) == "success"
    assert approve_what_waits(demo.airflow.api("alice")) == 0
    assert (writes(demo), len(responses(demo)), as_table(compare(demo))) == before


def roll_back(admin: AirflowApi, ledger: Ledger, job_id: int) -> str:
    """Roll a job back as a person does in Airflow's UI; return the run when the job is rolled back."""
    run_id = admin.trigger("aihandoff_rollback", {"job": job_id, "reason": "The wrong product."})
    assert admin.wait_for_run("aihandoff_rollback", run_id) == "success"
    assert ledger.job(job_id).state is JobState.ROLLED_BACK
    return run_id


def test_a_published_page_is_undone_by_the_roll_back_dag_once(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id = admin.trigger("publishing", {"slug": "rambler-backpack"})
    wait_for_state(ledger, admin, "publishing", run_id, JobState.REVIEW)
    assert approve_what_waits(demo.airflow.api("alice")) == 1
    assert admin.wait_for_run("publishing", run_id) == "success"
    job_id = job_of(ledger, "publishing", run_id)
    assert job_id is not None
    before = writes(demo)

    roll_back_id = roll_back(admin, ledger, job_id)

    assert writes(demo) == [*before, ("DELETE", "/cms/posts/rambler-backpack")]
    (start,) = [event for event in ledger.record(job_id).events if event.event == "roll back started"]
    assert start.reason == "The wrong product. (asked for by admin)"
    assert_no_differences(demo)
    admin.clear("aihandoff_rollback", roll_back_id)
    admin.clear("publishing", run_id)
    assert admin.wait_for_run("aihandoff_rollback", roll_back_id) == "success"
    assert admin.wait_for_run("publishing", run_id) == "failed"
    assert admin.task_states("publishing", run_id)["approve", -1] == "failed"
    assert writes(demo)[len(before) + 1 :] == []


def test_a_function_writes_what_was_approved_and_another_undoes_it(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id = admin.trigger("function_effect", {"slug": "a-function"})
    job_id = wait_for_state(ledger, admin, "function_effect", run_id, JobState.REVIEW)
    before = writes(demo)
    (planned,) = ledger.record(job_id).effects
    assert (planned.name, planned.plan["arguments"]["title"]) == ("post", "About a-function")
    assert approve_what_waits(demo.airflow.api("alice")) == 1
    assert admin.wait_for_run("function_effect", run_id) == "success"
    admin.clear("function_effect", run_id)
    assert admin.wait_for_run("function_effect", run_id) == "success"
    post = outside(f"{demo.business_url}/cms/posts/a-function")
    assert post["body"] == planned.plan["arguments"]["body"]
    assert ledger.record(job_id).effects[0].external_id == post["id"]

    roll_back(admin, ledger, job_id)

    path = "/cms/posts/a-function"
    assert writes(demo)[len(before) :] == [("PUT", path), ("DELETE", path)]


def test_an_unknown_write_waits_for_a_person_and_continues_once_it_is_resolved(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id = admin.trigger("function_effect", {"slug": "a-lost-answer", "lose": "yes"})
    job_id = wait_for_state(ledger, admin, "function_effect", run_id, JobState.REVIEW)
    before = writes(demo)
    assert approve_what_waits(demo.airflow.api("alice")) == 1
    admin.wait_for_task("function_effect", run_id, "publish", {"deferred"})
    (lost,) = ledger.record(job_id).effects
    assert (lost.state, ledger.job(job_id).state) == (EffectState.UNKNOWN, JobState.APPLYING)

    found = outside(f"{demo.business_url}/cms/posts/a-lost-answer")["id"]
    resolution = {"applied": True, "external_id": found, "reason": "it is there", "attempt": lost.attempt}
    demo.airflow.api("alice").json("POST", f"/aihandoff/api/v1/effects/{lost.effect_id}/resolution", json=resolution)

    assert admin.wait_for_run("function_effect", run_id) == "success"
    assert ledger.job(job_id).state is JobState.COMPLETED
    assert admin.xcom("function_effect", run_id, "publish")["external_id"] == found
    assert writes(demo)[len(before) :] == [("PUT", "/cms/posts/a-lost-answer")]


def test_a_condition_each_line_and_the_id_of_an_earlier_effect_are_written_as_they_were_approved(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id = admin.trigger("order_lines")
    job_id = wait_for_state(ledger, admin, "order_lines", run_id, JobState.REVIEW)
    before = writes(demo)
    with chromium_page(demo.airflow.base_url, "alice") as page:
        page.goto(f"{demo.airflow.base_url}/aihandoff/jobs/{job_id}")
        shown = page.inner_text("main")
        assert "of {effects.head.external_id}" in shown
        page.click("button[value=approve]")
        page.wait_for_selector("text=Approved by you")
    assert admin.wait_for_run("order_lines", run_id) == "success"

    record = ledger.record(job_id)
    assert [(effect.name, effect.state.value) for effect in record.current_effects] == [
        ("head", "applied"),
        ("line[0]", "applied"),
        ("line[1]", "applied"),
        ("refund", "skipped"),
    ]
    assert record.job.state is JobState.COMPLETED
    paths = ["/cms/posts/order-head", "/cms/posts/line-a", "/cms/posts/line-b"]
    assert writes(demo)[len(before) :] == [("PUT", path) for path in paths]
    head = record.current_effects[0].external_id
    assert outside(f"{demo.business_url}/cms/posts/line-b")["body"] == f"of {head}"
