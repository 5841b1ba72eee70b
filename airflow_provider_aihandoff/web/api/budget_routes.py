"""Budgets, for programs: seen, made, changed, raised for once and ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter

from airflow_provider_aihandoff.core.amounts import checked_amount
from airflow_provider_aihandoff.core.budgets.budget_spec import checked_changes, checked_spec
from airflow_provider_aihandoff.core.budgets.budget_store import BudgetView
from airflow_provider_aihandoff.core.budgets.spent_by import SpentBy
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.web.api import budget_schemas, schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep, visible_dag_ids
from airflow_provider_aihandoff.web.budget_rights import check_may_change, visible_bill, visible_budget, visible_budgets
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import API_PREFIX
from airflow_provider_aihandoff.web.problems import AsciiJSONResponse

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem} for status in (401, 403, 404, 422, 503)
}

router = APIRouter(
    prefix=f"{API_PREFIX}/budgets",
    tags=["Budgets"],
    default_response_class=AsciiJSONResponse,
    route_class=GuardedRoute,
    responses=_PROBLEMS,
)


@router.get("")
def list_budgets(viewer: ViewerDep, ledger: LedgerDep, ended: bool = False) -> budget_schemas.BudgetList:
    """List the budgets that are about a Dag which you may see; with `ended`, also those that have ended."""
    found = [_item(view) for view in visible_budgets(ledger, viewer, ended=ended)]
    return budget_schemas.BudgetList.model_validate({"budgets": found})


@router.get("/spending")
def get_spending(
    viewer: ViewerDep,
    ledger: LedgerDep,
    by: SpentBy = SpentBy.DAY,
    days: budget_schemas.Days = 30,
) -> budget_schemas.SpendingList:
    """Return what was spent on the jobs of the Dags that you may see, by day or by anything else."""
    since = ledger.now() - timedelta(days=days)
    found = ledger.spending.by(by, since=since, dag_ids=visible_dag_ids(ledger, viewer))
    return budget_schemas.SpendingList.model_validate({"spending": found})


@router.get("/bill")
def get_bill(viewer: ViewerDep, ledger: LedgerDep, days: budget_schemas.Days = 30) -> budget_schemas.BillDays:
    """Return what OpenAI has billed beside what the ledger knows of. Empty unless you may see every Dag with a job."""
    return budget_schemas.BillDays.model_validate({"bill": visible_bill(ledger, viewer, days)})


@router.post("")
def add_budget(body: budget_schemas.BudgetBody, viewer: ViewerDep, ledger: LedgerDep) -> budget_schemas.BudgetDetail:
    """Add a budget. It is kept from now on, before each request is sent, in the whole fleet."""
    spec = checked_spec(
        body.name,
        body.amount_usd,
        scope=body.scope.model_dump(),
        period=body.period,
        time_zone=body.time_zone,
        thresholds=body.thresholds,
        on_full=body.on_full,
        owner=body.owner or viewer.actor.name,
    )
    check_may_change(ledger, viewer, spec.scope.dag_id)
    budget = ledger.budgets.add(spec, why=body.reason, actor=viewer.actor)
    return _detail(ledger, budget.budget_id)


@router.get("/{budget_id}")
def get_budget(budget_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep) -> budget_schemas.BudgetDetail:
    """Return one budget with its periods and its history."""
    return _detail(ledger, visible_budget(ledger, viewer, str(budget_id)).budget.budget_id)


@router.post("/{budget_id}/change")
def change_budget(
    budget_id: schemas.JobId, body: budget_schemas.ChangeBody, viewer: ViewerDep, ledger: LedgerDep
) -> budget_schemas.BudgetDetail:
    """Change a budget from now on. A new amount holds for the current period at once."""
    budget = visible_budget(ledger, viewer, str(budget_id)).budget
    check_may_change(ledger, viewer, budget.dag_id)
    wanted = body.model_dump(exclude={"reason"}, exclude_none=True)
    ledger.budgets.change(str(budget_id), why=body.reason, actor=viewer.actor, **checked_changes(wanted))
    return _detail(ledger, budget_id)


@router.post("/{budget_id}/raise")
def raise_budget(
    budget_id: schemas.JobId, body: budget_schemas.RaiseBody, viewer: ViewerDep, ledger: LedgerDep
) -> budget_schemas.BudgetDetail:
    """Give a budget more for its current period alone. Jobs that wait go on. Sent twice, it is raised twice."""
    check_may_change(ledger, viewer, visible_budget(ledger, viewer, str(budget_id)).budget.dag_id)
    amount = checked_amount(body.amount_usd)
    ledger.budgets.raise_once(str(budget_id), amount, why=body.reason, actor=viewer.actor)
    return _detail(ledger, budget_id)


@router.post("/{budget_id}/end")
def end_budget(
    budget_id: schemas.JobId, body: budget_schemas.EndBody, viewer: ViewerDep, ledger: LedgerDep
) -> budget_schemas.BudgetDetail:
    """End a budget: no request asks it from now on."""
    check_may_change(ledger, viewer, visible_budget(ledger, viewer, str(budget_id)).budget.dag_id)
    ledger.budgets.end(str(budget_id), why=body.reason, actor=viewer.actor)
    return _detail(ledger, budget_id)


def _item(view: BudgetView) -> dict[str, Any]:
    scope = {name: value for name, value in vars(view.budget.scope).items() if value is not None}
    return {
        **vars(view.budget),
        "scope": scope,
        "use": view.use,
        "forecast_usd": view.use.forecast_usd(view.at),
        "held": view.held,
        "held_since": view.held_since,
    }


def _detail(ledger: Ledger, budget_id: int) -> budget_schemas.BudgetDetail:
    view = ledger.budgets.read(str(budget_id))
    history = [
        {**vars(line), "by": line.by.label, "reason": line.why} for line in ledger.budgets.events(view.budget.budget_id)
    ]
    more = {
        "periods": ledger.budgets.periods(budget_id),
        "history": history,
        "warning": ledger.budgets.warning(view.budget),
    }
    return budget_schemas.BudgetDetail.model_validate({**_item(view), **more})
