"""The page of pauses and of reached limits of money: what is held, by whom and why, and how it ends."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from airflow_provider_aihandoff.core.admission.pause_store import Scope
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import (
    LedgerDep,
    ViewerDep,
    check_may_pause,
    may_pause,
    visible_pauses,
)
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.render.environment import page

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

#: Pauses that have ended, which the page lists.
MAX_ENDED = 20


@router.get("/pauses", name="pauses_page")
def show(request: Request, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Show the pauses in force and the newest that have ended, as far as they concern a Dag that the user may see."""
    found = visible_pauses(ledger, viewer, ended=True)
    in_force = [each for each in found if each.ended_at is None]
    return page(
        request,
        "pauses.html",
        {
            "viewer": viewer,
            "in_force": [(each, ledger.pauses.held(each), may_pause(ledger, viewer, each.dag_id)) for each in in_force],
            "ended": [each for each in found if each.ended_at is not None][:MAX_ENDED],
            "limits": ledger.spending_limits.find() if viewer.visible(ledger.dag_ids()) else [],
            "may_pause_all": may_pause(ledger, viewer, None),
            "max_comment": schemas.MAX_COMMENT,
        },
    )


@router.post("/pauses", name="pause")
def begin(
    request: Request,
    viewer: ViewerDep,
    ledger: LedgerDep,
    reason: Annotated[schemas.Reason, Form()],
    conn_id: Annotated[schemas.ScopeName, Form()] = None,
    job_type: Annotated[schemas.ScopeName, Form()] = None,
    dag_id: Annotated[schemas.ScopeName, Form()] = None,
    writes: Annotated[bool, Form()] = False,
) -> Response:
    """Begin a pause. Fields that are left empty name nothing: with all of them empty, everything is paused."""
    scope = Scope(conn_id or None, job_type or None, dag_id or None)
    check_may_pause(ledger, viewer, scope.dag_id)
    ledger.pauses.begin(scope, writes=writes, reason=reason, actor=viewer.actor)
    return RedirectResponse(path_to(request, "pauses_page"), 303)


@router.post("/pauses/{pause_id}/end", name="resume")
def end(
    request: Request,
    pause_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    reason: Annotated[schemas.Reason, Form()],
) -> Response:
    """End a pause. One that has ended stays as it is."""
    check_may_pause(ledger, viewer, ledger.pauses.read(pause_id).dag_id)
    ledger.pauses.end(pause_id, reason=reason, actor=viewer.actor)
    return RedirectResponse(path_to(request, "pauses_page"), 303)


@router.post("/spending-limits/try", name="try_limit")
def try_limit(
    request: Request, viewer: ViewerDep, ledger: LedgerDep, conn_id: Annotated[schemas.ScopeName, Form()]
) -> Response:
    """Have it found out at once whether a limit of money is still reached."""
    check_may_pause(ledger, viewer, None)
    ledger.spending_limits.try_now(conn_id or "")
    return RedirectResponse(path_to(request, "pauses_page"), 303)
