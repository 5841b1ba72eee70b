"""The page of one request, for those who asked: how it stands, what came of it, and a way to stop it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.generation.response_stream import is_streamed
from airflow_provider_aihandoff.core.job_requests.job_request import Standing
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep
from airflow_provider_aihandoff.web.front_door import asking
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.pages.refreshing import JOB, refreshing
from airflow_provider_aihandoff.web.problems import SECURITY_HEADERS
from airflow_provider_aihandoff.web.render.environment import page

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

_POLICY = "Content-Security-Policy"

#: Sources as a policy names them: nothing that could end the directive.
_SOURCES = re.compile(r"[A-Za-z0-9:/.*' -]+")

#: How the badge of each standing is shown.
_BADGES: Mapping[str, str] = {
    Standing.QUEUED: "queued",
    Standing.WORKING: "running",
    Standing.IN_REVIEW: "review",
    Standing.DONE: "completed",
    Standing.STOPPED: "rolled_back",
    Standing.FAILED: "failed",
}

#: The steps on the way, in the words of those who asked.
_STEPS = (Standing.QUEUED, Standing.WORKING, Standing.IN_REVIEW, Standing.DONE)


@router.get("/requests/{request_id}", name="show_request")
def show_request(request: Request, request_id: UUID, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Show how a request stands. It changes nothing, however often it is loaded."""
    view = asking.read(ledger, viewer, request_id)
    job = view.followed.job
    watched = not view.ended and _may_be_live(ledger, job) and asking.may_watch(viewer, view.followed)
    return page(
        request,
        "request.html",
        {
            "asked": view.content,
            "who": viewer.name,
            "badge_class": _BADGES[view.content["state"]],
            "steps": [each.value for each in _STEPS],
            "shows_job": job is not None and viewer.may_see(job),
            "sign": ledger.signs.of_job(job.job_id) if job is not None and job.state is JobState.RUNNING else None,
            "quiet_after": settings.quiet_after(),
            "live": path_to(request, "stream_request", request_id=request_id) if watched else None,
            "refreshes": refreshing(request, JOB, moves=not view.ended),
        },
        headers={_POLICY: _policy()},
    )


@router.post("/requests/{request_id}/cancel", name="cancel_request")
def cancel_request(request: Request, request_id: UUID, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Stop what was asked for, as long as it is not being carried out."""
    asking.cancel(ledger, viewer, request_id)
    return RedirectResponse(path_to(request, "show_request", request_id=request_id), 303)


def _may_be_live(ledger: Ledger, job: Job | None) -> bool:
    """Whether what the model writes may arrive now, or soon. Before there is a job, no one knows yet."""
    if job is None:
        return True
    return job.state in (JobState.QUEUED, JobState.RUNNING) and is_streamed(
        ledger.revision(job.job_id, job.revision).request
    )


def _policy() -> str:
    """The policy of every page, with those who may show this one in a frame."""
    ancestors = settings.text("request_page_frame_ancestors").strip()
    if not _SOURCES.fullmatch(ancestors):
        ancestors = "'none'"
    return SECURITY_HEADERS[_POLICY].replace("frame-ancestors 'self'", f"frame-ancestors {ancestors}")
