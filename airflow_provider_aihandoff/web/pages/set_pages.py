"""The list of sets, and the page of one: how far its jobs have come, and the way to each of them."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.jobs.job_search_store import JobSummary
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.sets.pause_set import pause_set, pauses_of, resume_set
from airflow_provider_aihandoff.core.sets.set_record import SetPhase
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import (
    LedgerDep,
    ViewerDep,
    check_may_pause,
    may_pause,
    visible_dag_ids,
    visible_set,
)
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import path_to, review_of_set
from airflow_provider_aihandoff.web.pages.refreshing import JOB, LIST, refreshing
from airflow_provider_aihandoff.web.render.environment import page
from airflow_provider_aihandoff.web.render.set_bar import BAR_HEIGHT, BAR_WIDTH, bar_of

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

PAGE_SIZE = 50

#: Of the slowest jobs, and of those that failed, so many are named.
MAX_NAMED = 5


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
            "review_link": review_of_set(request, set_id),
            "writes": ledger.sets.writes(set_id),
            "slowest": ledger.sets.slowest(set_id, limit=MAX_NAMED),
            "failed": _failed(ledger, set_id),
            "pauses": pauses_of(ledger, set_id),
            "may_pause": may_pause(ledger, viewer, found.dag_id),
            "cancel_link": _bulk(request, set_id, BulkAction.CANCEL, JobState.QUEUED),
            "roll_back_link": _bulk(request, set_id, BulkAction.ROLL_BACK, JobState.COMPLETED, JobState.APPLYING),
            "max_comment": schemas.MAX_COMMENT,
            "refreshes": refreshing(request, JOB, moves=phase is not SetPhase.ENDED),
        },
    )


@router.post("/sets/{set_id}/pause", name="pause_set")
def pause(
    request: Request,
    set_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    reason: Annotated[schemas.Reason, Form()],
) -> Response:
    """Hold each request and each write of a set."""
    found = visible_set(ledger, viewer, set_id)
    check_may_pause(ledger, viewer, found.dag_id)
    pause_set(ledger, found, reason=reason, actor=viewer.actor)
    return RedirectResponse(path_to(request, "show_set", set_id=set_id), 303)


@router.post("/sets/{set_id}/resume", name="resume_set")
def resume(
    request: Request,
    set_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    reason: Annotated[schemas.Reason, Form()],
) -> Response:
    """End each pause of a set."""
    found = visible_set(ledger, viewer, set_id)
    check_may_pause(ledger, viewer, found.dag_id)
    resume_set(ledger, found, reason=reason, actor=viewer.actor)
    return RedirectResponse(path_to(request, "show_set", set_id=set_id), 303)


def _failed(ledger: Ledger, set_id: int) -> list[JobSummary]:
    """The newest jobs of a set that have failed."""
    return ledger.search.page(JobFilter(states=(JobState.FAILED,), set_id=set_id), limit=MAX_NAMED)


def _bulk(request: Request, set_id: int, action: BulkAction, *states: JobState) -> str:
    """The address of a bulk action on the jobs of a set in some states, before it is confirmed."""
    wanted = JobFilter(states=states, set_id=set_id).as_texts()
    return f"{path_to(request, 'bulk_page')}?{urlencode({**wanted, 'action': action.value}, doseq=True)}"


def _jobs(request: Request, set_id: int, **more: str) -> str:
    """The address of the list of jobs with those of a set."""
    return f"{path_to(request, 'jobs_page')}?{urlencode({'set': set_id, **more})}"
