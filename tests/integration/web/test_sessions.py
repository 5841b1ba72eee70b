"""A login that ends while a person writes costs them nothing: the answer holds all that was sent, to send it again."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.rules import ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import ask, draft
from tests.integration.web import showcase
from tests.integration.web.conftest import Login, Page


@pytest.fixture
def job(ledger: Ledger) -> Job:
    return showcase.note(ledger, rules=ReviewRules())


def _again(client: TestClient, page: Page) -> Any:
    """Press the button of a page that holds what was sent."""
    [form] = page.all("form")
    return client.post(str(form["action"]), data=page.form)


def test_an_edit_is_sent_again_after_the_login(stranger: TestClient, login: Login, ledger: Ledger, job: Job) -> None:
    bob = login("bob")
    path = f"/aihandoff/jobs/{job.job_id}/edit"
    form = {
        **Page(bob.get(path).text).form,
        "value/title": 'A "new" <b>title</b>',
        "value/body": "\r\n One\r\n\u202etwo",
    }
    answer = stranger.post(path, data={**form, "do": "save"})
    page = Page(answer.text)
    assert answer.status_code == 401
    assert "What you sent is not lost." in page.text
    assert 'A "new" <b>title</b>' in page.text
    assert "[U+202E]two" in page.text
    assert ledger.record(job.job_id).revision.number == 1
    assert _again(bob, page).status_code == 303
    revision = ledger.record(job.job_id).revision
    assert (revision.author, revision.output["title"]) == ("bob", 'A "new" <b>title</b>')
    assert revision.output["body"] == "\n One\n\u202etwo"


def test_a_decision_is_sent_again_after_the_login(stranger: TestClient, login: Login, ledger: Ledger, job: Job) -> None:
    form = {"verdict": "reject", "digest": str(job.review_digest), "comment": "Two\r\nlines."}
    page = Page(stranger.post(f"/aihandoff/jobs/{job.job_id}/decision", data=form).text)
    assert "Two\nlines." in page.text.replace("\r\n", "\n")
    assert _again(login("bob"), page).status_code == 303
    record = ledger.record(job.job_id)
    assert (record.job.state, record.decisions[0].comment) == (JobState.REJECTED, "Two\nlines.")


def test_a_form_sent_again_after_the_login_still_reports_a_changed_job(
    stranger: TestClient, login: Login, ledger: Ledger, job: Job
) -> None:
    form = {"verdict": "approve", "digest": str(job.review_digest), "comment": "Fine."}
    page = Page(stranger.post(f"/aihandoff/jobs/{job.job_id}/decision", data=form).text)
    showcase.edited(ledger, job)
    answer = _again(login("bob"), page)
    assert answer.status_code == 409
    assert "the output changed" in answer.text


def test_a_bulk_decision_on_a_thousand_jobs_is_sent_again_after_the_login(
    stranger: TestClient, login: Login, ledger: Ledger
) -> None:
    jobs = showcase.tickets(ledger, 3)
    chosen = [f"{job.job_id}:{job.review_digest}" for job in jobs]
    form = {"by": "type", "verdict": "approve", "comment": "All.", "job": [*chosen, *(f"{n}:{'0' * 64}" for n in range(5000, 5997))]}  # noqa: E501  # fmt: skip
    answer = stranger.post("/aihandoff/bulk-review/decision", data=form)
    page = Page(answer.text)
    held = [item["value"] for item in page.all("input") if item.get("name") == "job"]
    assert held == form["job"]
    again = {**page.form, "job": held[:3]}
    assert login("bob").post("/aihandoff/bulk-review/decision", data=again).status_code == 200
    assert {ledger.job(job.job_id).state for job in jobs} == {JobState.APPROVED}


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.test"}])
def test_a_form_of_another_site_is_not_offered_to_be_sent_again(
    stranger: TestClient, ledger: Ledger, headers: dict[str, str]
) -> None:
    job = ask(ledger, draft(ledger))
    form = {"verdict": "approve", "digest": str(job.review_digest), "comment": "Evil."}
    answer = stranger.post(f"/aihandoff/jobs/{job.job_id}/decision", data=form, headers=headers)
    assert answer.status_code == 403
    assert Page(answer.text).all("form") == []
    assert Page(answer.text).all("input") == []


def test_a_final_refusal_is_not_offered_to_be_sent_again(login: Login, ledger: Ledger, job: Job) -> None:
    form = {"verdict": "approve", "digest": str(job.review_digest), "comment": "Kept."}
    answer = login("vic").post(f"/aihandoff/jobs/{job.job_id}/decision", data=form)
    assert answer.status_code == 403
    assert "Kept." in answer.text
    assert Page(answer.text).all("form") == []
