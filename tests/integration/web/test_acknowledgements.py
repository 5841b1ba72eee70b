"""A failed job is acknowledged on its page and over REST, by who may act on it, once they have seen this failure."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from tests.factories import TEST, job_spec, submit
from tests.integration.web.conftest import Login, Page

WHY = "The customer has left."


def failed(ledger: Ledger, response_id: str = "resp_1") -> Job:
    revision = submit(ledger, job_spec(), response_id)
    ledger.outputs.fail(revision.job_id, revision.number, actor=TEST, reason="no quota", error={"kind": "failed"})
    return ledger.job(revision.job_id)


def send(client: TestClient, job: Job, revision: int = 1) -> Any:
    body = {"reason": WHY, "revision": revision}
    return client.post(f"/aihandoff/api/v1/jobs/{job.job_id}/acknowledgement", json=body)


def post(client: TestClient, job: Job, revision: int = 1) -> Any:
    form = {"reason": WHY, "revision": revision}
    return client.post(f"/aihandoff/jobs/{job.job_id}/acknowledgement", data=form)


@pytest.mark.parametrize("sent", [send, post])
def test_it_is_recorded_with_who_and_why_and_leaves_the_overview(login: Login, ledger: Ledger, sent: Any) -> None:
    job, bob = failed(ledger), login("bob")
    assert "Failed jobs" in bob.get("/aihandoff/overview").text
    for _ in range(2):
        assert sent(bob, job).status_code in (200, 303), "the same, sent again, changes nothing"
    events = ledger.record(job.job_id).events
    assert [event.event for event in events].count("acknowledged") == 1
    assert (events[-1].by, events[-1].reason) == (Actor.user("bob"), WHY)
    assert "Failed jobs" not in bob.get("/aihandoff/overview").text


@pytest.mark.parametrize("sent", [send, post])
def test_a_failure_that_was_not_shown_is_not_acknowledged(login: Login, ledger: Ledger, sent: Any) -> None:
    job, bob = failed(ledger), login("bob")
    failed(ledger, "resp_2")
    answer = sent(bob, job)
    assert answer.status_code == 409
    assert "failed again since you saw it" in answer.text
    assert ledger.job(job.job_id).acknowledged_at is None


@pytest.mark.parametrize("sent", [send, post])
def test_who_may_only_see_the_job_cannot(login: Login, ledger: Ledger, sent: Any) -> None:
    job = failed(ledger)
    assert sent(login("vic"), job).status_code == 403
    assert ledger.job(job.job_id).acknowledged_at is None


def test_a_reason_is_needed(login: Login, ledger: Ledger) -> None:
    job, bob = failed(ledger), login("bob")
    path = f"/aihandoff/api/v1/jobs/{job.job_id}/acknowledgement"
    assert bob.post(path, json={"reason": " ", "revision": 1}).status_code == 422
    assert bob.post(path, json={"reason": WHY}).status_code == 422


def test_the_page_offers_it_until_it_is_done_and_then_says_who_did_it(login: Login, ledger: Ledger) -> None:
    job, bob = failed(ledger), login("bob")
    path = f"/aihandoff/jobs/{job.job_id}"
    assert f"{path}/acknowledgement" in [form["action"] for form in Page(bob.get(path).text).all("form")]
    assert Page(login("vic").get(path).text).all("form") == []
    post(bob, job)
    page = Page(bob.get(path).text)
    assert f"{path}/acknowledgement" not in [form["action"] for form in page.all("form")]
    assert "Acknowledged by bob at" in " ".join(page.text.split())


def test_rest_says_when(login: Login, ledger: Ledger) -> None:
    job, bob = failed(ledger), login("bob")
    assert send(bob, job).json()["job"]["acknowledged_at"] is not None
