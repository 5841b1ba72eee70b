"""Airflow's multi-team mode: the jobs of a Dag are those of its team."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.team import Team
from airflow.utils.session import create_session
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.rules import Approvers, ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.app import build_app
from tests.factories import OWNER, ask, draft, job_spec
from tests.integration.web.conftest import Login, Page

pytestmark = [
    pytest.mark.skipif(RELEASE < (3, 2), reason="Airflow has teams as of 3.2"),
    pytest.mark.usefixtures("teams"),
]


def _lists() -> list[str]:
    """Every page and list that is about no one thing."""
    routes = [route for route in build_app().routes if isinstance(route, APIRoute) and "GET" in route.methods]
    return [f"/aihandoff{route.path}" for route in routes if "{" not in route.path]


@pytest.fixture
def teams(airflow: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two teams with a Dag each, and a Dag of none."""
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    names = ("alpha", "beta")
    with create_session() as session:
        for name in (*names, "common"):
            bundle = DagBundleModel(name=name)
            bundle.teams = [Team(name=name)] if name in names else []
            session.add(bundle)
            session.flush()
            session.add(DagModel(dag_id=f"{name}_dag", bundle_name=name))
    yield
    with create_session() as session:
        for model in (DagModel, DagBundleModel, Team):
            for row in session.query(model).all():
                session.delete(row)
            session.flush()


@pytest.fixture
def bob(login: Login) -> TestClient:
    """A user of the team alpha."""
    return login("bob", teams=["alpha"])


def review(ledger: Ledger, dag_id: str, rules: ReviewRules | None = None) -> Job:
    """A job of a Dag that waits for a decision."""
    spec = job_spec(job_key=f"key-of-{dag_id}", owner=replace(OWNER, dag_id=dag_id))
    made = draft(ledger, spec, response_id=f"resp_{dag_id}")
    return ask(ledger, made) if rules is None else ask(ledger, made, rules=rules)


def decide(client: TestClient, job: Job) -> int:
    body = {"verdict": "approve", "digest": job.review_digest, "comment": "Right."}
    return client.post(f"/aihandoff/api/v1/jobs/{job.job_id}/decisions", json=body).status_code


def shown(client: TestClient) -> list[str]:
    """The keys of the jobs that a list has."""
    return sorted(job["job_key"] for job in client.get("/aihandoff/api/v1/jobs").json()["jobs"])


def test_users_see_and_decide_on_the_jobs_of_their_team_and_of_dags_without_one(
    bob: TestClient, login: Login, ledger: Ledger
) -> None:
    mine, theirs, common = (review(ledger, f"{name}_dag") for name in ("alpha", "beta", "common"))

    assert shown(bob) == ["key-of-alpha_dag", "key-of-common_dag"]
    assert shown(login("admin")) == ["key-of-alpha_dag", "key-of-beta_dag", "key-of-common_dag"]
    for path in ("/aihandoff/jobs/{}", "/aihandoff/api/v1/jobs/{}"):
        hidden, missing = bob.get(path.format(theirs.job_id)), bob.get(path.format(999))
        assert hidden.status_code == missing.status_code == 404
        assert hidden.text == missing.text.replace("999", str(theirs.job_id))
    assert [decide(bob, job) for job in (mine, theirs, common)] == [200, 404, 200]
    assert [ledger.job(job.job_id).state for job in (mine, theirs)] == [JobState.APPROVED, JobState.REVIEW]
    assert decide(login("carol", teams=["beta", "alpha"]), theirs) == 200


@pytest.mark.parametrize("path", _lists())
def test_no_list_names_a_job_or_a_dag_of_another_team(bob: TestClient, ledger: Ledger, path: str) -> None:
    review(ledger, "alpha_dag")
    review(ledger, "beta_dag")
    answer = bob.get(path)
    assert answer.status_code < 500
    assert "beta" not in answer.text


def test_the_team_is_a_group_that_the_author_of_a_job_can_name(bob: TestClient, login: Login, ledger: Ledger) -> None:
    rules = ReviewRules(approvers=Approvers(groups=("alpha",)))
    job = review(ledger, "common_dag", rules)
    assert decide(login("carol", teams=["beta"]), job) == 403
    assert decide(bob, job) == 200


def test_a_pause_of_all_dags_needs_the_right_for_each_team(bob: TestClient, ledger: Ledger) -> None:
    review(ledger, "alpha_dag")
    review(ledger, "beta_dag")
    path, pause = "/aihandoff/api/v1/pauses", {"reason": "An incident."}
    assert bob.post(path, json=pause).status_code == 403
    assert bob.post(path, json={**pause, "dag_id": "beta_dag"}).status_code == 403
    assert bob.post(path, json={**pause, "dag_id": "alpha_dag"}).status_code == 200


def test_a_job_whose_type_and_key_a_dag_of_another_team_names_is_that_teams_from_then_on(
    bob: TestClient, login: Login, ledger: Ledger
) -> None:
    draft(ledger, job_spec(owner=replace(OWNER, dag_id="alpha_dag")))
    carol = login("carol", teams=["beta"])
    assert (shown(bob), shown(carol)) == ([job_spec().job_key], [])

    ledger.submission.open(job_spec(owner=replace(OWNER, dag_id="beta_dag", run_id="manual__2")))
    assert (shown(bob), shown(carol)) == ([], [job_spec().job_key])


def test_the_jobs_of_a_dag_that_airflow_no_longer_has_need_the_right_for_every_team(
    bob: TestClient, login: Login, ledger: Ledger
) -> None:
    job = review(ledger, "beta_dag")
    with create_session() as session:
        session.delete(session.get(DagModel, "beta_dag"))

    assert shown(bob) == []
    assert decide(bob, job) == 404
    assert "key-of-beta_dag" not in Page(bob.get("/aihandoff/?tab=all").text).text
    assert decide(login("carol", teams=["alpha", "beta"]), job) == 200
    assert shown(login("admin")) == ["key-of-beta_dag"]
