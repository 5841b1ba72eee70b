"""What a refused request is answered with: the status, the kind, and what it says and does not say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from psycopg import OperationalError
from starlette.exceptions import HTTPException

from airflow_provider_aihandoff.core.errors import (
    BudgetRefused,
    FilterRefused,
    HandoffError,
    JobNotFound,
    JobRequestRefused,
    LedgerUnavailable,
    LinkForAnotherUser,
    LinkNotFound,
    StaleBulkDecision,
    StaleDecision,
    TooManyRequests,
)
from airflow_provider_aihandoff.web.auth import LedgerNotNamed
from airflow_provider_aihandoff.web.problems import (
    RETRY_AFTER,
    AsciiJSONResponse,
    Problem,
    _next,
    _title,
    describe,
    problem_response,
)

SECRET = "connection to server at db.internal failed for user ledger"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (JobNotFound("there is no job 7."), 404, "job-not-found"),
        (LinkNotFound("there is no such link."), 404, "link-not-found"),
        (LinkForAnotherUser("it was sent to another user."), 403, "link-for-another-user"),
        (StaleDecision("it has changed."), 409, "stale-decision"),
        (TooManyRequests("wait."), 429, "too-many-requests"),
        (LedgerUnavailable("gone."), 503, "ledger-unavailable"),
        (HandoffError("no."), 409, "refused"),
        (HTTPException(404), 404, "not-found"),
        (HTTPException(401), 401, "not-logged-in"),
        (HTTPException(403, "a forged token"), 401, "not-logged-in"),
        (HTTPException(413, "It is too large."), 413, "refused"),
        (RuntimeError("a detail of ours"), 500, "internal-error"),
    ],
)
def test_each_error_is_one_kind_of_problem(error: Exception, status: int, kind: str) -> None:
    problem = describe(error)
    assert (problem.status, problem.type) == (status, kind)
    assert problem.detail[0].isupper()
    assert problem.title


def test_the_message_of_a_database_is_for_the_log_alone() -> None:
    for error in (OperationalError(SECRET), LedgerUnavailable(SECRET)):
        assert "db.internal" not in describe(error).detail
        assert "Try again in a moment" in describe(error).detail
    assert "db.internal" not in describe(RuntimeError(SECRET)).detail
    named = LedgerNotNamed("the connection cannot be used.", remedy="Define it (type Postgres) and try again.")
    assert "Define it (type Postgres)" in describe(named).detail


@pytest.mark.parametrize(
    ("status", "headers"),
    [(503, {"Retry-After": str(RETRY_AFTER)}), (429, {"Retry-After": "60"}), (401, {"WWW-Authenticate": "Bearer"})],
)
def test_a_program_is_given_the_headers_of_the_status(status: int, headers: dict[str, str]) -> None:
    assert Problem(status, "kind", "Title", "Detail.").headers == headers
    assert Problem(409, "kind", "Title", "Detail.").headers == {}


class TestFields:
    def test_what_is_wrong_is_said_field_by_field(self) -> None:
        errors = [{"loc": ("body", "comment", 0), "msg": "too long"}, {"loc": ("query", "x" * 500), "msg": "unknown"}]
        problem = describe(RequestValidationError(errors))
        assert problem.status == 422
        assert problem.errors == [
            {"field": "comment.0", "message": "too long"},
            {"field": "x" * 200, "message": "unknown"},
        ]
        assert problem.detail.startswith("comment.0: too long; xxx")

    def test_no_more_than_a_hundred_of_them(self) -> None:
        problem = describe(RequestValidationError([{"loc": ("body", str(n)), "msg": "no"} for n in range(1_102)]))
        assert len(problem.errors) == 100
        assert problem.detail.endswith("; and 1,002 more")

    @pytest.mark.parametrize("kind", [FilterRefused, BudgetRefused])
    def test_a_refusal_of_one_field_names_it(self, kind: Any) -> None:
        problem = describe(kind("it must be a number.", field="cost_over"))
        assert problem.status == 422
        assert problem.errors == [{"field": "cost_over", "message": problem.detail}]
        assert describe(kind("it must be a number.")).errors == []

    def test_a_refused_request_for_a_job_has_all_that_is_wrong(self) -> None:
        problem = describe(JobRequestRefused("two things.", problems=[("input.title", "missing"), ("key", "empty")]))
        assert problem.errors == [
            {"field": "input.title", "message": "missing"},
            {"field": "key", "message": "empty"},
        ]


class TestJson:
    def content(self, problem: Problem) -> Any:
        response = problem_response(problem)
        assert response.media_type == "application/problem+json"
        assert response.status_code == problem.status
        return json.loads(bytes(response.body))

    def test_a_problem_has_the_fields_of_rfc_9457_and_no_empty_ones(self) -> None:
        found = self.content(Problem(404, "job-not-found", "Job not found", "There is no job 7."))
        assert found == {
            "type": "job-not-found",
            "title": "Job not found",
            "status": 404,
            "detail": "There is no job 7.",
        }

    def test_it_has_what_a_decision_needs(self) -> None:
        stale = StaleBulkDecision("1 of 2 jobs.", stale={7: "it has changed."})
        problem = describe(stale, digest="d" * 64)
        found = self.content(problem)
        assert found["digest"] == "d" * 64
        assert found["stale"] == [{"job_id": 7, "detail": "it has changed."}]

    def test_any_text_of_the_ledger_is_sent_as_ascii(self) -> None:
        body = bytes(AsciiJSONResponse({"text": "ü\ud83d\u202e"}).body)
        assert body.isascii()
        assert json.loads(body) == {"text": "ü\ud83d\u202e"}


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("comment", "Comment"),
        ("value/lines/0/unit_price", "Lines › 0 › Unit price"),  # noqa: RUF001
        ("value/" + "a/" * 40, " › ".join(["A"] * 10)),  # noqa: RUF001
    ],
)
def test_what_was_typed_has_a_title(name: str, title: str) -> None:
    assert _title(name) == title


def asked(method: str, path: str, query: str = "", **params: Any) -> Request:
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": []}
    return Request({**scope, "server": ("airflow.test", 80), "path_params": params, "root_path": ""})


@pytest.mark.parametrize(
    ("request_", "then"),
    [
        (asked("GET", "/aihandoff/jobs", "state=review&type=ticket"), "/aihandoff/jobs?state=review&type=ticket"),
        (asked("GET", "/aihandoff/jobs", "x" * 2_001), "/aihandoff/jobs"),
        (asked("POST", "/aihandoff/decide/a-token", token="a-token"), "/aihandoff/decide/a-token"),
    ],
)
def test_a_login_leads_to_where_the_user_was(request_: Request, then: str) -> None:
    assert _next(request_) == then
