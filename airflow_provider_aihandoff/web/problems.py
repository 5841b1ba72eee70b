"""What went wrong, as an answer: "problem details" (RFC 9457) for programs, a plain page for people.

No answer carries a stack trace. An unexpected error is logged with one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from psycopg import OperationalError
from pydantic_core import to_jsonable_python
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_aihandoff.core.errors import (
    CannotCancel,
    CannotChange,
    CannotResolve,
    CannotRollBack,
    EffectNotFound,
    HandoffError,
    JobNotApproved,
    JobNotFound,
    LedgerSchemaError,
    LedgerUnavailable,
    MayNotDecide,
    NothingLost,
    StaleBulkDecision,
    StaleDecision,
)
from airflow_provider_aihandoff.web.auth import CrossSiteRequest, DecisionForbidden, LedgerNotNamed
from airflow_provider_aihandoff.web.form_body import form_of
from airflow_provider_aihandoff.web.links import airflow_path, is_api, path_to
from airflow_provider_aihandoff.web.render.environment import page

log = logging.getLogger(__name__)

#: Seconds after which to try an unavailable ledger again.
RETRY_AFTER = 10

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'self'; "
        "base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: with that, browsers send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Problem:
    """One problem, in the terms of RFC 9457.

    :param type: names the kind of problem; relative to the API, and stable.
    :param digest: the job's current review digest, if a decision named another.
    :param stale: why each of these jobs could not be decided on, by id.
    :param errors: what is wrong with the request, field by field.
    """

    status: int
    type: str
    title: str
    detail: str
    digest: str | None = None
    stale: Mapping[int, str] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to the status."""
        if self.status == 503:
            return {"Retry-After": str(RETRY_AFTER)}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


_KINDS: Mapping[type[Exception], tuple[int, str, str]] = {
    JobNotFound: (404, "job-not-found", "Job not found"),
    EffectNotFound: (404, "effect-not-found", "Effect not found"),
    DecisionForbidden: (403, "decision-forbidden", "You may not decide on this job"),
    MayNotDecide: (403, "decision-forbidden", "You may not decide on this job"),
    CrossSiteRequest: (403, "cross-site-request", "Request from another site"),
    StaleDecision: (409, "stale-decision", "The job has changed since you opened it"),
    StaleBulkDecision: (409, "stale-bulk-decision", "Some of the jobs have changed since you opened them"),
    CannotChange: (409, "cannot-change", "The output cannot be changed this way"),
    JobNotApproved: (409, "no-plan-yet", "There is nothing to decide on yet"),
    CannotCancel: (409, "cannot-cancel", "This job cannot be cancelled"),
    CannotResolve: (409, "cannot-resolve", "This effect has changed since you opened it"),
    NothingLost: (409, "nothing-lost", "No request of this job is lost, or another one is"),
    CannotRollBack: (409, "cannot-roll-back", "This job cannot be rolled back"),
    LedgerSchemaError: (503, "ledger-schema", "The ledger's schema is missing or out of date"),
    LedgerUnavailable: (503, "ledger-unavailable", "The ledger is unavailable"),
    OperationalError: (503, "ledger-unavailable", "The ledger is unavailable"),
    HandoffError: (409, "refused", "The request was refused"),
}


#: The fields of forms that people write into; those of an edit begin with the last one.
_TYPED = ("comment", "external_id", "reason", "value")

#: Where the same form, sent again later, may be taken.
_LATER = frozenset({401, 503})


def describe(error: Exception, *, digest: str | None = None) -> Problem:
    """The problem that an error is."""
    if isinstance(error, HTTPException):
        return _http_problem(error)
    if isinstance(error, RequestValidationError):
        errors = [{"field": ".".join(map(str, item["loc"][1:])), "message": item["msg"]} for item in error.errors()]
        detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors)
        return Problem(422, "invalid-request", "The request is not valid", detail, errors=errors)
    for kind, (status, name, title) in _KINDS.items():
        if isinstance(error, kind):
            stale = error.stale if isinstance(error, StaleBulkDecision) else {}
            return Problem(status, name, title, _detail(error), digest, stale)
    return Problem(
        500, "internal-error", "Something went wrong", "The error was logged. Reload the page to see the current state."
    )


