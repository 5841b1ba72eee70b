"""Many jobs are reviewed together, and decided on in one action: all of them, or none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.pages.bulk_table import key_of
from tests.factories import OWNER, approve, ask
from tests.integration.web import showcase
from tests.integration.web.conftest import Grant, Login, Page


def _choice(job: Job) -> str:
    return f"{job.job_id}:{job.review_digest}"


def _post(client: TestClient, jobs: list[Job], verdict: str = "approve", **more: Any) -> Any:
    form = {"by": "type", "group": key_of("ticket"), "verdict": verdict, "job": [_choice(job) for job in jobs], **more}
    return client.post("/aihandoff/bulk-review/decision", data=form)


def _send(client: TestClient, jobs: list[Job], verdict: str = "approve", **more: Any) -> Any:
    chosen = [{"job_id": job.job_id, "digest": job.review_digest} for job in jobs]
    return client.post("/aihandoff/api/v1/decisions", json={"verdict": verdict, "jobs": chosen, **more})


def _states(ledger: Ledger, jobs: list[Job]) -> set[JobState]:
    return {ledger.job(job.job_id).state for job in jobs}


def _boxes(page: Page) -> dict[str, bool]:
    """The jobs that can be selected, and whether they are."""
    return {
        str(item["value"]): "checked" in item
        for item in page.all("input")
        if item.get("name") == "job" and item.get("type") == "checkbox"
    }


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("type", {"publishing": 1, "ticket": 3}),
        ("run", {"publishing, manual__1": 1, "tickets, scheduled__2026-02-02T06:00:00+00:00": 3}),
        (
            "shape",
            {"publish: http PUT (body, tagline, title)": 1, "label: http PUT (category, priority)": 3},
        ),
        ("outcome", {"prices@3: the price is above …": 1, "sampling@1: one in ten goes to a person": 3}),
    ],
)
def test_the_review_queue_is_grouped(login: Login, ledger: Ledger, by: str, groups: dict[str, int]) -> None:
    showcase.note(ledger)
    showcase.tickets(ledger, 3)
    bob = login("bob")
    page = Page(bob.get(f"/aihandoff/bulk-review?by={by}").text)
    assert _boxes(page) == {}
    for group, number in groups.items():
        assert f"{group} {number}" in page.text
        assert len(_boxes(Page(bob.get(f"/aihandoff/bulk-review?by={by}&group={key_of(group)}").text))) == number


def test_fields_that_differ_are_columns_and_equal_fields_are_listed_once(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 4)
    page = Page(login("bob").get("/aihandoff/bulk-review?by=type").text)
    words = " ".join(page.text.split())
    assert "SelectJobWhat was askedCategoryPriorityReplyLabel" in words
    assert words.count("Language") == 1
    assert "about ticket 4703" in words
    assert "How do I change the address of my account 4702?" in words
    assert list(_boxes(page)) == [_choice(job) for job in jobs]


def test_a_link_selects_all_jobs_without_a_script(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 3)
    bob = login("bob")
    assert set(_boxes(Page(bob.get("/aihandoff/bulk-review?select=all").text)).values()) == {True}
    assert set(_boxes(Page(bob.get("/aihandoff/bulk-review").text)).values()) == {False}
    assert _states(ledger, jobs) == {JobState.REVIEW}


@pytest.mark.parametrize(("verdict", "state"), [("approve", JobState.APPROVED), ("reject", JobState.REJECTED)])
def test_a_bulk_decision_records_one_decision_for_each_job(
    login: Login, ledger: Ledger, verdict: str, state: JobState
) -> None:
    jobs = showcase.tickets(ledger, 4)
    answer = _post(login("bob"), jobs[:3], verdict, comment="Sampled.")
    assert answer.status_code == 200
    assert "3 decisions recorded" in answer.text
    assert _states(ledger, jobs[:3]) == {state}
    assert _states(ledger, jobs[3:]) == {JobState.REVIEW}
    for job in jobs[:3]:
        [decision] = ledger.record(job.job_id).decisions
        assert (decision.decided_by, decision.digest, decision.comment) == ("bob", job.review_digest, "Sampled.")


def test_a_double_click_counts_once(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 2)
    bob = login("bob")
    assert [_post(bob, jobs).status_code for _ in range(2)] == [200, 200]
    assert [len(ledger.record(job.job_id).decisions) for job in jobs] == [1, 1]


def test_one_changed_job_stops_the_bulk_decision_and_is_listed(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 4)
    plan = showcase.put("elsewhere", {"category": "spam"}, name="label")
    changed = ask(ledger, jobs[1], plan)
    approve(ledger, jobs[2])
    answer = _post(login("carol"), jobs[:3], comment="All <b>fine</b>.")
    page = Page(answer.text)
    assert answer.status_code == 409
    assert "No decision was recorded" in page.text
    assert f"Job {jobs[1].job_id}: it has changed since you opened it" in page.text
    assert f"Job {jobs[2].job_id}: it no longer waits for a decision" in page.text
    assert _states(ledger, [jobs[0], jobs[1], jobs[3]]) == {JobState.REVIEW}
    # What is left stays selected; what changed has to be reviewed again.
    assert _boxes(page) == {_choice(jobs[0]): True, _choice(changed): False, _choice(jobs[3]): False}
    assert page.form["comment"] == "All <b>fine</b>."


def test_jobs_of_other_reviewers_are_shown_but_cannot_be_selected(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 2)
    plan = showcase.put("x", {"category": "spam"}, name="label")
    other = ask(ledger, jobs[1], plan, rules=ReviewRules(approvers=Approvers(users=("carol",))))
    bob = login("bob")
    page = Page(bob.get("/aihandoff/bulk-review?by=type&select=all").text)
    assert _boxes(page) == {_choice(jobs[0]): True}
    assert "Only these may decide on it: carol." in page.text
    answer = _post(bob, [jobs[0], other])
    assert answer.status_code == 409
    assert "Only these may decide on it: carol." in answer.text
    assert _states(ledger, jobs) == {JobState.REVIEW}


def test_a_viewer_sees_the_queue_but_cannot_decide(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 2)
    vic = login("vic")
    page = Page(vic.get("/aihandoff/bulk-review?select=all").text)
    assert "ticket:4701" in page.text
    assert _boxes(page) == {}
    assert _post(vic, jobs).status_code == 409
    assert {item["job_id"] for item in _send(vic, jobs).json()["stale"]} == {job.job_id for job in jobs}
    assert _states(ledger, jobs) == {JobState.REVIEW}


def test_hidden_jobs_are_answered_like_missing_jobs(login: Login, ledger: Ledger, grant: Grant) -> None:
    hidden, shown = showcase.tickets(ledger, 1), [showcase.note(ledger, rules=ReviewRules())]
    grant("bob", "GET", OWNER.dag_id)
    grant("bob", "PUT", OWNER.dag_id)
    bob = login("bob")
    assert "ticket" not in bob.get("/aihandoff/bulk-review").text
    assert bob.get("/aihandoff/api/v1/reviews").json()["total"] == 1
    answers = [_send(bob, [*hidden, *shown]).json(), _send(bob, [*_renumbered(hidden), *shown]).json()]
    assert [answer["stale"][0]["detail"] for answer in answers] == ["there is no such job, or you may not see it."] * 2
    assert _states(ledger, [*hidden, *shown]) == {JobState.REVIEW}


def _renumbered(jobs: list[Job]) -> list[Job]:
    return [replace(job, job_id=job.job_id + 1000) for job in jobs]


def test_a_bulk_decision_without_a_selection_records_nothing(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 2)
    answer = _post(login("bob"), [], comment="Kept.")
    assert answer.status_code == 422
    assert "Select the jobs first." in answer.text
    assert Page(answer.text).form["comment"] == "Kept."
    assert _states(ledger, jobs) == {JobState.REVIEW}


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.test"}, {}])
def test_another_site_cannot_make_a_browser_decide(login: Login, ledger: Ledger, headers: dict[str, str]) -> None:
    jobs = showcase.tickets(ledger, 2)
    bob = login("bob", headers=headers)
    assert [sent(bob, jobs).status_code for sent in (_post, _send)] == [403, 403]
    assert bob.get("/aihandoff/bulk-review/decision").status_code == 405
    assert _states(ledger, jobs) == {JobState.REVIEW}


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "request changes"},
        {"verdict": ""},
        {"job": "1"},
        {"job": "1:x"},
        {"by": "mood"},
        {"job": "0:" + "a" * 64},
    ],
)
def test_a_malformed_bulk_decision_is_refused(login: Login, ledger: Ledger, change: dict[str, str]) -> None:
    jobs = showcase.tickets(ledger, 2)
    assert _post(login("bob"), jobs, **{"comment": "Kept.", **change}).status_code == 422
    assert _states(ledger, jobs) == {JobState.REVIEW}


def test_a_program_makes_a_bulk_decision(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 3)
    bob = login("bob", bearer=True)
    answer = _send(bob, jobs, comment="Sampled.")
    assert answer.status_code == 200
    assert [item["state"] for item in answer.json()["jobs"]] == ["approved"] * 3
    assert schemas.BulkDecisionAnswer.model_validate_json(answer.content).model_dump(mode="json") == answer.json()
    stale = _send(bob, jobs, "reject").json()
    assert stale["type"] == "stale-bulk-decision"
    assert [item["job_id"] for item in stale["stale"]] == [job.job_id for job in jobs]
    assert _send(bob, [jobs[0], jobs[0]]).status_code == 422
    assert _send(bob, []).status_code == 422


def test_a_program_lists_the_review_queue_with_its_own_jobs_first(login: Login, ledger: Ledger) -> None:
    first, second, third = showcase.tickets(ledger, 3)
    plan = showcase.put("x", {"category": "spam"}, name="label")
    ask(ledger, first, plan, rules=ReviewRules(approvers=Approvers(users=("carol",))))
    voted = ask(ledger, third, plan, rules=ReviewRules(approvals=2))
    ledger.reviews.decide(third.job_id, "approve", digest=str(voted.review_digest), person=Person("bob"))
    bob = login("bob", bearer=True)
    answer = bob.get("/aihandoff/api/v1/reviews")
    found = answer.json()
    assert [item["job_id"] for item in found["reviews"]] == [second.job_id, first.job_id, third.job_id]
    assert (found["total"], found["mine"]) == (3, 1)
    assert found["reviews"][1]["why_not"] == "Only these may decide on it: carol."
    assert found["reviews"][2]["votes"] == ["bob"]
    assert schemas.ReviewList.model_validate_json(answer.content).model_dump(mode="json") == found
    mine = bob.get("/aihandoff/api/v1/reviews?mine=true").json()["reviews"]
    assert [item["job_id"] for item in mine] == [second.job_id]
    page = bob.get("/aihandoff/api/v1/reviews?offset=1&limit=1").json()["reviews"]
    assert [item["job_id"] for item in page] == [first.job_id]
