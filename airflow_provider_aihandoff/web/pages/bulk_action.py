"""The pages of bulk actions: shown first, confirmed by their number, taken a while at a time, with a report."""

from __future__ import annotations

from functools import partial
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from airflow_provider_aihandoff.core.bulk.bulk_run import Preview, begin, preview, run
from airflow_provider_aihandoff.core.bulk.bulk_store import Bulk, BulkAction, Progress
from airflow_provider_aihandoff.core.bulk.bulk_totals import in_words
from airflow_provider_aihandoff.core.errors import BulkChanged, BulkNotFound
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.review.rules import Reviewers
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.task_states import ask_database, task_states
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, Viewer, ViewerDep, visible_dag_ids
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.job_query import JobFilterDep
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.render.environment import page
from airflow_provider_aihandoff.web.request_body import TypedDep
from airflow_provider_aihandoff.web.reviewers_form import (
    FIELDS,
    MAX_TEXT,
    QueriedReviewersDep,
    SentReviewersDep,
    as_address,
    reviewers_of,
)

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

#: Seconds for which one request takes steps. What is left is taken by the next one.
SECONDS = 10.0

#: Seconds for which the request that begins an action takes steps: then its page shows how far it has come.
FIRST_SECONDS = 2.0

#: Seconds after which the page of an action that is not over refreshes.
REFRESHES = 2

#: Jobs that a preview or a report lists; those that are refused come first.
MAX_LISTED = 500

MAX_RECENT = 20


@router.get("/bulk", name="bulk_page")
def bulk_page(
    request: Request,
    viewer: ViewerDep,
    ledger: LedgerDep,
    wanted: JobFilterDep,
    named: QueriedReviewersDep,
    action: BulkAction | None = None,
) -> Response:
    """Show what an action would do to the jobs of a filter, or the actions of the user."""
    reviewers = reviewers_of(named)
    if action is None or (action is BulkAction.REASSIGN and not reviewers):
        return _page(request, viewer, ledger, wanted, None, action=action, named=named)
    shown = previewed(ledger, viewer, action, wanted, reviewers)
    return _page(request, viewer, ledger, wanted, shown, action=action, named=named)


@router.post("/bulk", name="begin_bulk_action")
def begin_bulk(
    request: Request,
    viewer: ViewerDep,
    ledger: LedgerDep,
    typed: TypedDep,
    named: SentReviewersDep,
    action: Annotated[BulkAction, Form()],
    reason: Annotated[schemas.Reason, Form()],
    count: Annotated[int, Form(ge=0, le=schemas.MAX_ID)],
    digest: Annotated[schemas.Digest, Form()],
    wanted: Annotated[str, Form(max_length=20_000)],
) -> Response:
    """Begin an action that was confirmed as it was shown, and take its first steps."""
    found = JobFilter.of_address(wanted)
    shown = previewed(ledger, viewer, action, found, reviewers_of(named))
    try:
        bulk_id = begin(ledger, shown, count=count, digest=digest, reason=reason, actor=viewer.actor)
    except BulkChanged as error:
        return _page(request, viewer, ledger, found, shown, action=action, named=named, refused=error, typed=typed)
    take_steps(ledger, viewer, bulk_id, seconds=FIRST_SECONDS)
    return RedirectResponse(path_to(request, "show_bulk", bulk_id=bulk_id), 303)