def _http_problem(error: HTTPException) -> Problem:
    # No route here raises one: 401 and 403 are Airflow's answers to a token that is missing, expired or forged.
    if error.status_code in (401, 403):
        return Problem(
            401, "not-logged-in", "You are not logged in", "Log in to Airflow. Programs send a bearer token."
        )
    if error.status_code == 404:
        return Problem(404, "not-found", "Page not found", "Check the address.")
    return Problem(error.status_code, "refused", "The request was refused", str(error.detail))


def _detail(error: Exception) -> str:
    """The detail of an error. The database's own message is for the log: it names hosts and roles."""
    if isinstance(error, (LedgerUnavailable, OperationalError)) and not isinstance(error, LedgerNotNamed):
        return (
            "Its database is unavailable, or the connection broke. The API server's log has the details. Try again in "
            "a moment: a decision that is sent twice counts once."
        )
    text = str(error)
    return text[:1].upper() + text[1:]


async def handle(request: Request, error: Exception) -> Response:
    """Answer a request that a route refused; on a page, nothing that was sent is lost."""
    return answer(request, error, form=await _form(request))


async def _form(request: Request) -> list[tuple[str, str]]:
    if is_api(request) or request.method != "POST":
        return []
    try:
        form = await form_of(request)
    except (HTTPException, RuntimeError):  # no form, or one that cannot be read
        return []
    return [(name, text) for name, text in form.multi_items() if isinstance(text, str)]


def answer(request: Request, error: Exception, *, form: Sequence[tuple[str, str]] = ()) -> Response:
    """Answer with a problem: JSON to a program, a page to a person. A person who is not logged in is sent to do so.

    :param form: what was sent. If a login or a second try is all that is needed, the page can send it again. A form of
        another site does not come here: it is refused before the user is known.
    """
    problem = describe(error)
    if problem.status == 503:
        log.error("Answering %s %s with 503: %s", request.method, request.url.path, error)
    if is_api(request):
        return problem_response(problem)
    login = airflow_path(request, f"/api/v2/auth/login?{urlencode({'next': _next(request)})}")
    if problem.status == 401 and request.method == "GET":
        return RedirectResponse(login, 303)
    return page(
        request,
        "problem.html",
        {
            "problem": problem,
            "typed": [(name, text) for name, text in form if text.strip() and name.startswith(_TYPED)],
            "again": form if problem.status in _LATER else (),
            "action": request.url.path,
            "login": login if problem.status == 401 else None,
        },
        status=problem.status,
        headers=problem.headers,
    )


def answer_program(request: Request, error: Exception) -> Response:
    """Answer with a problem, where there are no pages: the receiver of webhooks, run alone."""
    return problem_response(describe(error))


class AsciiJSONResponse(JSONResponse):
    """JSON of anything in the ledger: times, amounts, and, since it escapes all but ASCII, any text."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, separators=(",", ":"), default=to_jsonable_python).encode("ascii")


def problem_response(problem: Problem) -> Response:
    """A problem as JSON."""
    content: dict[str, Any] = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.digest is not None:
        content["digest"] = problem.digest
    if problem.stale:
        content["stale"] = [{"job_id": job_id, "detail": why} for job_id, why in problem.stale.items()]
    if problem.errors:
        content["errors"] = problem.errors
    return AsciiJSONResponse(content, problem.status, problem.headers, "application/problem+json")


def _next(request: Request) -> str:
    """Where to go after the login: this page, or the job whose decision was not recorded."""
    if request.method == "POST" and "job_id" in request.path_params:
        return path_to(request, "show_job", job_id=request.path_params["job_id"])
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{request.url.path}{query}"


class Shield:
    """Puts the security headers on every answer, and a plain one in the place of an unexpected error.

    A middleware and not an exception handler: those for ``Exception`` answer, and then raise the error on into
    Airflow's own middlewares, which can cut the answer off.

    :param respond: what answers such an error.
    """

    def __init__(self, app: ASGIApp, respond: Callable[[Request, Exception], Response] = answer) -> None:
        self._app = app
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_shielded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_shielded)
        except Exception as error:
            log.exception("Answering %s %s with 500.", scope.get("method"), scope.get("path"))
            if started:
                raise
            await self._respond(Request(scope), error)(scope, receive, send_shielded)
