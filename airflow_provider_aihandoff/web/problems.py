"""What went wrong, as an answer: "problem details" (RFC 9457) for programs, a plain page for people.

No answer carries a stack trace. An unexpected error is logged with one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import BoundedSemaphore
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from psycopg import OperationalError
from pydantic_core import to_jsonable_python
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.errors import (
    AddressRefused,
    BudgetNotFound,
    BudgetRefused,
    BulkChanged,
    BulkNotFound,
    CannotAcknowledge,
    CannotCancel,
    CannotChange,
    CannotReassign,
    CannotResolve,
    CannotRollBack,
    EffectNotFound,
    FilterRefused,
    HandoffError,
    JobNotApproved,
    JobNotFound,
    JobRequestConflict,
    JobRequestInProgress,
    JobRequestNotFound,
    JobRequestRefused,
    JobTypeAmbiguous,
    JobTypeNotFound,
    LedgerSchemaError,
    LedgerUnavailable,
    LimitNotFound,
    LimitRefused,
    LinkForAnotherUser,
    LinkNotFound,
    MayNotDecide,
    NothingLost,
    PauseNotFound,
    SetNotFound,
    StaleBulkDecision,
    StaleDecision,
    SubscriptionNotFound,
    SubscriptionRefused,
    TooManyRequests,
)
from airflow_provider_aihandoff.web.auth import (
    CrossSiteRequest,
    DecisionForbidden,
    DoctorForbidden,
    LedgerNotNamed,
    LimitForbidden,
    MayNotAskForOthers,
    PauseForbidden,
    RequestKeyMissing,
    SubscriptionForbidden,
    TooManyFollow,
    WebhooksForbidden,
)
from airflow_provider_aihandoff.web.budget_rights import BudgetForbidden
from airflow_provider_aihandoff.web.links import airflow_path, is_api, loggable, path_to
from airflow_provider_aihandoff.web.render.environment import page, script_hash
from airflow_provider_aihandoff.web.render.formatting import label
from airflow_provider_aihandoff.web.request_body import read_form

log = logging.getLogger(__name__)

#: Seconds after which to try an unavailable ledger again.
RETRY_AFTER = 10

#: Seconds after which to try again, by status.
_RETRY_AFTER: Mapping[int, int] = {503: RETRY_AFTER, 429: 60}

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'self'; "
        f"base-uri 'none'; script-src {script_hash()}; connect-src 'self'"
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
    :param allow: the methods that the address has, if it does not have the one that was sent.
    """

    status: int
    type: str
    title: str
    detail: str
    digest: str | None = None
    stale: Mapping[int, str] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    allow: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to the status."""
        if self.status in _RETRY_AFTER:
            return {"Retry-After": str(_RETRY_AFTER[self.status])}
        if self.allow:
            return {"Allow": self.allow}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


_KINDS: Mapping[type[Exception], tuple[int, str, str]] = {
    SetNotFound: (404, "set-not-found", "Set not found"),
    JobNotFound: (404, "job-not-found", "Job not found"),
    EffectNotFound: (404, "effect-not-found", "Effect not found"),
    DecisionForbidden: (403, "decision-forbidden", "You may not decide on this job"),
    MayNotDecide: (403, "decision-forbidden", "You may not decide on this job"),
    PauseForbidden: (403, "pause-forbidden", "You may not pause or resume this"),
    PauseNotFound: (404, "pause-not-found", "Pause not found"),
    DoctorForbidden: (403, "doctor-forbidden", "You may not run the doctor"),
    WebhooksForbidden: (403, "webhooks-forbidden", "You may not settle webhooks"),
    LimitForbidden: (403, "limit-forbidden", "You may not set limits"),
    LimitNotFound: (404, "limit-not-found", "Limit not found"),
    LimitRefused: (422, "limit-refused", "The limit cannot be set like this"),
    SubscriptionForbidden: (403, "subscription-forbidden", "You may not see or change subscriptions"),
    SubscriptionNotFound: (404, "subscription-not-found", "Subscription not found"),
    AddressRefused: (422, "address-refused", "Events may not be sent to this address"),
    SubscriptionRefused: (422, "subscription-refused", "The subscription cannot be made like this"),
    CrossSiteRequest: (403, "cross-site-request", "Request from another site"),
    LinkNotFound: (404, "link-not-found", "Link not found"),
    LinkForAnotherUser: (403, "link-for-another-user", "This link is for another user"),
    StaleDecision: (409, "stale-decision", "The job has changed since you opened it"),
    StaleBulkDecision: (409, "stale-bulk-decision", "Some of the jobs have changed since you opened them"),
    CannotChange: (409, "cannot-change", "The output cannot be changed this way"),
    CannotReassign: (409, "cannot-reassign", "This review cannot be reassigned like this"),
    JobNotApproved: (409, "no-plan-yet", "There is nothing to decide on yet"),
    CannotAcknowledge: (409, "cannot-acknowledge", "This job cannot be acknowledged"),
    CannotCancel: (409, "cannot-cancel", "This job cannot be cancelled"),
    CannotResolve: (409, "cannot-resolve", "This effect has changed since you opened it"),
    NothingLost: (409, "nothing-lost", "No request of this job is lost, or another one is"),
    CannotRollBack: (409, "cannot-roll-back", "This job cannot be rolled back"),
    BudgetNotFound: (404, "budget-not-found", "Budget not found"),
    BudgetForbidden: (403, "budget-forbidden", "You may not make or change this budget"),
    BudgetRefused: (422, "invalid-budget", "The budget is not valid"),
    BulkNotFound: (404, "bulk-not-found", "Bulk action not found"),
    BulkChanged: (409, "bulk-changed", "The jobs have changed since you saw them"),
    FilterRefused: (422, "invalid-filter", "The filter is not valid"),
    JobTypeNotFound: (404, "job-type-not-found", "No such type of job"),
    JobTypeAmbiguous: (409, "job-type-ambiguous", "Several Dags declare this type of job"),
    JobRequestNotFound: (404, "request-not-found", "Request not found"),
    JobRequestRefused: (422, "invalid-request", "The request is not valid"),
    JobRequestConflict: (422, "key-used", "The key was used before"),
    JobRequestInProgress: (409, "request-in-progress", "The same key is being recorded"),
    RequestKeyMissing: (400, "key-missing", "The request has no key"),
    MayNotAskForOthers: (403, "may-not-ask-for-others", "You may not ask for another user"),
    TooManyRequests: (429, "too-many-requests", "Too many requests"),
    TooManyFollow: (503, "too-many-follow", "Too many connections follow something"),
    LedgerSchemaError: (503, "ledger-schema", "The ledger's schema is missing or out of date"),
    LedgerUnavailable: (503, "ledger-unavailable", "The ledger is unavailable"),
    OperationalError: (503, "ledger-unavailable", "The ledger is unavailable"),
    HandoffError: (409, "refused", "The request was refused"),
}


#: The fields of forms that people write into; those of an edit begin with the last one.
_TYPED = ("comment", "external_id", "reason", "to_", "escalate_", "value")

#: Airflow's answers to a token that is missing, expired or forged. No route here raises an `HTTPException` of these.
_NOT_LOGGED_IN = frozenset({401, 403})

#: Where the same form, sent again later, may be taken.
_LATER = frozenset({401, 503})

#: Of a form whose login has expired, so many bytes are kept, and so many such forms at the same time: they may as well
#: be a stranger's. A bulk decision on a thousand jobs is 90 KB.
MAX_KEPT = 256 * 2**10
_KEEPING = BoundedSemaphore(2)
_KEEP_TIMEOUT = 10.0

#: So much of what is wrong with a request is said, and so much of a name that was sent.
_MAX_ERRORS = 100
_MAX_NAME, _MAX_PARTS = 200, 10

#: A longer query is not kept through a login.
_MAX_QUERY = 2_000


def describe(error: Exception, *, digest: str | None = None) -> Problem:
    """The problem that an error is."""
    if isinstance(error, HTTPException):
        return _http_problem(error)
    if isinstance(error, RequestValidationError):
        found = error.errors()
        errors = [
            {"field": ".".join(map(str, item["loc"][1:]))[:_MAX_NAME], "message": item["msg"]}
            for item in found[:_MAX_ERRORS]
        ]
        detail = "; ".join(f"{item['field']}: {item['message']}" for item in errors)
        if len(found) > _MAX_ERRORS:
            detail += f"; and {len(found) - _MAX_ERRORS:,} more"
        return Problem(422, "invalid-request", "The request is not valid", detail, errors=errors)
    for kind, (status, name, title) in _KINDS.items():
        if isinstance(error, kind):
            stale = error.stale if isinstance(error, StaleBulkDecision) else {}
            field = error.field if isinstance(error, FilterRefused | BudgetRefused) else ""
            errors = [{"field": field[:_MAX_NAME], "message": _detail(error)}] if field else []
            if isinstance(error, JobRequestRefused):
                errors = [{"field": at[:_MAX_NAME], "message": said} for at, said in error.problems[:_MAX_ERRORS]]
            return Problem(status, name, title, _detail(error), digest, stale, errors)
    return Problem(
        500, "internal-error", "Something went wrong", "The error was logged. Reload the page to see the current state."
    )


def _http_problem(error: HTTPException) -> Problem:
    if error.status_code in _NOT_LOGGED_IN:
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
    """Answer a request that a route refused; on a page, nothing that a user sent is lost.

    The page is rendered in a thread: the event loop is for everyone.
    """
    form: FormData | None = getattr(request.state, "form", None)
    if form is None and _may_keep(request, error) and _KEEPING.acquire(blocking=False):
        try:
            with suppress(HTTPException):  # no form, or too large a one
                form = await read_form(request, MAX_KEPT, _KEEP_TIMEOUT)
            return await run_in_threadpool(answer, request, error, form=form)
        finally:
            _KEEPING.release()
    return await run_in_threadpool(answer, request, error, form=form)


def _may_keep(request: Request, error: Exception) -> bool:
    """Whether the body that no route has read may be a form of a page of ours, whose login has expired.

    A form of another site is refused before the login is asked for, with another error.
    """
    refused = isinstance(error, HTTPException) and error.status_code in _NOT_LOGGED_IN
    return refused and request.method == "POST" and not is_api(request)


def answer(request: Request, error: Exception, *, form: FormData | None = None) -> Response:
    """Answer with a problem: JSON to a program, a page to a person. A person who is not logged in is sent to do so.

    :param form: what was sent, as far as it was kept. If a login or a second try is all that is needed, the page can
        send it again.
    """
    problem = describe(error)
    if problem.status == 405:
        problem = replace(problem, allow=_allowed(request))
    if problem.status == 503:
        log.error("Answering %s %r with 503: %s", request.method, loggable(request.url.path), error)
    if is_api(request):
        return problem_response(problem)
    login = airflow_path(request, f"/api/v2/auth/login?{urlencode({'next': _next(request)})}")
    if problem.status == 401 and request.method == "GET":
        return RedirectResponse(login, 303)
    sent = [(name, text) for name, text in form.multi_items() if isinstance(text, str)] if form else []
    return page(
        request,
        "problem.html",
        {
            "problem": problem,
            "typed": [(_title(name), text) for name, text in sent if text.strip() and name.startswith(_TYPED)],
            "again": sent if problem.status in _LATER else (),
            "lost": request.method == "POST" and form is None and problem.status in _LATER,
            "max_kept": MAX_KEPT // 2**10,
            "action": request.url.path,
            "login": login if problem.status == 401 else None,
        },
        status=problem.status,
        headers=problem.headers,
    )


def _allowed(request: Request) -> str:
    """The methods of an address: each route has one of them."""
    routes = [each for each in request.app.routes if isinstance(each, Route)]
    path = next((each.path for each in routes if each.matches(request.scope)[0] is not Match.NONE), None)
    return ", ".join(sorted({method for each in routes if each.path == path for method in each.methods or ()}))


def _title(name: str) -> str:
    """The name of a part of a form, for a person."""
    parts = name.removeprefix("value/").split("/", _MAX_PARTS)
    return " › ".join(label(part[:_MAX_NAME]) for part in parts[:_MAX_PARTS])  # noqa: RUF001  as pages write it


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
    query = f"?{request.url.query}" if 0 < len(request.url.query) <= _MAX_QUERY else ""
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
            method, path = scope.get("method"), loggable(scope.get("path"))
            log.error("Answering %s %r with 500.", method, path, exc_info=shown(error))
            if started:
                raise
            response = await run_in_threadpool(self._respond, Request(scope), error)
            await response(scope, receive, send_shielded)
