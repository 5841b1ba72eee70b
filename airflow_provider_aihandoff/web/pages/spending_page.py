"""The page of what was spent, on what, and what became of it; and the same figures as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from decimal import Decimal
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from airflow_provider_aihandoff.core.amounts import dollars
from airflow_provider_aihandoff.core.budgets.budget_spec import usd
from airflow_provider_aihandoff.core.budgets.spending_store import THROWN_AWAY, Spent
from airflow_provider_aihandoff.core.budgets.spent_by import SpentBy
from airflow_provider_aihandoff.core.csv_text import as_csv
from airflow_provider_aihandoff.web.api.budget_schemas import Days
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep, visible_dag_ids
from airflow_provider_aihandoff.web.budget_rights import visible_bill, visible_budgets
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.pages.budgets_page import WIDTH, row_of
from airflow_provider_aihandoff.web.render.chart import Chart, chart
from airflow_provider_aihandoff.web.render.environment import page

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

#: Spans of time to choose from, in days. An address may name another one.
SPANS = (7, 30, 90, 365)

#: How many rows of each table stand on the page, the dearest ones.
ROWS = 20

#: What it is added up by, with the title of the table.
TITLES: Mapping[SpentBy, str] = {
    SpentBy.FATE: "what became of the job",
    SpentBy.TYPE: "type",
    SpentBy.DAG: "Dag",
    SpentBy.REQUESTER: "requester",
    SpentBy.MODEL: "model",
    SpentBy.TAG: "tag",
}


@dataclass(frozen=True)
class Group:
    """One table.

    :param rows: each with the width of its bar.
    :param left_out: how many more there are.
    :param file: the address of all of them as CSV.
    """

    by: SpentBy
    title: str
    rows: list[tuple[Spent, float]]
    left_out: int
    file: str


@router.get("/spending", name="spending_page")
def spending_page(request: Request, viewer: ViewerDep, ledger: LedgerDep, days: Days = 30) -> Response:
    """Show what was spent on the jobs of the Dags that the user may see, and what budgets come to."""
    now = ledger.now()
    found = ledger.spending.report(
        list(SpentBy), since=now - timedelta(days=days), dag_ids=visible_dag_ids(ledger, viewer)
    )
    total = added(found[SpentBy.FATE])
    thrown_away = added([each for each in found[SpentBy.FATE] if each.key in THROWN_AWAY])
    return page(
        request,
        "spending.html",
        {
            "viewer": viewer,
            "days": days,
            "spans": sorted({*SPANS, days}),
            "total": total,
            "thrown_away": thrown_away,
            "thrown_away_percent": round(100 * thrown_away.cost_usd / total.cost_usd) if total.cost_usd else 0,
            "chart": _chart(found[SpentBy.DAY], days, now),
            "days_file": _file(request, SpentBy.DAY, days),
            "groups": [_group(request, by, found[by], days) for by in TITLES],
            "budgets": [(view, row_of(view)) for view in visible_budgets(ledger, viewer)],
            "bill": visible_bill(ledger, viewer, days),
            "usd": usd,
            "bar_width": WIDTH,
        },
    )


@router.get("/spending.csv", name="spending_file")
def spending_file(viewer: ViewerDep, ledger: LedgerDep, by: SpentBy = SpentBy.DAY, days: Days = 30) -> Response:
    """The same figures as a file, all rows of one table."""
    since = ledger.now() - timedelta(days=days)
    rows = ledger.spending.report([by], since=since, dag_ids=visible_dag_ids(ledger, viewer))[by]
    text = as_csv([vars(each) for each in rows], [each.name for each in fields(Spent)])
    headers = {"Content-Disposition": f'attachment; filename="spending-by-{by.value}.csv"'}
    return Response(text.encode("utf-8", "replace"), media_type="text/csv; charset=utf-8", headers=headers)


def added(rows: Sequence[Spent]) -> Spent:
    """The sum of some rows. Pure."""
    cost_usd = sum((each.cost_usd for each in rows), Decimal(0))
    return Spent("", sum(each.responses for each in rows), cost_usd, sum(each.unpriced for each in rows))


def _group(request: Request, by: SpentBy, found: list[Spent], days: int) -> Group:
    """The table of one thing, the dearest first."""
    shown = found[:ROWS]
    most = max((each.cost_usd for each in shown), default=Decimal(0))
    widths = [round(float(WIDTH * each.cost_usd / most), 1) if most else 0.0 for each in shown]
    rows = list(zip(shown, widths, strict=True))
    return Group(by, TITLES[by], rows, len(found) - len(shown), _file(request, by, days))


def _file(request: Request, by: SpentBy, days: int) -> str:
    return f"{path_to(request, 'spending_file')}?{urlencode({'by': by.value, 'days': days})}"


def _chart(found: list[Spent], days: int, now: datetime) -> Chart | None:
    """What was spent each day; None where that is nothing."""
    points = [(date.fromisoformat(each.key), "cost", float(each.cost_usd)) for each in found]
    return chart(
        "spent",
        "Cost by day",
        points,
        kind="bars",
        types=["cost"],
        until=now.date(),
        number_of_days=days + 1,
        text=lambda value: dollars(Decimal(str(value))),
    )