@router.get("/bulk/{bulk_id}", name="show_bulk")
def show_bulk(request: Request, bulk_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Show how far an action of the user has come, and what came of each job. Until it is over, the page refreshes.

    While it is open, it continues the action as well, by the form that a person would send, unless it is paused.
    """
    bulk, progress = own_bulk(ledger, viewer, bulk_id), ledger.bulks.progress(bulk_id)
    report = ledger.bulks.report(bulk_id)
    paused = "paused" in request.query_params
    return page(
        request,
        "bulk_report.html",
        {
            "viewer": viewer,
            "bulk": bulk,
            "wanted": JobFilter.of_texts(bulk.wanted),
            "progress": progress,
            "refreshes": None if paused or progress.is_over else REFRESHES,
            "continues": not paused and progress.left > 0,
            "report": report[:MAX_LISTED],
            "more": max(0, len(report) - MAX_LISTED),
        },
    )


@router.post("/bulk/{bulk_id}/run", name="run_bulk_action")
def run_bulk(request: Request, bulk_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Take the next steps of an action of the user."""
    own_bulk(ledger, viewer, bulk_id)
    take_steps(ledger, viewer, bulk_id)
    return RedirectResponse(path_to(request, "show_bulk", bulk_id=bulk_id), 303)


def previewed(ledger: Ledger, viewer: Viewer, action: BulkAction, wanted: JobFilter, reviewers: Reviewers) -> Preview:
    """What an action would do to those jobs of a filter that the user may see.

    :param reviewers: who may decide then; none where it reassigns nothing.
    """
    dag_ids = visible_dag_ids(ledger, viewer, wanted.dag_id)
    return preview(
        ledger,
        action,
        wanted,
        answerable=viewer.answerable,
        actor=viewer.actor,
        dag_ids=dag_ids,
        reviewers=reviewers or None,
    )


def own_bulk(ledger: Ledger, viewer: Viewer, bulk_id: int) -> Bulk:
    """Return a bulk action.

    :raises BulkNotFound: there is none, or another user has begun it. The error does not say which.
    """
    bulk = ledger.bulks.read(bulk_id)
    if bulk.actor != viewer.actor:
        raise BulkNotFound(f"there is no bulk action {bulk_id}, or it is not yours.", written="")
    return bulk


def take_steps(ledger: Ledger, viewer: Viewer, bulk_id: int, *, seconds: float | None = None) -> Progress:
    """Take steps of an action of the user for a while. Rights are asked for each job when its step is taken.

    :param seconds: when to begin no further step; by default :data:`SECONDS`.
    """
    with providers() as provider_for:
        return run(
            ledger,
            bulk_id,
            provider_for=provider_for,
            states_of=partial(task_states, ask=ask_database),
            answerable=viewer.answerable,
            seconds=SECONDS if seconds is None else min(seconds, SECONDS),
        )


def _page(
    request: Request,
    viewer: Viewer,
    ledger: Ledger,
    wanted: JobFilter,
    shown: Preview | None,
    *,
    action: BulkAction | None,
    named: dict[str, str],
    refused: BulkChanged | None = None,
    typed: dict[str, str] | None = None,
) -> Response:
    steps = [] if shown is None else sorted(shown.steps, key=lambda step: not step.refused)
    return page(
        request,
        "bulk_action.html",
        {
            "viewer": viewer,
            "actions": {each: _address(request, each, wanted, named) for each in BulkAction},
            "action": action,
            "named": named,
            "fields": FIELDS,
            "max_names": MAX_TEXT,
            "filter_texts": wanted.as_texts(),
            "wanted": wanted,
            "address": wanted.as_address(),
            "shown": shown,
            "totals": [] if shown is None else in_words(shown.action, shown.totals),
            "refusals": {} if shown is None else shown.totals.refusals,
            "steps": steps[:MAX_LISTED],
            "more": max(0, len(steps) - MAX_LISTED),
            "refused": refused,
            "typed": (typed or {}).get("reason", ""),
            "recent": ledger.bulks.newest(viewer.actor, MAX_RECENT),
            "max_comment": schemas.MAX_COMMENT,
        },
        status=200 if refused is None else 409,
    )


def _address(request: Request, action: BulkAction, wanted: JobFilter, named: dict[str, str]) -> str:
    parts = [urlencode({"action": action}), wanted.as_address()]
    if action is BulkAction.REASSIGN and (people := as_address(named)):
        parts.append(people)
    return f"{path_to(request, 'bulk_page')}?{'&'.join(parts)}"
