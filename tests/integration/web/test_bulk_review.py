"""Many jobs are reviewed together, and decided on in one action: all of them, or none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.pages import bulk_review
from airflow_provider_aihandoff.web.pages.bulk_table import key_of
from airflow_provider_aihandoff.web.pages.facets import Chosen
from tests.factories import OWNER, approve, ask, draft, job_spec
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


def _narrowed(*chosen: Chosen, page: str = "bulk-review", **more: Any) -> str:
    query = {"by": "type", "where": [each.as_address() for each in chosen], **more}
    return f"/aihandoff/{page}?{urlencode(query, doseq=True)}"


def _links(page: Page, text: str) -> list[str]:
    return [str(link["href"]) for link in page.all("a") if text in str(link.get("href"))]


def test_a_group_is_shown_page_by_page_with_every_job_once(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_review, "PAGE_SIZE", 3)
    jobs = showcase.tickets(ledger, 8)
    bob = login("bob")
    shown: list[str] = []
    path, said = "/aihandoff/bulk-review?by=type&select=all", []
    while path:
        page = Page(bob.get(path).text)
        assert set(_boxes(page).values()) <= {True, False}
        shown += _boxes(page)
        said.append(next(line for line in page.text.splitlines() if line.startswith("Jobs ")))
        before = int(str(page.field("start")))
        path = next((link for link in _links(page, "start=") if f"start={before + 3}" in link), "")
    assert shown == [_choice(job) for job in jobs]
    assert [line.partition(",")[0] for line in said] == ["Jobs 1 to 3 of 8", "Jobs 4 to 6 of 8", "Jobs 7 to 8 of 8"]
    first = Page(bob.get("/aihandoff/bulk-review?by=type&start=99").text)
    assert "Jobs 1 to 3 of 8" in first.text


def test_a_page_of_large_jobs_has_fewer_and_the_next_one_begins_with_the_others(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = showcase.tickets(ledger, 5)
    monkeypatch.setattr(bulk_review, "MAX_HELD", 1_000)
    bob = login("bob")
    page = Page(bob.get("/aihandoff/bulk-review?by=type").text)
    number = len(_boxes(page))
    assert 0 < number < 5
    (following,) = {link for link in _links(page, f"start={number}") if "select" not in link}
    rest = Page(bob.get(following).text)
    assert next(iter(_boxes(rest))) == _choice(jobs[number])


def test_a_field_with_few_values_narrows_the_whole_group_and_not_the_page_alone(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_review, "PAGE_SIZE", 2)
    jobs = showcase.tickets(ledger, 8)
    bob = login("bob")
    page = Page(bob.get("/aihandoff/bulk-review?by=type").text)
    words = " ".join(page.text.split())
    assert "Category billing 3 bug 3 account 2" in words
    assert "Priority normal 6 high 2" in words
    assert "Reply" not in words.partition("Jobs 1 to")[0]
    bug = Chosen(("category",), "bug")
    address = next(link for link in _links(page, "where=") if "bug" in link)
    narrowed = Page(bob.get(address).text)
    assert list(_boxes(narrowed)) == [_choice(jobs[1]), _choice(jobs[4])]
    words = " ".join(narrowed.text.split())
    assert "Only Category: bug Remove" in words
    assert "Priority normal 2 high 1" in words
    assert "Jobs 1 to 2 of 3" in words
    both = Page(bob.get(_narrowed(bug, Chosen(("priority",), "high"))).text)
    assert list(_boxes(both)) == [_choice(jobs[4])]
    none = Page(bob.get(_narrowed(Chosen(("category",), "spam"))).text)
    assert "No job of this group has these values" in none.text
    assert _boxes(none) == {}


@pytest.mark.parametrize(
    "query", ["where=x", "where=%5B%5D", "start=-1", "&".join(["where=%5B%5B%22a%22%5D,1%5D"] * 9)]
)
def test_an_address_that_no_page_has_is_refused(login: Login, query: str) -> None:
    assert login("bob").get(f"/aihandoff/bulk-review?{query}").status_code == 422


def test_what_a_model_wrote_into_a_field_is_shown_as_text(login: Login, ledger: Ledger) -> None:
    outputs = [{"category": text} for text in ("<b>\ud800\x00", "plain", "plain")]
    for number, output in enumerate(outputs):
        job = draft(ledger, job_spec(job_key=f"note:{number}"), output, response_id=f"resp_{number}")
        ask(ledger, job)
    bob = login("bob")
    answer = bob.get("/aihandoff/bulk-review")
    assert "<b>\ud800" not in answer.text
    address = next(link for link in _links(Page(answer.text), "where=") if "%5Cud800" in link)
    assert len(_boxes(Page(bob.get(address).text))) == 1


def _confirm(client: TestClient, page: Page, **change: Any) -> Any:
    """Send the form of the page that is about all jobs of a group, with the number that it says."""
    number = len(str(page.form["jobs"]).split())
    return client.post("/aihandoff/bulk-review/all/decision", data={**page.form, "count": number, **change})


@pytest.mark.parametrize(("verdict", "state"), [("approve", JobState.APPROVED), ("reject", JobState.REJECTED)])
def test_all_jobs_of_a_group_are_decided_on_also_those_of_other_pages(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, verdict: str, state: JobState
) -> None:
    monkeypatch.setattr(bulk_review, "PAGE_SIZE", 2)
    monkeypatch.setattr(bulk_review, "MAX_LISTED", 3)
    jobs = showcase.tickets(ledger, 7)
    other = showcase.note(ledger, rules=ReviewRules())
    bob = login("bob")
    page = Page(bob.get(f"/aihandoff/bulk-review?by=type&group={key_of('ticket')}").text)
    assert "7 jobs of this group wait for you, on all pages." in page.text
    asked = Page(bob.get(next(link for link in _links(page, "/all?") if f"verdict={verdict}" in link)).text)
    assert "You decide on 7 jobs, also on those that you have not opened." in asked.text
    assert ("7 external writes of the kind http are approved." in asked.text) == (verdict == "approve")
    assert "type the number of jobs: 7" in asked.text
    answer = _confirm(bob, asked, comment="Sampled.")
    assert "7 decisions recorded" in answer.text
    assert "4 more jobs in the same way" in answer.text
    assert _states(ledger, jobs) == {state}
    assert ledger.job(other.job_id).state is JobState.REVIEW
    for job in jobs:
        [decision] = ledger.record(job.job_id).decisions
        assert (decision.decided_by, decision.digest, decision.comment) == ("bob", job.review_digest, "Sampled.")
    assert "7 decisions recorded" in _confirm(bob, asked, comment="Sampled.").text  # a double click
    assert {len(ledger.record(job.job_id).decisions) for job in jobs} == {1}


def test_all_jobs_with_a_value_are_decided_on_and_no_others(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 7)
    bob = login("bob")
    asked = Page(bob.get(_narrowed(Chosen(("category",), "bug"), page="bulk-review/all", verdict="approve")).text)
    assert "ticket, Category: bug" in asked.text
    assert _confirm(bob, asked).status_code == 200
    assert [ledger.job(job.job_id).state is JobState.APPROVED for job in jobs] == [n % 3 == 1 for n in range(7)]


@pytest.mark.parametrize("typed", ["6", "0", "70"])
def test_another_number_than_the_page_says_confirms_nothing(login: Login, ledger: Ledger, typed: str) -> None:
    jobs = showcase.tickets(ledger, 7)
    bob = login("bob")
    asked = Page(bob.get("/aihandoff/bulk-review/all?by=type").text)
    answer = _confirm(bob, asked, count=typed, comment="Kept.")
    assert answer.status_code == 409
    assert f"You typed {typed}, and the page was about 7 jobs." in answer.text
    assert Page(answer.text).form["comment"] == "Kept."
    assert _states(ledger, jobs) == {JobState.REVIEW}
    assert _confirm(bob, asked, count="").status_code == 422


def test_a_job_that_changes_meanwhile_stops_the_decision_on_all_and_is_named(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 4)
    bob = login("bob")
    asked = Page(bob.get("/aihandoff/bulk-review/all?by=type").text)
    changed = ask(ledger, jobs[2], showcase.put("elsewhere", {"category": "spam"}, name="label"))
    answer = _confirm(bob, asked)
    assert answer.status_code == 409
    assert f"Job {jobs[2].job_id}: it has changed since you opened it" in Page(answer.text).text
    assert _states(ledger, jobs) == {JobState.REVIEW}
    again = Page(answer.text)
    assert _choice(changed) in str(again.form["jobs"]).split()
    assert _confirm(bob, again).status_code == 200
    assert _states(ledger, jobs) == {JobState.APPROVED}


def test_a_job_that_comes_later_is_no_part_of_the_decision_on_all(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 3)
    bob = login("bob")
    asked = Page(bob.get("/aihandoff/bulk-review/all?by=type").text)
    spec = job_spec(job_type="ticket", job_key="ticket:later")
    later = ask(ledger, draft(ledger, spec, {"category": "bug"}, response_id="resp_later"))
    assert _confirm(bob, asked).status_code == 200
    assert _states(ledger, jobs) == {JobState.APPROVED}
    assert ledger.job(later.job_id).state is JobState.REVIEW


def test_of_two_people_who_decide_on_all_one_sees_which_are_decided_already(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 3)
    bob, carol = login("bob"), login("carol")
    pages = [Page(client.get("/aihandoff/bulk-review/all?by=type").text) for client in (bob, carol)]
    assert _confirm(bob, pages[0]).status_code == 200
    answer = _confirm(carol, pages[1], verdict="reject")
    assert answer.status_code == 409
    for job in jobs:
        assert f"Job {job.job_id}: it no longer waits for a decision: it is approved" in Page(answer.text).text
    assert _states(ledger, jobs) == {JobState.APPROVED}


def test_jobs_of_other_reviewers_are_left_out_of_the_decision_on_all(login: Login, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 4)
    plan = showcase.put("x", {"category": "spam"}, name="label")
    ask(ledger, jobs[1], plan, rules=ReviewRules(approvers=Approvers(users=("carol",))))
    voted = ask(ledger, jobs[2], plan, rules=ReviewRules(approvals=2))
    ledger.reviews.decide(voted.job_id, "approve", digest=str(voted.review_digest), person=Person("bob"))
    bob = login("bob")
    asked = Page(bob.get("/aihandoff/bulk-review/all?by=type").text)
    assert "2 jobs of the group are left out: they do not wait for you." in asked.text
    assert _confirm(bob, asked).status_code == 200
    assert [ledger.job(job.job_id).state is JobState.APPROVED for job in jobs] == [True, False, False, True]
    viewer = login("vic")
    assert "None of these jobs waits for you" in viewer.get("/aihandoff/bulk-review/all?by=type").text
    assert _confirm(viewer, asked).status_code == 409


def test_a_decision_on_all_is_about_a_bounded_number_and_says_how_many_are_left(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "MAX_BULK", 3)
    showcase.tickets(ledger, 5)
    page = Page(login("bob").get("/aihandoff/bulk-review/all?by=type").text)
    assert len(str(page.form["jobs"]).split()) == 3
    assert "2 more jobs that wait for you are left out" in page.text


def test_the_answer_to_a_program_has_the_jobs_without_their_input(login: Login, ledger: Ledger) -> None:
    (job,) = showcase.tickets(ledger, 1)
    (answered,) = _send(login("bob", bearer=True), [job]).json()["jobs"]
    assert (answered["job_id"], answered["state"]) == (job.job_id, "approved")
    assert not {"input", "permissions"} & answered.keys()
