"""The page of the doctor: what is wrong with the set-up, why it matters, and what fixes it. It changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from socket import gethostname

from fastapi import APIRouter, Request, Response

from airflow_provider_aihandoff.doctor.bounded import CHECK_SECONDS, run_bounded
from airflow_provider_aihandoff.doctor.examine import checks_of
from airflow_provider_aihandoff.doctor.finding import Level
from airflow_provider_aihandoff.hooks.webhook_secrets import configured_conn_ids
from airflow_provider_aihandoff.web.auth import ViewerDep, check_may_run_doctor
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.render.environment import page

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)


@router.get("/doctor", name="doctor_page")
def doctor(request: Request, viewer: ViewerDep, run: bool = False) -> Response:
    """Examine the set-up from this API server, on request.

    In a thread, as every route that is no coroutine: the event loop goes on. It needs no ledger, and says so where
    that is what is wrong.
    """
    check_may_run_doctor(viewer)
    findings = run_bounded(checks_of(None, configured_conn_ids())) if run else []
    by_level = {level: [finding for finding in findings if finding.level is level] for level in Level}
    return page(
        request,
        "doctor.html",
        {
            "viewer": viewer,
            "wrong": [*by_level[Level.ERROR], *by_level[Level.WARNING]],
            "right": by_level[Level.OK],
            "ran": run,
            "at": datetime.now(UTC),
            "host": gethostname(),
            "check_seconds": CHECK_SECONDS,
        },
    )
