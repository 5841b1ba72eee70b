"""One review is given to others on its page and over REST, by those who may act on the jobs of its Dag."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.rules import Approvers, ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import ask, draft
from tests.integration.web.conftest import Grant, Login, Page

RULES = ReviewRules(Approvers(users=("bob",), roles=("editor",)))


@pytest.fixture
def job(ledger: Ledger) -> Job:
    return ask(ledger, draft(ledger), rules=RULES)


def form(**typed: Any) -> dict[str, Any]:
    return {"to_users": "carol, dave", "reason": "On holiday.", "reassigned": "0", **typed}


def test_a_review_is_reassigned_on_its_page(login: Login, ledger: Ledger, job: Job) -> None:
    path = f"/aihandoff/jobs/{job.job_id}"
    admin = login("admin")
    assert "Reassign this review" in admin.get(path).text
    assert "escalate_users" not in admin.get(path).text, "its author escalates to no one"
    assert admin.post(f"{path}/reviewers", data=form()).status_code == 303
    text = " ".join(Page(admin.get(path).text).text.split())
    assert "Approvers: carol, dave." in text
    assert "Reassigned by you. The author of the Dag has named: bob, the role editor." in text
    line = ledger.record(job.job_id).events[-1]
    assert (line.actor, line.reason) == ("user:admin", "On holiday.; may decide: carol, dave")
    assert "Your decision" in login("carol").get(path).text
    assert "Only these may decide on it: carol, dave." in login("bob").get(path).text


def test_what_was_typed_is_not_lost_where_it_is_refused(login: Login, ledger: Ledger, job: Job) -> None:
    path = f"/aihandoff/jobs/{job.job_id}"
    answer = login("admin").post(f"{path}/reviewers", data=form(to_users="admin"))
    assert answer.status_code == 409
    page = Page(answer.text)
    assert "The review was not reassigned" in page.text
    assert page.field("to_users") == "admin"
    assert "On holiday." in page.text
    assert ledger.job(job.job_id) == job


def test_who_may_only_see_the_job_reassigns_nothing(login: Login, ledger: Ledger, job: Job, grant: Grant) -> None:
    grant("vic", "GET", job.dag_id)
    vic = login("vic")
    assert "Reassign this review" not in vic.get(f"/aihandoff/jobs/{job.job_id}").text
    assert vic.post(f"/aihandoff/jobs/{job.job_id}/reviewers", data=form()).status_code == 403
    api = login("vic", bearer=True)
    body = {"approvers": {"users": ["vic"]}, "reason": "mine"}
    assert api.post(f"/aihandoff/api/v1/jobs/{job.job_id}/reviewers", json=body).status_code == 403
    assert login("carol").post(f"/aihandoff/jobs/{job.job_id}/reviewers", data=form()).status_code == 404
    assert ledger.job(job.job_id) == job


def test_a_program_reassigns_it_and_no_one_gets_a_right_by_that(login: Login, ledger: Ledger, job: Job) -> None:
    path = f"/aihandoff/api/v1/jobs/{job.job_id}"
    admin = login("admin", bearer=True)
    body = {"approvers": {"users": ["admin", "carol"]}, "reason": "On holiday.", "reassigned": 0}
    answer = admin.post(f"{path}/reviewers", json=body).json()
    assert answer["job"]["reassigned"]["number"] == 1
    assert answer["may_decide"] is False
    assert "You have reassigned this review" in answer["why_not"]
    decision = {"verdict": "approve", "digest": job.review_digest}
    assert admin.post(f"{path}/decisions", json=decision).status_code == 403
    stale = admin.post(f"{path}/reviewers", json={**body, "approvers": {"users": ["dave"]}})
    assert (stale.status_code, stale.json()["type"]) == (409, "cannot-reassign")
    assert login("carol", bearer=True).post(f"{path}/decisions", json=decision).status_code == 200
    assert ledger.job(job.job_id).state is JobState.APPROVED
