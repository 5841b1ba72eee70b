"""Whatever goes wrong, the answer is plain, safe, and says what to do; and every answer carries the headers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.database import connection, schema
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.review.review_store import Reviews
from tests.factories import ask, draft
from tests.integration.web.conftest import Login, Page

UseLedger = Callable[[dict[str, Any]], None]
DECISION = {"verdict": "approve", "digest": "0" * 64, "comment": "Looks right."}


def _everywhere(client: TestClient) -> dict[str, Any]:
    """An answer of each route that needs the ledger."""
    return {
        "list": client.get("/aihandoff/"),
        "job": client.get("/aihandoff/jobs/1"),
        "form": client.post("/aihandoff/jobs/1/decision", data=DECISION),
        "api list": client.get("/aihandoff/api/v1/jobs"),
        "api job": client.get("/aihandoff/api/v1/jobs/1"),
        "api decision": client.post("/aihandoff/api/v1/jobs/1/decisions", json=DECISION),
    }


def _assert_unavailable(client: TestClient, said: str) -> None:
    for name, answer in _everywhere(client).items():
        assert answer.status_code == 503, name
        assert int(answer.headers["Retry-After"]) > 0
        assert said in (answer.json()["detail"] if name.startswith("api") else Page(answer.text).text)
        assert "Looks right." in answer.text or name != "form"


def test_an_unavailable_ledger_is_a_503(
    login: Login, use_ledger: UseLedger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.5)
    bob = login("bob")
    use_ledger({**conninfo, "port": 1})
    _assert_unavailable(bob, "Its database is unavailable")
    assert conninfo["host"] not in bob.get("/aihandoff/").text


def test_a_ledger_without_its_schema_is_a_503(
    login: Login, use_ledger: UseLedger, empty_conninfo: dict[str, Any]
) -> None:
    bob = login("bob")
    use_ledger(empty_conninfo)
    _assert_unavailable(bob, "airflow aihandoff db upgrade")
    schema.upgrade(empty_conninfo)
    assert bob.get("/aihandoff/").status_code == 200


def test_a_missing_ledger_connection_is_a_503(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    bob = login("bob")
    monkeypatch.delenv("AIRFLOW_CONN_AIHANDOFF_LEDGER")
    _assert_unavailable(bob, "aihandoff_ledger")


def test_a_ledger_connection_of_another_type_is_a_503(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    bob = login("bob")
    monkeypatch.setenv("AIRFLOW_CONN_AIHANDOFF_LEDGER", "http://ledger.test")
    _assert_unavailable(bob, "must be 'postgres'")


def test_a_broken_database_connection_is_a_503(login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise psycopg.OperationalError("server at 10.0.0.7 is out of disk")

    for name in ("dag_ids", "job"):
        monkeypatch.setattr(Ledger, name, fail)
    bob = login("bob")
    _assert_unavailable(bob, "Its database is unavailable, or the connection broke")
    assert "10.0.0.7" not in bob.get("/aihandoff/").text


def test_an_unexpected_error_is_logged_and_not_shown(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the password is hunter2")

    job = ask(ledger, draft(ledger))
    assert job.job_id == 1
    for owner, name in ((Ledger, "dag_ids"), (Ledger, "record"), (Reviews, "decide")):
        monkeypatch.setattr(owner, name, fail)
    for name, answer in _everywhere(login("bob")).items():
        assert answer.status_code == 500, name
        assert "hunter2" not in answer.text
        assert "Traceback" not in answer.text
        assert "Something went wrong" in answer.text
        assert answer.text.endswith("}" if name.startswith("api") else "</html>")
    assert "hunter2" in caplog.text


@pytest.mark.parametrize("path", ["nothing", "jobs/999", "jobs/1/nothing", "static/app.py", "static/../app.py"])
def test_a_missing_page_or_job_is_a_404(login: Login, ledger: Ledger, path: str) -> None:
    assert login("bob").get(f"/aihandoff/{path}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "jobs/abc",
        "jobs/0",
        "jobs/-1",
        f"jobs/{2**63}",
        "?tab=other",
        "?after=x",
        "?run_id=a%00b",
        "api/v1/jobs/abc",
        f"api/v1/jobs/{2**63}",
        "api/v1/jobs?limit=0",
        "api/v1/jobs?limit=1001",
        "api/v1/jobs?state=lost",
        "api/v1/jobs?run_id=a%00b",
    ],
)
def test_invalid_parameters_are_a_422(login: Login, ledger: Ledger, path: str) -> None:
    answer = login("bob").get(f"/aihandoff/{path}")
    assert answer.status_code == 422
    if "api/" in path:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["errors"]


def test_an_impossible_dag_id_has_no_jobs(login: Login, ledger: Ledger) -> None:
    ask(ledger, draft(ledger))
    bob = login("bob")
    assert "The review queue is empty" in bob.get("/aihandoff/?dag_id=a%00b").text
    assert bob.get("/aihandoff/api/v1/jobs?dag_id=a%00b").json() == {"jobs": [], "next": None}


@pytest.mark.parametrize("body", [b"--x\r\nContent-Disposition", b"\xff\x00", b""])
def test_a_form_that_cannot_be_read_is_refused_plainly(login: Login, ledger: Ledger, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = login("bob").post("/aihandoff/jobs/1/decision", content=body, headers=headers)
    assert answer.status_code == 415


def test_a_form_field_whose_name_is_not_text_is_refused_plainly(login: Login, ledger: Ledger) -> None:
    answer = login("bob").post(
        "/aihandoff/api/v1/jobs/1/decisions", content=b'{"\\ud800": 1}', headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422


def test_every_answer_carries_the_security_headers(login: Login, stranger: TestClient, ledger: Ledger) -> None:
    ask(ledger, draft(ledger))
    bob = login("bob")
    answers = [*_everywhere(bob).values(), *_everywhere(stranger).values(), bob.get("/aihandoff/nothing")]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"].split("; ")
        assert policy[0] == "default-src 'none'"
        assert {"frame-ancestors 'self'", "form-action 'self'", "base-uri 'none'"} <= set(policy)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cache-Control"] == "no-store"


def test_the_style_sheet_may_be_cached(stranger: TestClient, login: Login, ledger: Ledger) -> None:
    links = [link["href"] for link in Page(login("bob").get("/aihandoff/").text).all("link")]
    for href in links:
        answer = stranger.get(href or "")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
