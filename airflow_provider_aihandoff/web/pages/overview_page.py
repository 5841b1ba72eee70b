"""The overview, the first page of an operator: what needs a person now, and the state of things."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

from fastapi import APIRouter, Request, Response

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.amounts import dollars
from airflow_provider_aihandoff.core.errors import LedgerSchemaError
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.jobs.needs import Cause, counted
from airflow_provider_aihandoff.core.jobs.overview import overview_of
from airflow_provider_aihandoff.core.jobs.overview_store import DAYS, SAMPLE, Figures
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.heartbeats import live_triggerers
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep, visible_dag_ids
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.pages.job_search import address
from airflow_provider_aihandoff.web.pages.refreshing import OVERVIEW, refreshing
from airflow_provider_aihandoff.web.render.chart import Chart, chart
from airflow_provider_aihandoff.web.render.environment import page
from airflow_provider_aihandoff.web.render.formatting import span_of_time

log = logging.getLogger(__name__)

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)


@dataclass(frozen=True)
class Item:
    """Something that needs a person now.

    :param number: how many, as text; empty where it is one thing.
    :param link: the page of exactly these.
    """

    title: str
    number: str
    what: str
    link: str | None = None


@router.get("/overview", name="overview_page")
def overview(request: Request, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Show what needs a person now, and the state of things, as far as the user may see it."""
    doctor = path_to(request, "doctor_page") if viewer.may_run_doctor else None
    try:
        ledger.check_schema()
    except LedgerSchemaError as error:
        item = Item(
            "The ledger does not fit this release", "", f"{error.what[:1].upper()}{error.what[1:]} {error.remedy}"
        )
        nothing = {"found": None, "doctor": doctor, "refreshes": None}
        return page(request, "overview.html", {"viewer": viewer, "items": [item], **nothing}, status=503)
    silence = settings.number("webhook_silence")
    dag_ids, quiet_after = visible_dag_ids(ledger, viewer), settings.quiet_after()
    found = overview_of(ledger, dag_ids, silence=silence)
    figures = found.figures
    by_state = figures.by_state
    return page(
        request,
        "overview.html",
        {
            "viewer": viewer,
            "items": [
                *(_item(request, cause, doctor) for cause in found.needs.causes),
                *_triggerers(),
            ],
            "doctor": doctor,
            "found": found,
            "states": [
                (state, by_state[state], address(request, "jobs_page", JobFilter(states=(state,))))
                for state in JobState
                if state in by_state
            ],
            "charts": charts_of(figures),
            "quiet": ledger.signs.quiet(dag_ids, quiet_after),
            "quiet_after": quiet_after,
            "silent": {each.conn_id for each in found.needs.silent},
            "sample": SAMPLE,
            "days": DAYS,
            "refreshes": refreshing(request, OVERVIEW, moves=bool(figures.open)),
        },
    )


def _item(request: Request, cause: Cause, doctor: str | None) -> Item:
    if cause.holds:
        return Item(cause.title, "", cause.message, path_to(request, "pauses_page"))
    if cause.waited_for:
        return Item(cause.title, counted(cause.count), cause.message, path_to(request, "limits_page"))
    if cause.need is not None:
        return Item(
            cause.title,
            counted(cause.count),
            cause.message,
            address(request, "jobs_page", JobFilter(need=cause.need)),
        )
    if cause.budget_id is not None:
        page_of = path_to(request, "budget_page", budget_id=cause.budget_id)
        return Item(cause.title, f"{cause.count:,} held", cause.message, page_of)
    if cause.conn_id is None:
        return Item(cause.title, counted(cause.count), cause.message, path_to(request, "inbox_page"))
    return Item(cause.title, "", cause.message, doctor)


def _triggerers() -> list[Item]:
    """That no triggerer is alive, where Airflow's database can say so."""
    try:
        alive = live_triggerers()
    except Exception as error:  # noqa: BLE001 - the other figures are shown all the same
        log.warning("Airflow's database does not say which triggerers are alive: %s", type(error).__name__)
        return []
    what = (
        "Deferred tasks do not go on: no answer of the model, and no decision, is seen. Start one: airflow triggerer."
    )
    return [] if alive else [Item("No triggerer has a heartbeat", "", what)]


def charts_of(figures: Figures) -> list[Chart]:
    """The pictures, those left out of which there is no figure."""
    ended: Counter[tuple[date, str]] = Counter()
    cost: dict[tuple[date, str], Decimal] = defaultdict(Decimal)
    by_type: Counter[str] = Counter()
    for each in figures.days:
        ended[each.day, each.job_type] += each.jobs
        cost[each.day, each.job_type] += each.cost_usd
        by_type[each.job_type] += each.jobs
    types = [of_type for of_type, _ in by_type.most_common()]
    common: dict[str, Any] = {"types": types, "until": figures.today, "number_of_days": DAYS}
    drawn = [
        chart(
            "throughput",
            "Jobs that ended",
            [(*which, number) for which, number in ended.items()],
            kind="bars",
            text=lambda value: f"{value:,.0f}",
            whole=True,
            **common,
        ),
        chart(
            "cost",
            "Cost of the jobs that ended",
            [(*which, float(amount)) for which, amount in cost.items()],
            kind="bars",
            text=lambda value: dollars(Decimal(str(value))) if value else "$0",
            **common,
        ),
        chart(
            "model",
            "Waiting time for the model",
            [(each.day, each.job_type, each.model) for each in figures.waits if each.model is not None],
            kind="points",
            text=span_of_time,
            **common,
        ),
        chart(
            "people",
            "Waiting time for people",
            [(each.day, each.job_type, each.people) for each in figures.waits if each.people is not None],
            kind="points",
            text=span_of_time,
            **common,
        ),
    ]
    return [each for each in drawn if each is not None]
