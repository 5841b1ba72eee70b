"""Who sees what, and who decides: Airflow's human-in-the-loop permission on the Dag that owns the job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import Route

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.review.rules import ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.app import build_app
from tests.factories import OWNER, ask, draft, job_spec
from tests.integration.web.conftest import Grant, Login, Page

ROOT = Path(__file__).parents[3]

#: The style sheet; and the receiver of webhooks, which verifies signatures instead.
PUBLIC = {"/static/{name}", "/webhooks/openai/{conn_id}"}


def _routes() -> list[tuple[str, str]]:
    routes = [route for route in build_app().routes if isinstance(route, Route) and route.path not in PUBLIC]
    return [(method, route.path) for route in routes for method in route.methods or ()]


def _decision(job: Any, verdict: str = "approve") -> dict[str, str]:
    return {"verdict": verdict, "digest": job.review_digest, "comment": "Looks right."}


@pytest.mark.parametrize(("method", "path"), _routes())
def test_every_route_except_static_files_and_the_receiver_needs_a_login(
    stranger: TestClient, ledger: Ledger, method: str, path: str
) -> None:
    job = ask(ledger, draft(ledger))
    ids = {"job_id": job.job_id, "budget_id": "all"}
    ids |= dict.fromkeys(("effect_id", "bulk_id", "pause_id", "limit_id", "set_id"), 1)
    ids["request_id"] = "7b1e6b1c-9f50-4c63-8c7c-7a2f1f1f0a11"
    ids |= {"name": "shop", "token": "a-token"}
    address = f"/aihandoff{path.format(**ids, form='csv', number=1)}"
    answer = stranger.request(method, address, json={} if "/api/" in path else None)
    if "/api/" in path:
        assert answer.status_code == 401
        assert answer.json()["type"] == "not-logged-in"
    elif method == "GET":
        assert answer.status_code == 303
        assert answer.headers["location"] == f"/api/v2/auth/login?next={address.replace('/', '%2F')}"
    else:
        assert answer.status_code == 401


def test_login_leads_back_to_the_requested_page(stranger: TestClient, ledger: Ledger) -> None:
    answer = stranger.get("/aihandoff/?tab=done&dag_id=a%2Bb")
    assert answer.headers["location"].endswith("next=%2Faihandoff%2F%3Ftab%3Ddone%26dag_id%3Da%252Bb")


def test_a_forged_token_is_not_a_login(stranger: TestClient, ledger: Ledger) -> None:
    stranger.cookies.set("_token", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.")
    assert stranger.get("/aihandoff/").status_code == 303
    assert stranger.get("/aihandoff/api/v1/jobs", headers={"Authorization": "Bearer x"}).status_code == 401


def test_a_comment_typed_before_the_session_expired_is_returned(stranger: TestClient, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    answer = stranger.post(f"/aihandoff/jobs/{job.job_id}/decision", data=_decision(job))
    page = Page(answer.text)
    assert answer.status_code == 401
    assert "Looks right." in page.text
    assert f"/api/v2/auth/login?next=%2Faihandoff%2Fjobs%2F{job.job_id}" in [link["href"] for link in page.all("a")]
    assert ledger.job(job.job_id).state is JobState.REVIEW


@pytest.mark.parametrize("username", ["bob", "admin"])
def test_a_user_who_may_answer_sees_the_decision_box(login: Login, ledger: Ledger, username: str) -> None:
    job = ask(ledger, draft(ledger))
    page = Page(login(username).get(f"/aihandoff/jobs/{job.job_id}").text)
    assert page.buttons[:2] == ["approve", "reject"]
    assert page.field("digest") == job.review_digest


def test_a_viewer_sees_the_job_without_the_decision_box(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    vic = login("vic")
    answer = vic.get(f"/aihandoff/jobs/{job.job_id}")
    assert answer.status_code == 200
    assert "A kettle." in answer.text
    assert "You can see this job, but you cannot decide on it." in answer.text
    assert Page(answer.text).all("form") == []
    assert vic.get(f"/aihandoff/api/v1/jobs/{job.job_id}").json()["may_decide"] is False


def test_a_viewer_cannot_decide(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    vic = login("vic")
    posted = vic.post(f"/aihandoff/jobs/{job.job_id}/decision", data=_decision(job))
    sent = vic.post(f"/aihandoff/api/v1/jobs/{job.job_id}/decisions", json=_decision(job))
    assert (posted.status_code, sent.status_code) == (403, 403)
    assert "Looks right." in posted.text
    assert sent.json()["type"] == "decision-forbidden"
    assert ledger.record(job.job_id).decisions == []


def test_permissions_are_checked_for_the_dag_that_owns_the_job(login: Login, ledger: Ledger, grant: Grant) -> None:
    job = ask(ledger, draft(ledger))
    carol = login("carol")
    grant("carol", "GET", "another")
    grant("carol", "PUT", "another")
    assert carol.get(f"/aihandoff/jobs/{job.job_id}").status_code == 404
    grant("carol", "GET", OWNER.dag_id)
    assert carol.get(f"/aihandoff/jobs/{job.job_id}").status_code == 200
    assert carol.post(f"/aihandoff/jobs/{job.job_id}/decision", data=_decision(job)).status_code == 403
    grant("carol", "PUT", OWNER.dag_id)
    assert carol.post(f"/aihandoff/jobs/{job.job_id}/decision", data=_decision(job)).status_code == 303


def test_a_hidden_job_is_answered_like_a_missing_job(login: Login, ledger: Ledger, grant: Grant) -> None:
    job = ask(ledger, draft(ledger))
    grant("carol", "PUT", OWNER.dag_id)  # deciding alone, without seeing, is nothing
    carol = login("carol")
    for path in ("/aihandoff/jobs/{}", "/aihandoff/api/v1/jobs/{}"):
        hidden, missing = carol.get(path.format(job.job_id)), carol.get(path.format(999))
        assert hidden.status_code == missing.status_code == 404
        assert hidden.text == missing.text.replace("999", str(job.job_id))
    posted = carol.post(f"/aihandoff/jobs/{job.job_id}/decision", data=_decision(job))
    sent = carol.post(f"/aihandoff/api/v1/jobs/{job.job_id}/decisions", json=_decision(job))
    assert (posted.status_code, sent.status_code) == (404, 404)
    assert ledger.job(job.job_id).state is JobState.REVIEW


def test_lists_and_counts_show_only_visible_jobs(login: Login, ledger: Ledger, grant: Grant) -> None:
    draft(ledger, job_spec(job_key="mine"), response_id="resp_1")
    draft(ledger, job_spec(job_key="theirs", owner=_owner("payroll")), response_id="resp_2")
    grant("carol", "GET", OWNER.dag_id)
    carol = login("carol")
    page = Page(carol.get("/aihandoff/").text)
    assert "mine" in page.text
    assert "theirs" not in page.text
    assert "In review 1" in page.text
    assert [job["job_key"] for job in carol.get("/aihandoff/api/v1/jobs").json()["jobs"]] == ["mine"]
    for query in ("?dag_id=payroll", f"?run_id={OWNER.run_id}&dag_id=payroll"):
        assert carol.get(f"/aihandoff/api/v1/jobs{query}").json()["jobs"] == []
        assert "The review queue is empty" in carol.get(f"/aihandoff/{query}").text


def _owner(dag_id: str) -> Any:
    return type(OWNER)(**{**vars(OWNER), "dag_id": dag_id})


@pytest.mark.parametrize(("user_id", "name"), [("bob", "bob"), ("17", "bob (17)")])
def test_the_decider_is_the_logged_in_user(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, user_id: str, name: str
) -> None:
    monkeypatch.setattr(SimpleAuthManagerUser, "get_id", lambda self: user_id)
    job = ask(ledger, draft(ledger))
    form = {**_decision(job), "decided_by": "eve", "user": "eve", "kind": "policy"}
    assert login("bob").post(f"/aihandoff/jobs/{job.job_id}/decision", data=form).status_code == 303
    record = ledger.record(job.job_id)
    assert record.decisions[0].decider == Actor.user("bob", user_id)
    assert record.events[-1].actor == f"user:{name}"


#: Logins that look like something else, and their ids.
ODD_LOGINS = {"bob": "7", "bob (7)": "8", "cli:bob": "9", "model": "10", "a/b#1": "11", "user:x (": "12"}


def test_a_login_of_any_form_votes_once_and_differs_from_every_other(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimpleAuthManagerUser, "get_id", lambda self: ODD_LOGINS[self.username])
    rules = ReviewRules(approvals=len(ODD_LOGINS))
    job = ask(ledger, draft(ledger, job_spec(requested_by="model (10)")), rules=rules)
    path = f"/aihandoff/api/v1/jobs/{job.job_id}"
    votes: list[str] = []
    for name, user_id in ODD_LOGINS.items():
        client = login(name)
        mine = client.get("/aihandoff/api/v1/reviews").json()
        assert (mine["mine"], mine["reviews"][0]["votes"]) == (1, votes)
        for _ in range(2):  # a double click
            record = client.post(f"{path}/decisions", json=_decision(job)).json()
        votes = [*votes, f"{name} ({user_id})"]
        decision, event = record["decisions"][-1], record["events"][-1]
        facts = (decision["decided_by"], decision["decided_by_id"], decision["decided_by_kind"])
        assert facts == (name, user_id, "user")
        assert (event["actor_kind"], event["actor_name"], event["actor_user_id"]) == ("user", name, user_id)
        assert event["actor"] == f"user:{name} ({user_id})"
        assert record["job"]["state"] == ("approved" if len(votes) == len(ODD_LOGINS) else "review")
    assert len(record["decisions"]) == len(ODD_LOGINS)


def test_an_edit_by_a_login_called_model_is_a_persons(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    client = login("model")
    body = {"digest": job.review_digest, "output": "Another kettle."}
    record = client.post(f"/aihandoff/api/v1/jobs/{job.job_id}/revisions", json=body).json()
    authors = [(item["author"], item["author_kind"], item["author_id"]) for item in record["revisions"]]
    assert authors == [("model", "model", None), ("model", "user", None)]
    assert "Edited by you" in Page(client.get(f"/aihandoff/jobs/{job.job_id}").text).text
    assert "Edited by model" in Page(login("carol").get(f"/aihandoff/jobs/{job.job_id}").text).text


def test_a_program_cannot_name_the_decider(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    bob = login("bob", bearer=True)
    answer = bob.post(f"/aihandoff/api/v1/jobs/{job.job_id}/decisions", json={**_decision(job), "decided_by": "eve"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "decided_by"
    assert ledger.job(job.job_id).state is JobState.REVIEW


def test_the_openapi_schema_needs_a_login(stranger: TestClient, login: Login, ledger: Ledger) -> None:
    for path in ("openapi.json", "docs", "redoc", "docs/oauth2-redirect"):
        assert stranger.get(f"/aihandoff/{path}").status_code == 404
    schema = login("vic").get("/aihandoff/api/v1/openapi.json").json()
    page = (ROOT / "docs" / "rest.md").read_text("utf-8")
    documented = {f"{method.lower()} {path}" for method, path in re.findall(r"`(GET|POST) /aihandoff(/\S+)`", page)}
    described = {f"{method} {path}" for path, methods in schema["paths"].items() for method in methods}
    assert described == documented - {"get /api/v1/openapi.json"}
    assert schema["servers"] == [{"url": "/aihandoff"}]


def test_everything_works_under_a_path_prefix(
    airflow: FastAPI, login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow, "root_path", "/team/flow")
    job = ask(ledger, draft(ledger))
    bob = login("bob")
    page = Page(bob.get(f"/team/flow/aihandoff/jobs/{job.job_id}", headers={"Sec-Fetch-Dest": "document"}).text)
    addresses = [
        address
        for item in (*page.all("a"), *page.all("link"), *page.all("img"), *page.all("form"))
        if not (address := item.get("href") or item.get("src") or item.get("action") or "").startswith("#")
    ]
    assert addresses
    assert all(address.startswith(("/team/flow/aihandoff/", "/team/flow/dags/")) for address in addresses)
    action = page.all("form")[0]["action"]
    assert action is not None
    posted = bob.post(action, data=_decision(job))
    assert posted.headers["location"] == f"/team/flow/aihandoff/jobs/{job.job_id}"
    bob.cookies.clear()
    assert bob.get("/team/flow/aihandoff/").headers["location"].startswith("/team/flow/api/v2/auth/login?next=%2Fteam")
