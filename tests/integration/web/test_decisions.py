"""A decision counts once, for exactly what its sender saw, and only when it comes from a page of this site."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.api import schemas
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, in_an_hour, job_spec
from tests.integration.web.conftest import OWN_SITE, Login, Page


def _form(job: Job, verdict: str = "approve", comment: str = "Looks right.") -> dict[str, str]:
    assert job.review_digest is not None
    return {"verdict": verdict, "digest": job.review_digest, "comment": comment}


def _post(client: TestClient, job: Job, form: dict[str, str], **kwargs: Any) -> Any:
    return client.post(f"/aihandoff/jobs/{job.job_id}/decision", data=form, **kwargs)


def _send(client: TestClient, job: Job, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    path = f"/aihandoff/api/v1/jobs/{job.job_id}/decisions"
    return client.post(path, content=json.dumps(body), headers=headers)


@pytest.mark.parametrize(
    ("verdict", "state", "said"),
    [("approve", JobState.APPROVED, "Approved by you"), ("reject", JobState.REJECTED, "Rejected by you")],
)
def test_a_decision_on_the_page_is_recorded_and_shown(
    login: Login, ledger: Ledger, verdict: str, state: JobState, said: str
) -> None:
    job = ask(ledger, draft(ledger))
    bob = login("bob")
    answer = _post(bob, job, _form(job, verdict, "Looks right.\r\nTwice read."))
    assert (answer.status_code, answer.headers["location"]) == (303, f"/aihandoff/jobs/{job.job_id}")
    page = Page(bob.get(answer.headers["location"]).text)
    assert said in page.text
    assert "Looks right.\nTwice read." in page.text
    assert "approve" not in page.buttons
    record = ledger.record(job.job_id)
    assert record.job.state is state
    assert record.decisions[0].comment == "Looks right.\nTwice read."


def test_a_program_decides(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    answer = _send(login("bob", bearer=True), job, _form(job))
    assert answer.status_code == 200
    assert answer.json()["job"]["state"] == "approved"
    assert [item["decided_by"] for item in answer.json()["decisions"]] == ["bob"]
    documented = schemas.JobRecord.model_validate_json(answer.content)
    assert documented.model_dump(mode="json") == answer.json()


def test_a_double_click_counts_once(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    bob = login("bob")
    assert [_post(bob, job, _form(job)).status_code for _ in range(2)] == [303, 303]
    assert _send(bob, job, _form(job)).status_code == 200
    assert len(ledger.record(job.job_id).decisions) == 1


def test_a_decision_on_a_stale_page_says_what_changed_and_keeps_the_comment(login: Login, ledger: Ledger) -> None:
    seen = ask(ledger, draft(ledger))
    now = ask(ledger, seen, effect_plan(url="http://cms/posts/teapot"))
    answer = _post(login("bob"), seen, _form(seen, comment="Fine <b>by</b> me."))
    page = Page(answer.text)
    assert answer.status_code == 409
    assert "Your decision was not recorded" in page.text
    assert "This job has changed since you opened it: the plan of the effect 'publish' changed" in page.text
    assert "http://cms/posts/teapot" in page.text
    assert page.field("digest") == now.review_digest
    assert "Fine &lt;b&gt;by&lt;/b&gt; me.</textarea>" in answer.text
    assert ledger.record(seen.job_id).decisions == []


def test_a_stale_decision_by_rest_returns_what_changed_and_the_current_digest(login: Login, ledger: Ledger) -> None:
    seen = ask(ledger, draft(ledger))
    now = ask(ledger, seen, effect_plan(), effect_plan("announce"))
    answer = _send(login("bob", bearer=True), seen, _form(seen))
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "stale-decision"
    assert "the effect 'announce' was added" in answer.json()["detail"]
    assert answer.json()["digest"] == now.review_digest
    assert ledger.record(seen.job_id).decisions == []


def test_the_second_of_two_reviewers_sees_that_the_job_is_decided(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    _post(login("bob"), job, _form(job))
    carol = login("carol")
    page = _post(carol, job, _form(job, "reject", "Not this."))
    assert page.status_code == 409
    assert "This job no longer waits for a decision: it is approved" in Page(page.text).text
    assert "Approved by bob" in Page(page.text).text
    assert "Not this." in page.text
    assert _send(carol, job, _form(job, "reject")).status_code == 409
    assert [item.decided_by for item in ledger.record(job.job_id).decisions] == ["bob"]


def test_a_digest_that_was_never_the_jobs_decides_nothing(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    answer = _send(login("bob"), job, {"verdict": "approve", "digest": "0" * 64})
    assert answer.status_code == 409
    assert "never this job's" in answer.json()["detail"]


def test_there_is_nothing_to_decide_before_the_plan(login: Login, ledger: Ledger) -> None:
    job = draft(ledger)
    bob = login("bob")
    page = bob.get(f"/aihandoff/jobs/{job.job_id}")
    assert "has not been rendered yet" in page.text
    assert "approve" not in Page(page.text).buttons
    body = {"verdict": "approve", "digest": "0" * 64, "comment": "Early."}
    assert _send(bob, job, body).json()["type"] == "no-plan-yet"
    posted = _post(bob, job, body)
    assert posted.status_code == 409
    assert "Early." in posted.text


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "maybe"},
        {"verdict": None},
        {"digest": "x"},
        {"digest": "0" * 64 + "\n"},
        {"digest": "a\x00b"},
        {"digest": None},
        {"comment": "x" * 10_001},
    ],
)
def test_a_malformed_decision_is_refused_with_field_errors(
    login: Login, ledger: Ledger, change: dict[str, str | None]
) -> None:
    job = ask(ledger, draft(ledger))
    bob = login("bob")
    form = {name: value for name, value in {**_form(job), **change}.items() if value is not None}
    sent, posted = _send(bob, job, form), _post(bob, job, form)
    assert (sent.status_code, posted.status_code) == (422, 422)
    assert sent.json()["errors"][0]["field"] == next(iter(change))
    assert form["comment"] in Page(posted.text).text
    assert ledger.job(job.job_id).state is JobState.REVIEW


@pytest.mark.parametrize("comment", ["", "  \r\n ", None, "nul \x00 and half a pair \ud83d"])
def test_a_comment_may_be_empty_and_loses_characters_that_postgresql_cannot_store(
    login: Login, ledger: Ledger, comment: str | None
) -> None:
    job = ask(ledger, draft(ledger))
    assert _send(login("bob"), job, {**_form(job), "comment": comment}).status_code == 200
    kept = ledger.record(job.job_id).decisions[0].comment
    assert kept == ("nul  and half a pair ?" if comment and comment.strip() else None)


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", **OWN_SITE},
    {"Origin": "http://evil.test"},
    {"Origin": "http://airflow.test.evil.test"},
    {"Origin": "http://airflow.test:8443"},
    {"Origin": "null"},
    {"Referer": "http://airflow.test/aihandoff/"},
    {},
]
OWN = [
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://airflow.test"},
    {"Origin": "https://airflow.test"},
    {"Origin": "https://flow.example.com"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_another_site_cannot_make_a_browser_decide(login: Login, ledger: Ledger, headers: dict[str, str]) -> None:
    job = ask(ledger, draft(ledger))
    bob = login("bob", headers=headers)
    posted, sent = _post(bob, job, _form(job)), _send(bob, job, _form(job))
    assert (posted.status_code, sent.status_code) == (403, 403)
    assert sent.json()["type"] == "cross-site-request"
    assert ledger.record(job.job_id).decisions == []


@pytest.mark.parametrize("headers", OWN)
def test_a_page_of_this_site_can_decide(
    login: Login, ledger: Ledger, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://flow.example.com/")  # what a proxy makes of it
    job = ask(ledger, draft(ledger))
    assert _post(login("bob", headers=headers), job, _form(job)).status_code == 303


def test_a_form_is_checked_even_with_a_bearer_token(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    bob = login("bob", bearer=True)
    assert _post(bob, job, _form(job), headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_the_api_refuses_bodies_that_a_form_of_another_site_could_send(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    bob = login("bob", bearer=True)
    body = f'{{"verdict": "approve", "digest": "{job.review_digest}"}}'
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        answer = bob.post(
            f"/aihandoff/api/v1/jobs/{job.job_id}/decisions", content=body, headers={"Content-Type": content_type}
        )
        assert answer.status_code == 422
    assert ledger.record(job.job_id).decisions == []


def test_a_get_decides_nothing(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    bob = login("bob")
    for path in (f"jobs/{job.job_id}/decision", f"api/v1/jobs/{job.job_id}/decisions"):
        assert bob.get(f"/aihandoff/{path}", params=_form(job)).status_code == 405
    assert ledger.record(job.job_id).decisions == []


def test_a_policy_and_a_time_out_are_named_as_such(login: Login, ledger: Ledger) -> None:
    bob = login("bob")
    said = []
    for number, kind in enumerate(("policy", "timeout")):
        job = draft(ledger, job_spec(job_key=kind), response_id=f"resp_{number}")
        job = ask(ledger, job, policy="careful@2", deadline=datetime.now(UTC) if kind == "timeout" else in_an_hour())
        assert job.review_digest is not None
        if kind == "policy":
            ledger.reviews.approve_by_policy(job.job_id, digest=job.review_digest, policy="careful@2", reason="sure")
        else:
            ledger.reviews.expire(job.job_id, digest=job.review_digest, fail=False)
        said.append(Page(bob.get(f"/aihandoff/jobs/{job.job_id}").text).text)
    assert "Approved by the policy careful@2" in said[0]
    assert "Rejected by the time-out" in said[1]


def test_what_is_filled_in_later_is_named_in_the_plan_and_shown_once_it_is_known(login: Login, ledger: Ledger) -> None:
    name = "{effects.publish.external_id}"
    later = replace(effect_plan("reply", body=f'{{"of":"{name}"}}'), names=(name,), after=("publish",))
    job = ask(ledger, draft(ledger), effect_plan(), later)
    bob = login("bob")
    page = Page(bob.get(f"/aihandoff/jobs/{job.job_id}").text)
    assert f"{name}filled in when this is sent" in page.text
    approve(ledger, job)
    claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id="<b>post-7", result=None, actor=TEST)
    ledger.effects.claim(job.job_id, later, lease=LEASE, actor=TEST)
    page = Page(bob.get(f"/aihandoff/jobs/{job.job_id}").text)
    assert f"{name}<b>post-7" in page.text
    (_, reply) = bob.get(f"/aihandoff/api/v1/jobs/{job.job_id}").json()["effects"]
    assert reply["filled"] == {name: "<b>post-7"}


def test_a_left_out_effect_is_shown_as_no_part_of_the_plan(login: Login, ledger: Ledger) -> None:
    shown = {"when": "{{ job.output.category == 'billing' }}"}
    left_out = replace(effect_plan("refund"), plan={}, shown=shown, plan_digest="left out", skipped=True)
    job = ask(ledger, draft(ledger), effect_plan(), left_out)
    page = Page(login("bob").get(f"/aihandoff/jobs/{job.job_id}").text)
    assert "Not part of this plan: nothing is sent" in page.text
    assert "Its condition is false for this output: {{ job.output.category == 'billing' }}" in page.text
    assert "Approving sends 1 request, exactly as shown." in page.text
    (listed,) = login("bob").get("/aihandoff/api/v1/jobs").json()["jobs"]
    assert listed["effects"] == 1
