"""Pauses and reached limits of money, for programs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from airflow_provider_aihandoff.core.admission.pause_store import Pause, Scope
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep, check_may_pause, visible_pauses
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import API_PREFIX
from airflow_provider_aihandoff.web.problems import AsciiJSONResponse

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem} for status in (401, 403, 404, 422, 503)
}

router = APIRouter(
    prefix=API_PREFIX,
    tags=["Pauses"],
    default_response_class=AsciiJSONResponse,
    route_class=GuardedRoute,
    responses=_PROBLEMS,
)


@router.get("/pauses")
def list_pauses(viewer: ViewerDep, ledger: LedgerDep, ended: bool = False) -> schemas.PauseList:
    """List the pauses in force that concern a Dag which you may see; with `ended`, also those that have ended."""
    pauses = [pause_fields(ledger, each) for each in visible_pauses(ledger, viewer, ended=ended)]
    return schemas.PauseList.model_validate({"pauses": pauses})


@router.post("/pauses")
def begin_pause(body: schemas.PauseBody, viewer: ViewerDep, ledger: LedgerDep) -> schemas.Pause:
    """Hold what matches all that you name, in the whole fleet at once. Name nothing to hold everything."""
    check_may_pause(ledger, viewer, body.dag_id)
    scope = Scope(body.conn_id, body.job_type, body.dag_id)
    begun = ledger.pauses.begin(scope, writes=body.writes, reason=body.reason, actor=viewer.actor)
    return schemas.Pause.model_validate(pause_fields(ledger, begun))


@router.post("/pauses/{pause_id}/end")
def end_pause(
    pause_id: schemas.JobId, body: schemas.PauseReasonBody, viewer: ViewerDep, ledger: LedgerDep
) -> schemas.Pause:
    """End a pause: what it holds continues. One that has ended stays as it is."""
    check_may_pause(ledger, viewer, ledger.pauses.read(pause_id).dag_id)
    ended = ledger.pauses.end(pause_id, reason=body.reason, actor=viewer.actor)
    return schemas.Pause.model_validate(pause_fields(ledger, ended))


@router.get("/spending-limits")
def list_spending_limits(viewer: ViewerDep, ledger: LedgerDep) -> schemas.SpendingLimitList:
    """List the connections whose provider says that a limit of money is reached."""
    found = ledger.spending_limits.find() if viewer.visible(ledger.dag_ids()) else []
    return schemas.SpendingLimitList.model_validate({"limits": [vars(each) for each in found]})


@router.post("/spending-limits/try")
def try_spending_limit(body: schemas.TryLimitBody, viewer: ViewerDep, ledger: LedgerDep) -> schemas.SpendingLimitList:
    """Have it found out at once whether the limit of a connection is still reached. Empty where none is."""
    check_may_pause(ledger, viewer, None)
    limit = ledger.spending_limits.try_now(body.conn_id)
    return schemas.SpendingLimitList.model_validate({"limits": [] if limit is None else [vars(limit)]})


def pause_fields(ledger: Ledger, pause: Pause) -> dict[str, Any]:
    """A pause as the API shows it."""
    held = ledger.pauses.held(pause)
    by = {"begun_by": pause.by.label, "ended_by": None if pause.ended_by is None else pause.ended_by.label}
    return {**vars(pause), **by, "held_requests": held.requests, "held_writes": held.writes, "running": held.running}
