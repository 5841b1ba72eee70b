"""The page of a request, for those who asked."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import LEASE, TEST, ask, draft, effect_plan, job_spec
from tests.integration.web.conftest import Grant, Login, Page

pytestmark = pytest.mark.timeout(900)

API = "/aihandoff/api/v1"
KETTLE = {"type": "note", "key": "kettle", "input": {"slug": "kettle"}}


@pytest.fixture
def bob(login: Login, notes: DAG) -> TestClient:
    return login("bob")


def asked(client: TestClient) -> str:
    """The page of a request."""
    return str(client.post(f"{API}/jobs", json=KETTLE).json()["page"])


def in_review(ledger: Ledger) -> Job:
    return ask(ledger, draft(ledger, job_spec(job_type="note", job_key="kettle"), output={"title": "A kettle"}))


def done(ledger: Ledger) -> Job:
    job = in_review(ledger)
    assert job.review_digest is not None
    ledger.reviews.decide(
        job.job_id, "approve", digest=job.review_digest, person=Person("carol"), comment="A rubbish kettle"
    )
    claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id="post-17", result={}, actor=TEST)
    return ledger.job(job.job_id)


def test_it_says_how_the_request_stands_and_never_what_reviewers_say(bob: TestClient, ledger: Ledger) -> None:
    page = asked(bob)
    assert "It has begun, and waits for its first step." in Page(bob.get(page).text).text
    in_review(ledger)
    text = Page(bob.get(page).text).text
    assert "It waits for a decision." in text
    assert "A kettle" not in text  # no output before it is done
    assert bob.get(page).text.count('aria-current="step"') == 1


def test_the_result_is_shown_when_it_is_done(bob: TestClient, ledger: Ledger) -> None:
    page = asked(bob)
    assert done(ledger).state is JobState.COMPLETED
    html = bob.get(page).text
    text = Page(html).text
    assert "It is done." in text
    assert "A kettle" in text
    assert "post-17" in text
    assert "rubbish" not in html
    assert "data-refresh" not in html
    assert Page(html).all("button") == []


def test_loading_it_changes_nothing_and_the_form_cancels(bob: TestClient, ledger: Ledger) -> None:
    page = asked(bob)
    job = in_review(ledger)
    for _ in range(3):
        bob.get(page)
    assert ledger.job(job.job_id) == job
    assert bob.get(f"{page}/cancel").status_code == 405
    cancelled = bob.post(f"{page}/cancel")
    assert (cancelled.status_code, cancelled.headers["location"]) == (303, page)
    assert ledger.job(job.job_id).state is JobState.CANCELLED
    assert "It was cancelled." in Page(bob.get(page).text).text
    evil = bob.post(f"{page}/cancel", headers={"Origin": "http://evil.test"})
    assert evil.status_code == 403


def test_it_is_for_those_who_asked(bob: TestClient, login: Login, grant: Grant) -> None:
    page = asked(bob)
    assert bob.get(page).status_code == 200
    assert login("carol").get(page).status_code == 404
    assert login("carol").post(f"{page}/cancel").status_code == 404


@pytest.mark.parametrize(
    ("configured", "sent"),
    [
        (None, "frame-ancestors 'self';"),
        ("'self' https://shop.example.com", "frame-ancestors 'self' https://shop.example.com;"),
        ("*; script-src *", "frame-ancestors 'none';"),
    ],
)
def test_who_may_show_it_in_a_frame_is_configured(
    bob: TestClient, monkeypatch: pytest.MonkeyPatch, configured: str | None, sent: str
) -> None:
    page = asked(bob)
    if configured is not None:
        monkeypatch.setenv("AIRFLOW__AIHANDOFF__REQUEST_PAGE_FRAME_ANCESTORS", configured)
    policy = bob.get(page).headers["content-security-policy"]
    assert sent in policy
    assert policy.count("script-src") == 1
    assert "frame-ancestors 'self';" in bob.get("/aihandoff/jobs").headers["content-security-policy"]
