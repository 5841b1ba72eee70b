"""The lists of jobs: in review, in progress, with unknown effects, done."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter, Need
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import TERMINAL_JOB_STATES, JobState
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import (
    LedgerDep,
    Viewer,
    ViewerDep,
    visible_dag_ids,
)
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.pages.refreshing import LIST, refreshing
from airflow_provider_aihandoff.web.pages.review_queue import queued, review_queue
from airflow_provider_aihandoff.web.render.environment import page

PAGE_SIZE = 100


class Tab(StrEnum):
    """A list of jobs."""

    REVIEW = "review"
    PROGRESS = "progress"
    UNKNOWN = "unknown"
    DONE = "done"
    ALL = "all"


@dataclass(frozen=True)
class TabView:
    """What a list shows.

    :param states: the states that it is about; empty for every state.
    :param empty: the heading and the sentence of an empty list.
    """

    title: str
    states: tuple[JobState, ...]
    empty: tuple[str, str]


_IN_PROGRESS = tuple(state for state in JobState if state not in TERMINAL_JOB_STATES and state is not JobState.REVIEW)

TABS = {
    Tab.REVIEW: TabView(
        "In review",
        (JobState.REVIEW,),
        ("The review queue is empty", "When a job's output is ready, it appears here with what it would write."),
    ),
    Tab.PROGRESS: TabView(
        "In progress",
        _IN_PROGRESS,
        ("No jobs are in progress", "Jobs appear here while the model works on them, and while their writes are made."),
    ),
    Tab.UNKNOWN: TabView(
        "Unknown effects",
        (),
        ("There are no unknown effects", "The outcome of every write is known."),
    ),
    Tab.DONE: TabView(
        "Done",
        tuple(state for state in JobState if state in TERMINAL_JOB_STATES),
        ("No jobs are done yet", "Completed, rejected, failed, cancelled and rolled back jobs appear here."),
    ),
    Tab.ALL: TabView("All", (), ("There are no jobs", "A job appears here as soon as a task requests it.")),
}

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)


@router.get("/")
def list_page(
    request: Request,
    viewer: ViewerDep,
    ledger: LedgerDep,
    tab: Tab = Tab.REVIEW,
    dag_id: str | None = None,
    run_id: schemas.RunId = None,
    after: schemas.JobId | None = None,
    number: Annotated[int, Query(alias="page", ge=1, le=1_000_000)] = 1,
) -> Response:
    """List the jobs that the user may see: in review those that wait for them first, elsewhere the newest first."""
    scope = {name: value for name, value in (("dag_id", dag_id), ("run_id", run_id)) if value}
    dag_ids = visible_dag_ids(ledger, viewer, dag_id or None)
    by_state = ledger.search.count_open(run_id=run_id or None, dag_ids=dag_ids)
    return page(
        request,
        "job_list.html",
        {
            "viewer": viewer,
            "tab": tab,
            "view": TABS[tab],
            "tabs": TABS,
            "counts": _counts(by_state),
            "refreshes": refreshing(request, LIST, moves=any(by_state.values())),
            "ended": TERMINAL_JOB_STATES,
            "scope": scope,
            "address": partial(_list_path, request, scope),
            "bulk_review": f"{path_to(request, 'bulk_review_page')}?{urlencode({'by': 'type', **scope})}",
            "further": after is not None or number > 1,
            **(
                _waiting(ledger, viewer, scope, number)
                if tab is Tab.REVIEW
                else _listed(ledger, viewer, tab, scope, after)
            ),
        },
    )


def _waiting(ledger: Ledger, viewer: Viewer, scope: dict[str, str], number: int) -> dict[str, Any]:
    """One page of the review queue."""
    waiting = review_queue(ledger, viewer, scope.get("dag_id"), scope.get("run_id"))
    on_page = queued(ledger, viewer, waiting.ids[(number - 1) * PAGE_SIZE : number * PAGE_SIZE])
    by_id = {item.review.job_id: item for item in on_page}
    summaries = {job.job_id: job for job in ledger.search.by_id(list(by_id))}
    return {
        "queued_by_job": by_id,
        "jobs": [summaries[job_id] for job_id in by_id if job_id in summaries],
        "mine": waiting.mine,
        "next": {"page": number + 1} if len(waiting.ids) > number * PAGE_SIZE else None,
    }


def _listed(ledger: Ledger, viewer: Viewer, tab: Tab, scope: dict[str, str], after: int | None) -> dict[str, Any]:
    """One page of any other list."""
    need = Need.UNKNOWN_EFFECT if tab is Tab.UNKNOWN else None
    found = ledger.search.page(
        JobFilter(states=TABS[tab].states, need=need, run_id=scope.get("run_id")),
        dag_ids=visible_dag_ids(ledger, viewer, scope.get("dag_id")),
        after=after,
        limit=PAGE_SIZE + 1,
    )
    jobs = found[:PAGE_SIZE]
    return {
        "queued_by_job": {},
        "jobs": jobs,
        "mine": 0,
        "next": {"after": jobs[-1].job_id} if len(found) > PAGE_SIZE else None,
    }


def _list_path(request: Request, scope: dict[str, str], tab: Tab, **more: Any) -> str:
    """The path of a list, about the same Dag or run."""
    return f"{path_to(request, 'list_page')}?{urlencode({'tab': tab.value, **scope, **more})}"


def _counts(by_state: dict[str, int]) -> dict[Tab, int]:
    """How many jobs are in the lists that may need an action."""
    return {
        Tab.REVIEW: by_state.get(JobState.REVIEW.value, 0),
        Tab.PROGRESS: sum(by_state.get(state.value, 0) for state in _IN_PROGRESS),
        Tab.UNKNOWN: by_state.get("unknown effects", 0),
    }
