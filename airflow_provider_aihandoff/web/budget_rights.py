"""Who may see a budget and who may change it: as with everything else, by what they may do to the Dags it is about."""

from __future__ import annotations

from airflow_provider_aihandoff.core.budgets.bill_store import BillDay
from airflow_provider_aihandoff.core.budgets.budget_store import BudgetView
from airflow_provider_aihandoff.core.errors import BudgetNotFound, HandoffError
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.web.auth import Viewer


class BudgetForbidden(HandoffError):
    """The user may see the budget, but not make or change one of this scope."""


def visible_budgets(ledger: Ledger, viewer: Viewer, *, ended: bool = False) -> list[BudgetView]:
    """The budgets that are about a Dag which the user may see."""
    found = ledger.budgets.find(ended=ended)
    if not found:
        return []
    named = {view.budget.dag_id for view in found if view.budget.dag_id is not None}
    dag_ids = set(viewer.visible({*ledger.dag_ids(), *named}))
    return [view for view in found if _is_seen(view, dag_ids)]


def visible_budget(ledger: Ledger, viewer: Viewer, which: str) -> BudgetView:
    """Return one budget.

    :param which: the name or the id.
    :raises BudgetNotFound: there is none, or the user may not see it. The error does not say which.
    """
    hidden = BudgetNotFound(f"there is no budget {which!r}, or you may not see it.", written="")
    try:
        view = ledger.budgets.read(which)
    except BudgetNotFound:
        raise hidden from None
    dag_ids = ledger.dag_ids() if view.budget.dag_id is None else [view.budget.dag_id]
    if not _is_seen(view, set(viewer.visible(dag_ids))):
        raise hidden
    return view


def visible_bill(ledger: Ledger, viewer: Viewer, days: int) -> list[BillDay]:
    """What was compared with the provider's bill in the last days, for a user who may see every Dag that has a job.

    A bill is about a project, and names no Dag.
    """
    dag_ids = ledger.dag_ids()
    if not dag_ids or set(viewer.visible(dag_ids)) != set(dag_ids):
        return []
    return ledger.bills.find(days)


def _is_seen(view: BudgetView, dag_ids: set[str]) -> bool:
    return bool(dag_ids) if view.budget.dag_id is None else view.budget.dag_id in dag_ids


def check_may_change(ledger: Ledger, viewer: Viewer, dag_id: str | None) -> None:
    """Return when the user may make and change budgets of a scope: they may act on the jobs of every Dag in it.

    :param dag_id: the only Dag of the scope; None for all that have a job.
    :raises BudgetForbidden: they may not.
    """
    dag_ids = [dag_id] if dag_id is not None else ledger.dag_ids()
    allowed = viewer.answerable(dag_ids)
    if dag_ids and set(dag_ids) <= set(allowed):
        return
    which = f"the Dag {dag_id}" if dag_id is not None else "every Dag that has a job"
    raise BudgetForbidden(
        f"you need permission to answer human-in-the-loop tasks of {which}.",
        written="Nothing was recorded. This request made no external write.",
        remedy="" if dag_id is not None else "Name a Dag of yours instead.",
    )


def may_change(ledger: Ledger, viewer: Viewer, dag_id: str | None) -> bool:
    """The same as an answer."""
    try:
        check_may_change(ledger, viewer, dag_id)
    except BudgetForbidden:
        return False
    return True
