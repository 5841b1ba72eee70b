"""The page of limits of speed: how much of each is used, what waits for it and since when, and who has changed it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from airflow_provider_aihandoff.core.rates.rate_limit import MOST, PERIODS, LimitKind, Measure
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep, check_may_set_limits, may_set_limits
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.render.environment import page

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

#: Changes that the page lists of each limit.
MAX_CHANGES = 10

LimitedName = Annotated[str, Form(min_length=1, max_length=250)]


@router.get("/limits", name="limits_page")
def show(request: Request, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Show the limits in force."""
    found = ledger.rate_limits.find() if viewer.visible(ledger.dag_ids()) else []
    return page(
        request,
        "limits.html",
        {
            "viewer": viewer,
            "limits": [(each, ledger.rate_limits.changes(each.limit.limit_id, MAX_CHANGES)) for each in found],
            "may_set": may_set_limits(ledger, viewer),
            "kinds": {"openai": "OpenAI connection", "target": "Connection of a target", "key": "Key of tasks"},
            "measures": list(Measure),
            "periods": list(PERIODS),
            "most": MOST,
            "max_comment": schemas.MAX_COMMENT,
        },
    )


@router.post("/limits", name="change_limit")
def change(
    request: Request,
    viewer: ViewerDep,
    ledger: LedgerDep,
    kind: Annotated[LimitKind, Form()],
    name: LimitedName,
    measure: Annotated[Measure, Form()],
    amount: Annotated[int, Form(ge=0, le=MOST)],
    reason: Annotated[schemas.Reason, Form()],
    per: Annotated[str, Form(max_length=10)] = "",
) -> Response:
    """Set a limit, or change it. Its weights stay as they are."""
    check_may_set_limits(ledger, viewer)
    period = None if measure is Measure.IN_FLIGHT else PERIODS.get(per)
    ledger.rate_limits.set(kind, name, measure, amount, period=period, reason=reason, actor=viewer.actor)
    return RedirectResponse(path_to(request, "limits_page"), 303)


@router.post("/limits/end", name="remove_limit")
def end(
    request: Request,
    viewer: ViewerDep,
    ledger: LedgerDep,
    kind: Annotated[LimitKind, Form()],
    name: LimitedName,
    measure: Annotated[Measure, Form()],
    reason: Annotated[schemas.Reason, Form()],
) -> Response:
    """End a limit: what waits for it continues."""
    check_may_set_limits(ledger, viewer)
    ledger.rate_limits.end(kind, name, measure, reason=reason, actor=viewer.actor)
    return RedirectResponse(path_to(request, "limits_page"), 303)
