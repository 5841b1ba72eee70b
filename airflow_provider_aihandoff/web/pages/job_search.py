"""The page of all jobs with its filter, and the list as a file. The address holds the filter."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from pydantic_core import to_jsonable_python

from airflow_provider_aihandoff.core.csv_text import as_csv
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter, Need, Sort
from airflow_provider_aihandoff.core.jobs.job_search_store import JobSummary
from airflow_provider_aihandoff.core.states import TERMINAL_JOB_STATES, JobState
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep, visible_dag_ids
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.job_query import JobFilterDep
from airflow_provider_aihandoff.web.links import path_to, review_of_set
from airflow_provider_aihandoff.web.pages.refreshing import LIST, refreshing
from airflow_provider_aihandoff.web.render.environment import page

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

PAGE_SIZE = 100

#: How many jobs a file holds.
MAX_IN_FILE = 10_000

#: The fields of the form that are a text, with their labels and what to write, as an example.
TEXTS = {
    "type": ("Type", ""),
    "key": ("Key begins with", ""),
    "dag_id": ("Dag", ""),
    "run_id": ("Run", ""),
    "task_id": ("Task", "needs a Dag"),
    "requester": ("Requested by", ""),
    "reviewer": ("Decided by", ""),
    "older_than": ("Older than", "7d"),
    "newer_than": ("Newer than", "12h"),
    "min_cost": ("Cost at least", "0.50"),
    "min_retries": ("Retries at least", "1"),
    "external_id": ("External id", ""),
    "response_id": ("Response id", ""),
    "error": ("Words of the error", ""),
    "set": ("Set", "the id"),
}


@router.get("/jobs", name="jobs_page")
def jobs_page(
    request: Request, viewer: ViewerDep, ledger: LedgerDep, wanted: JobFilterDep, after: schemas.JobId | None = None
) -> Response:
    """List the jobs that the user may see and the filter is about."""
    problem, found = wanted.problem(), []
    dag_ids = visible_dag_ids(ledger, viewer, wanted.dag_id)
    if problem is None:
        found = ledger.search.page(wanted, dag_ids=dag_ids, after=after, limit=PAGE_SIZE + 1)
    jobs = found[:PAGE_SIZE]
    texts = wanted.as_texts()
    return page(
        request,
        "job_search.html",
        {
            "viewer": viewer,
            "wanted": wanted,
            "texts": texts,
            "fields": TEXTS,
            "states": list(JobState),
            "needs": list(Need),
            "sorts": list(Sort),
            "problem": problem,
            "jobs": jobs,
            "ended": TERMINAL_JOB_STATES,
            "further": after is not None,
            "next": address(request, "jobs_page", wanted, after=jobs[-1].job_id) if len(found) > PAGE_SIZE else None,
            "refreshes": refreshing(
                request, LIST, moves=problem is None and any(ledger.search.count_open(dag_ids=dag_ids).values())
            ),
            "files": {form: address(request, "jobs_file", wanted, form=form) for form in ("csv", "json")},
            "max_in_file": MAX_IN_FILE,
            "bulk": None if wanted.is_empty else address(request, "bulk_page", wanted),
            "bulk_review": None if wanted.set_id is None else review_of_set(request, wanted.set_id),
        },
        status=200 if problem is None else 422,
    )


@router.get("/jobs.{form}", name="jobs_file")
def jobs_file(form: Literal["csv", "json"], viewer: ViewerDep, ledger: LedgerDep, wanted: JobFilterDep) -> Response:
    """The same list as a file, without pages."""
    dag_ids = visible_dag_ids(ledger, viewer, wanted.dag_id)
    rows = [_row(job) for job in ledger.search.page(wanted, dag_ids=dag_ids, limit=MAX_IN_FILE)]
    if form == "json":
        body, media_type = json.dumps(rows, indent=1), "application/json"
    else:
        body, media_type = as_csv(rows, [each.name for each in fields(JobSummary)]), "text/csv; charset=utf-8"
    name = f'attachment; filename="jobs.{form}"'
    return Response(body.encode("utf-8", "replace"), media_type=media_type, headers={"Content-Disposition": name})


def address(request: Request, route: str, wanted: JobFilter, form: str | None = None, **more: Any) -> str:
    """The address of a page about these jobs.

    :param form: of the route of a file.
    """
    path = path_to(request, route, **({} if form is None else {"form": form}))
    query = urlencode({**wanted.as_texts(), **more}, doseq=True)
    return f"{path}?{query}" if query else path


def _row(job: JobSummary) -> dict[str, Any]:
    row: dict[str, Any] = to_jsonable_python({each.name: getattr(job, each.name) for each in fields(job)})
    return row
