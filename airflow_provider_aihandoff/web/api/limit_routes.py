"""Limits of speed, for programs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from airflow_provider_aihandoff.core.rates.rate_limit import PERIODS
from airflow_provider_aihandoff.core.rates.rate_limit_store import LimitState
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep, check_may_set_limits
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import API_PREFIX
from airflow_provider_aihandoff.web.problems import AsciiJSONResponse

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem} for status in (401, 403, 404, 422, 503)
}

router = APIRouter(
    prefix=f"{API_PREFIX}/limits",
    tags=["Limits"],
    default_response_class=AsciiJSONResponse,
    route_class=GuardedRoute,
    responses=_PROBLEMS,
)


@router.get("")
def list_limits(viewer: ViewerDep, ledger: LedgerDep) -> schemas.LimitList:
    """List the limits of speed in force, how much of each is used, and how many wait for it."""
    found = ledger.rate_limits.find() if viewer.visible(ledger.dag_ids()) else []
    return schemas.LimitList.model_validate({"limits": [_fields(each) for each in found]})


@router.post("")
def set_limit(body: schemas.LimitBody, viewer: ViewerDep, ledger: LedgerDep) -> schemas.LimitList:
    """Set a limit, or change it, from the next request on. 0 stops."""
    check_may_set_limits(ledger, viewer)
    limit = ledger.rate_limits.set(
        body.kind,
        body.name,
        body.measure,
        body.amount,
        period=None if body.per is None else PERIODS[body.per],
        weights=body.weights,
        reason=body.reason,
        actor=viewer.actor,
    )
    found = [each for each in ledger.rate_limits.find() if each.limit.limit_id == limit.limit_id]
    return schemas.LimitList.model_validate({"limits": [_fields(each) for each in found]})


@router.post("/end")
def end_limit(body: schemas.EndLimitBody, viewer: ViewerDep, ledger: LedgerDep) -> schemas.LimitList:
    """End a limit: what waits for it continues."""
    check_may_set_limits(ledger, viewer)
    ledger.rate_limits.end(body.kind, body.name, body.measure, reason=body.reason, actor=viewer.actor)
    return list_limits(viewer, ledger)


def _fields(state: LimitState) -> dict[str, Any]:
    names = ("kind", "name", "measure", "amount", "period", "weights", "said")
    return {
        **{name: getattr(state.limit, name) for name in names},
        **{name: getattr(state, name) for name in ("now", "used", "waiting", "waiting_since")},
        "paused_until": state.limit.closed_until if state.paused else None,
    }
