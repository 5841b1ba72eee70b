"""A request whose answer was lost: the page says why the job waits and until when, and a person can answer."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.jobs.explanation import explain
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job, OnLost
from airflow_provider_aihandoff.core.states import JobState, RevisionState
from airflow_provider_aihandoff.web.api import schemas
from tests.factories import LEASE, TEST, job_spec
from tests.integration.web.conftest import Login, Page

WHY = "Nothing in OpenAI's logs."


def lost(ledger: Ledger, on_lost: OnLost = "ask", handle: str | None = None) -> Job:
    job = ledger.submission.open(job_spec(on_lost=on_lost)).job
    intent = ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE, handle=handle)
    assert intent.token is not None
    ledger.submission.submission_lost(job.job_id, 1, token=intent.token, actor=TEST, reason="cut off")
    return ledger.job(job.job_id)


def send(client: TestClient, job: Job, action: str, seen: int = 1) -> Any:
    body = {"action": action, "reason": WHY, "unknown_submissions": seen}
    return client.post(f"/aihandoff/api/v1/jobs/{job.job_id}/submission", json=body)


def post(client: TestClient, job: Job, action: str, seen: int = 1) -> Any:
    form = {"action": action, "reason": WHY, "seen": seen}
    return client.post(f"/aihandoff/jobs/{job.job_id}/submission", data=form)


@pytest.mark.parametrize(
    ("on_lost", "handle", "said"),
    [
        ("ask", None, "for a person to say whether to send it again. Then the job fails."),
        ("wait", None, "Waiting for its webhook until"),
        ("resend", "conv_1", "conversation for this revision is polled"),
    ],
)
def test_the_page_and_rest_say_why_the_job_waits_and_offer_an_answer(
    login: Login, ledger: Ledger, on_lost: OnLost, handle: str | None, said: str
) -> None:
    job = lost(ledger, on_lost, handle)
    bob, path = login("bob"), f"/aihandoff/jobs/{job.job_id}"
    page = Page(bob.get(path).text)
    assert "A request may have been accepted by OpenAI" in page.text
    assert said in page.text
    assert f"{path}/submission" in [form["action"] for form in page.all("form")]
    assert {"send again", "fail"} <= set(page.buttons)
    answer = bob.get(f"/aihandoff/api/v1/jobs/{job.job_id}").json()
    assert said in answer["waits_for"]
    assert Page(login("vic").get(path).text).all("form") == []


def test_page_rest_and_a_person_at_a_terminal_get_the_same_explanation(login: Login, ledger: Ledger) -> None:
    job = lost(ledger, "ask", None)
    words = explain(ledger.record(job.job_id))
    bob = login("bob")
    assert bob.get(f"/aihandoff/api/v1/jobs/{job.job_id}").json()["explanation"] == str(words)
    page = " ".join(Page(bob.get(f"/aihandoff/jobs/{job.job_id}").text).text.split())
    for sentence in (words.now, words.then, words.retry, *map(str, words.steps)):
        assert sentence.replace("`", "") in page


def test_a_job_that_waits_for_nothing_says_nothing(login: Login, ledger: Ledger) -> None:
    job = ledger.submission.open(job_spec()).job
    bob = login("bob")
    assert bob.get(f"/aihandoff/api/v1/jobs/{job.job_id}").json()["waits_for"] is None
    assert "may have been accepted" not in bob.get(f"/aihandoff/jobs/{job.job_id}").text


@pytest.mark.parametrize("sent", [send, post])
@pytest.mark.parametrize(
    ("action", "state", "revision_state", "event"),
    [
        ("send again", JobState.QUEUED, RevisionState.QUEUED, "submit resolved"),
        ("fail", JobState.FAILED, RevisionState.FAILED, "failed"),
    ],
)
def test_an_answer_is_recorded_with_who_gave_it_and_why(
    login: Login, ledger: Ledger, sent: Any, action: str, state: JobState, revision_state: RevisionState, event: str
) -> None:
    job = lost(ledger)
    assert sent(login("bob"), job, action).status_code in (200, 303)
    record = ledger.record(job.job_id)
    assert (record.job.state, record.revision.state) == (state, revision_state)
    assert (record.events[-1].event, record.events[-1].actor) == (event, "user:bob")
    assert WHY in str(record.events[-1].reason)


def test_an_answer_by_rest_returns_the_job_as_it_is_described(login: Login, ledger: Ledger) -> None:
    answer = send(login("bob", bearer=True), lost(ledger), "send again")
    assert schemas.JobRecord.model_validate_json(answer.content).model_dump(mode="json") == answer.json()


@pytest.mark.parametrize("sent", [send, post])
def test_an_answer_about_another_loss_than_the_one_that_was_seen_is_refused(
    login: Login, ledger: Ledger, sent: Any
) -> None:
    job = lost(ledger)
    refused = sent(login("bob"), job, "send again", seen=2)
    assert refused.status_code == 409
    assert ledger.job(job.job_id) == job


@pytest.mark.parametrize("sent", [send, post])
def test_who_may_not_act_on_the_job_may_not_answer(login: Login, ledger: Ledger, sent: Any) -> None:
    job = lost(ledger)
    assert sent(login("vic"), job, "send again").status_code == 403
    assert ledger.job(job.job_id) == job


def test_the_page_takes_no_answer_from_another_site(login: Login, ledger: Ledger) -> None:
    job = lost(ledger)
    bob = login("bob")
    bob.headers["origin"] = "https://elsewhere.example"
    assert post(bob, job, "send again").status_code == 403
    assert ledger.job(job.job_id) == job
