"""The list of sets, and the page of one: how far its jobs have come, and the way to each of them."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from airflow_provider_aihandoff.core.sets.set_record import SetPhase
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep, visible_dag_ids, visible_set
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.pages.refreshing import JOB, LIST, refreshing
from airflow_provider_aihandoff.web.render.environment import page
from airflow_provider_aihandoff.web.render.set_bar import BAR_HEIGHT, BAR_WIDTH, bar_of

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

PAGE_SIZE = 50


@router.get("/sets", name="sets_page")
def list_sets(request: Request, viewer: ViewerDep, ledger: LedgerDep, before: schemas.JobId | None = None) -> Response:
    """List the sets that the user may see."""
    found = ledger.sets.newest(dag_ids=visible_dag_ids(ledger, viewer), before=before, limit=PAGE_SIZE + 1)
    sets, totals = found[:PAGE_SIZE], ledger.sets.totals([each.set_id for each in found])
    rows = [(each, totals[each.set_id], totals[each.set_id].phase(each)) for each in sets]
    further = f"{path_to(request, 'sets_page')}?before={sets[-1].set_id}" if len(found) > PAGE_SIZE else None
    moves = any(phase is not SetPhase.ENDED for _, _, phase in rows)
    return page(
        request,
        "sets.html",
        {"viewer": viewer, "rows": rows, "next": further, "refreshes": refreshing(request, LIST, moves=moves)},
    )


@router.get("/sets/{set_id}", name="show_set")
def show_set(request: Request, set_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Show one set."""
    found = visible_set(ledger, viewer, set_id)
    totals = ledger.sets.total(set_id)
    phase = totals.phase(found)
    counted = [(state, totals.states[state]) for state in JobState if totals.states.get(state)]
    return page(
        request,
        "set.html",
        {
            "viewer": viewer,
            "set": found,
            "totals": totals,
            "phase": phase,
            "left_out": found.without_job,
            "batches": ledger.batches.of_set(set_id),
            "bar": bar_of(counted),
            "width": BAR_WIDTH,
            "height": BAR_HEIGHT,
            "links": {state: _jobs(request, set_id, state=state.value) for state, _ in counted},
            "unknown_link": _jobs(request, set_id, need="unknown effect"),
            "jobs_link": _jobs(request, set_id),
            "refreshes": refreshing(request, JOB, moves=phase is not SetPhase.ENDED),
        },
    )


def _jobs(request: Request, set_id: int, **more: str) -> str:
    """The address of the list of jobs with those of a set."""
    return f"{path_to(request, 'jobs_page')}?{urlencode({'set': set_id, **more})}"
