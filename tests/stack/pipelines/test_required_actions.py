"""Approvals that Airflow has parked, on a real Airflow: answered in its Required Actions, or decided elsewhere."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.review.required_action import options_for
from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_api import AirflowApi
from demo.local import LocalDemo
from demo.waiting import wait_until
from tests.airflow_compat import WAITS_FOR_APPROVAL
from tests.stack.browser import chromium_page
from tests.stack.pipelines.shared import API, address, asked, decide, published
from tests.stack.pipelines.test_review import review

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(900),
    pytest.mark.skipif(WAITS_FOR_APPROVAL != "awaiting_input", reason="Airflow parks no task here"),
]


def pending(api: AirflowApi, run_id: str, dag_id: str = "notified") -> list[dict[str, Any]]:
    """What Required Actions lists of a run as still to be answered."""
    params = {"response_received": False, "state": ["deferred", "awaiting_input"]}
    found = api.json("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/hitlDetails", params=params)
    return list(found["hitl_details"])


def answer(
    ledger: Ledger, api: AirflowApi, run_id: str, option: str, comment: str = "", dag_id: str = "notified"
) -> Any:
    """Choose an option in Required Actions, some seconds after the question has appeared, as a person does."""

    def has_appeared_before() -> bool:
        now = ledger.now()
        return all(each.not_before <= now for page in ledger.parked_tasks.pages(100) for each in page)

    wait_until(has_appeared_before, "the question to be a while in the list")
    path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
    return api.request("PATCH", path, json={"chosen_options": [option], "params_input": {"comment": comment}})


def wait_until_asked(admin: AirflowApi, ledger: Ledger, run_id: str, job: Job, dag_id: str = "notified") -> Job:
    """Wait until Required Actions shows what the job says now."""

    def shown() -> Job | None:
        now, listed = ledger.job(job.job_id), pending(admin, run_id, dag_id)
        waits = bool(now.review_digest and listed and listed[0]["task_instance"]["state"] == "awaiting_input")
        return now if waits and tuple(listed[0]["options"]) == options_for(str(now.review_digest)) else None

    return wait_until(shown, "Required Actions to ask about what the job says now")


def test_an_answer_in_required_actions_is_a_decision_and_the_write_happens(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id, job = asked(ledger, admin, "answered-there")
    (listed,) = pending(admin, run_id)
    assert listed["subject"] == f"{job.job_type} {job.job_key} waits for a decision"
    assert f"[Review it]({demo.airflow.base_url}/aihandoff/jobs/{job.job_id})" in listed["body"]
    assert "If you approve, 1 write is sent: `publish` (`http`)." in listed["body"]
    assert ledger.record(job.job_id).revision.output["body"] not in json.dumps(listed)
    pools = {pool["name"]: pool for pool in admin.json("GET", "/api/v2/pools")["pools"]}
    assert pools["default_pool"]["deferred_slots"] == 0

    assert answer(ledger, demo.airflow.api("bob"), run_id, listed["options"][0], "Well said.").status_code == 200
    assert admin.wait_for_run("notified", run_id) == "success"
    assert len(published(demo, "answered-there")) == 1
    (decision,) = ledger.record(job.job_id).decisions
    assert (decision.decider, decision.verdict) == (Actor.user("bob", "bob"), "approve")
    assert (decision.digest, decision.comment) == (job.review_digest, "Well said.")


def test_a_decision_on_our_page_wakes_the_task_and_clears_the_list(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id, job = asked(ledger, admin, "decided-here")
    assert len(pending(admin, run_id)) == 1
    assert decide(demo.airflow.api("bob"), job).status_code == 200
    assert admin.wait_for_run("notified", run_id) == "success"
    assert len(published(demo, "decided-here")) == 1
    assert pending(admin, run_id) == []


def test_an_answer_to_what_the_job_said_before_is_no_vote_and_the_question_is_asked_again(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id, job = asked(ledger, admin, "edited-meanwhile")
    bob = demo.airflow.api("bob")
    (old,) = pending(admin, run_id)
    edit = {"digest": job.review_digest, "output": {"title": "By Bob", "tagline": "t", "body": "b"}}
    assert bob.request("POST", f"{API}/jobs/{job.job_id}/revisions", json=edit).status_code == 200

    now = wait_until_asked(admin, ledger, run_id, job)
    assert now.review_digest != job.review_digest
    assert answer(ledger, bob, run_id, old["options"][0]).status_code == 400, "Airflow offers the new version alone"
    assert ledger.record(job.job_id).decisions == []
    assert not published(demo, "edited-meanwhile")

    assert answer(ledger, bob, run_id, options_for(str(now.review_digest))[0]).status_code == 200
    assert admin.wait_for_run("notified", run_id) == "success"
    assert len(published(demo, "edited-meanwhile")) == 1


def test_who_may_not_decide_is_refused_there_too_and_the_next_one_sees_why(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id, job = asked(ledger, admin, "asked-for-it")
    approve, reject = options_for(str(job.review_digest))
    assert answer(ledger, demo.airflow.api("vic"), run_id, approve).status_code == 403
    assert answer(ledger, admin, run_id, approve).status_code == 200

    def refused() -> bool:
        return any("You asked for this work" in each["body"] for each in pending(admin, run_id))

    wait_until(refused, "the question to be asked again, with the reason")
    assert ledger.record(job.job_id).decisions == []
    assert answer(ledger, demo.airflow.api("bob"), run_id, reject, "Not now.").status_code == 200
    assert admin.wait_for_run("notified", run_id) == "success"
    assert (ledger.job(job.job_id).state, ledger.job(job.job_id).state_reason) == (JobState.REJECTED, "Not now.")
    assert not published(demo, "asked-for-it")


def test_two_of_two_answer_one_after_the_other(demo: LocalDemo, admin: AirflowApi, ledger: Ledger) -> None:
    run_id, job = asked(ledger, admin, "both-there", "notified_both")
    approve, _ = options_for(str(job.review_digest))
    assert answer(ledger, demo.airflow.api("alice"), run_id, approve, dag_id="notified_both").status_code == 200
    wait_until(lambda: len(ledger.record(job.job_id).decisions) == 1, "the vote of alice")
    wait_until_asked(admin, ledger, run_id, job, "notified_both")
    assert answer(ledger, demo.airflow.api("bob"), run_id, approve, dag_id="notified_both").status_code == 200
    assert admin.wait_for_run("notified_both", run_id) == "success"
    assert [each.decided_by for each in ledger.record(job.job_id).decisions] == ["alice", "bob"]
    assert len(published(demo, "both-there")) == 1


def test_a_cleared_approval_asks_again_and_counts_once(demo: LocalDemo, admin: AirflowApi, ledger: Ledger) -> None:
    run_id, job = asked(ledger, admin, "cleared-there")
    admin.clear("notified", run_id, ["approve"])
    wait_until(lambda: len(ledger.record(job.job_id).decisions) == 0 and pending(admin, run_id), "the question")
    now = wait_until_asked(admin, ledger, run_id, job)
    assert now.review_digest == job.review_digest
    assert answer(ledger, demo.airflow.api("bob"), run_id, options_for(str(now.review_digest))[0]).status_code == 200
    assert admin.wait_for_run("notified", run_id) == "success"
    assert len(published(demo, "cleared-there")) == 1


def test_what_is_decided_in_a_terminal_while_no_api_server_runs_wakes_the_task_when_one_does(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id, job = asked(ledger, admin, "while-it-was-down")
    demo.airflow.stop("api-server")
    try:
        assert "approved" in review(demo, "approve", str(job.job_id), f"--digest={job.review_digest}")
    finally:
        demo.airflow.start("api-server")
        demo.airflow.wait_healthy()
    assert admin.wait_for_run("notified", run_id) == "success"
    assert len(published(demo, "while-it-was-down")) == 1


def test_a_person_finds_the_question_in_airflows_list_reads_it_and_answers(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id, job = asked(ledger, admin, "seen-there")
    approve, _ = options_for(str(job.review_digest))
    with chromium_page(demo.airflow.base_url, "bob") as page:
        page.goto(f"{demo.airflow.base_url}/dags/notified/runs/{run_id}/tasks/approve/required_actions")
        page.wait_for_selector(f"text={job.job_key} waits for a decision")
        link = page.get_by_role("link", name="Review it")
        assert link.get_attribute("href") == address(demo, job)
        page.get_by_role("button", name=re.compile(re.escape(approve))).click()
        assert admin.wait_for_run("notified", run_id) == "success"
    assert len(published(demo, "seen-there")) == 1
