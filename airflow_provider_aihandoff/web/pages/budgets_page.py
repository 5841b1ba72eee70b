"""The pages of budgets: how much of each is used, who waits for room, what was changed, and raising one for once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from airflow_provider_aihandoff.core.amounts import checked_amount
from airflow_provider_aihandoff.core.budgets.budget_spec import Use, usd
from airflow_provider_aihandoff.core.budgets.budget_store import BudgetView
from airflow_provider_aihandoff.core.errors import BudgetRefused
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, Viewer, ViewerDep
from airflow_provider_aihandoff.web.budget_rights import check_may_change, may_change, visible_budget, visible_budgets
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.render.environment import page
from airflow_provider_aihandoff.web.request_body import TypedDep

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

#: The width of a bar, in units of its picture: what is beyond the amount is cut off.
WIDTH = 200


@dataclass(frozen=True)
class Bar:
    """A picture of one period.

    :param settled: units of :data:`WIDTH`, as ``reserved`` is, which is drawn after it.
    :param said: the same in words.
    """

    settled: float
    reserved: float
    said: str


@dataclass(frozen=True)
class Row:
    """One period, with its picture and its amounts in words."""

    use: Use
    bar: Bar
    forecast: str


@router.get("/budgets", name="budgets_page")
def show_all(request: Request, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """List the budgets that are about a Dag which the user may see."""
    found = [(view, row_of(view)) for view in visible_budgets(ledger, viewer)]
    return page(request, "budgets.html", {"viewer": viewer, "found": found, "usd": usd, "bar_width": WIDTH})


@router.get("/budgets/{budget_id}", name="budget_page")
def show_one(request: Request, budget_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Show one budget with its periods and its history, and what can be done."""
    return _page(request, viewer, ledger, visible_budget(ledger, viewer, str(budget_id)))


@router.post("/budgets/{budget_id}/raise", name="raise_for_once")
def raise_for_once(
    request: Request,
    budget_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    typed: TypedDep,
    amount: Annotated[str, Form(max_length=100)],
    reason: Annotated[schemas.Reason, Form()],
    seen: Annotated[int, Form(ge=0, le=schemas.MAX_ID)],
) -> Response:
    """Give a budget more for its current period. The same form, sent twice, counts once.

    :param seen: the number of the newest line of the history that the user saw.
    """
    view = visible_budget(ledger, viewer, str(budget_id))
    check_may_change(ledger, viewer, view.budget.dag_id)
    try:
        ledger.budgets.raise_once(str(budget_id), checked_amount(amount), why=reason, actor=viewer.actor, seen=seen)
    except BudgetRefused as error:
        return _page(request, viewer, ledger, view, refused=error, typed={**typed, "amount": amount})
    return RedirectResponse(path_to(request, "budget_page", budget_id=budget_id), 303)


def _page(
    request: Request,
    viewer: Viewer,
    ledger: Ledger,
    view: BudgetView,
    *,
    refused: BudgetRefused | None = None,
    typed: dict[str, str] | None = None,
) -> Response:
    events = ledger.budgets.events(view.budget.budget_id)
    return page(
        request,
        "budget.html",
        {
            "viewer": viewer,
            "view": view,
            "row": row_of(view),
            "periods": [row_of(view, use) for use in ledger.budgets.periods(view.budget.budget_id)],
            "events": list(reversed(events)),
            "seen": len(events),
            "may_change": view.budget.ended_at is None and may_change(ledger, viewer, view.budget.dag_id),
            "refused": refused,
            "typed": {"amount": "", "reason": "", **(typed or {})},
            "usd": usd,
            "bar_width": WIDTH,
            "max_comment": schemas.MAX_COMMENT,
        },
        status=200 if refused is None else 422,
    )


def row_of(view: BudgetView, use: Use | None = None) -> Row:
    """One period of a budget, by default the current one. Pure."""
    use = use or view.use
    forecast = use.forecast_usd(view.at)
    return Row(use, bar_of(use), "" if forecast is None else usd(round(forecast, 2)))


def bar_of(use: Use) -> Bar:
    """The picture of one period. Pure."""
    settled = min(WIDTH, float(WIDTH * use.settled_usd / use.amount_usd))
    reserved = min(WIDTH - settled, float(WIDTH * use.reserved_usd / use.amount_usd))
    said = (
        f"{usd(use.settled_usd)} spent, {usd(use.reserved_usd)} reserved, {usd(use.room_usd)} left of "
        f"{usd(use.amount_usd)}"
    )
    return Bar(round(settled, 1), round(reserved, 1), said)
