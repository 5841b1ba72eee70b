"""The page on which many jobs are compared in one table, and decided on together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from airflow_provider_aihandoff.core.errors import StaleBulkDecision
from airflow_provider_aihandoff.core.ledger import Candidate, Ledger
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, Viewer, ViewerDep
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.pages.bulk_table import GroupBy, group_of, key_of, table_of
from airflow_provider_aihandoff.web.pages.review_queue import QueuedReview, decide_in_bulk, review_queue
from airflow_provider_aihandoff.web.render.environment import page
from airflow_provider_aihandoff.web.render.formatting import label
from airflow_provider_aihandoff.web.request_body import FormDep

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

#: How many jobs the page shows, the oldest first. Others follow when these are decided.
MAX_JOBS = 1_000

TITLES = {
    GroupBy.TYPE: "Type",
    GroupBy.RUN: "Dag run",
    GroupBy.SHAPE: "Requests",
    GroupBy.OUTCOME: "Reason for review",
}


@dataclass(frozen=True)
class Refused:
    """Why a bulk decision that was just sent was not recorded.

    :param stale: why each of these jobs could not be decided on, by id.
    :param selected: the choices that were sent, as the page writes them.
    """

    title: str
    text: str
    stale: dict[int, str]
    selected: frozenset[str]
    comment: str = ""


@router.get("/bulk-review", name="bulk_review_page")
def bulk_review_page(
    request: Request,
    viewer: ViewerDep,
    ledger: LedgerDep,
    by: GroupBy = GroupBy.TYPE,
    group: str | None = None,
    select: Annotated[str | None, Query(pattern="^all$")] = None,
    dag_id: str | None = None,
    run_id: schemas.RunId = None,
) -> Response:
    """Show the review queue in groups, and the jobs of one group in a table."""
    scope = schemas.BulkScope(by=by, group=group or None, dag_id=dag_id or None, run_id=run_id or None)
    return _page(request, viewer, ledger, scope, select_all=select == "all")


@router.post("/bulk-review/decision", name="decide_bulk")
def decide(request: Request, viewer: ViewerDep, ledger: LedgerDep, form: FormDep) -> Response:
    """Approve or reject the selected jobs, each exactly as the page showed it, or none of them."""
    chosen = [text for text in form.getlist("job") if isinstance(text, str)]
    sent = _bulk_form({**{name: text for name, text in form.items() if name != "job"}, "jobs": chosen})
    if not chosen:
        nothing = Refused("No decision was recorded", "Select the jobs first.", {}, frozenset(), sent.comment or "")
        return _page(request, viewer, ledger, sent, refused=nothing, status=422)
    try:
        jobs = decide_in_bulk(ledger, viewer, sent.choices, sent.verdict, sent.comment)
    except StaleBulkDecision as error:
        stale = Refused(
            "No decision was recorded",
            "Some of the jobs have changed since you opened them. Review these again, or deselect them.",
            error.stale,
            frozenset(chosen),
            sent.comment or "",
        )
        return _page(request, viewer, ledger, sent, refused=stale, status=409)
    return page(request, "bulk_decided.html", {"viewer": viewer, "jobs": jobs, "verdict": sent.verdict, "scope": sent})


def _bulk_form(fields: dict[str, Any]) -> schemas.BulkForm:
    try:
        return schemas.BulkForm.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in error.errors()]) from error


def _page(
    request: Request,
    viewer: Viewer,
    ledger: Ledger,
    scope: schemas.BulkScope,
    *,
    select_all: bool = False,
    refused: Refused | None = None,
    status: int = 200,
) -> Response:
    """Render the groups, and the table of the chosen one."""
    waiting = review_queue(ledger, viewer, scope.dag_id, scope.run_id)
    on_page = waiting[:MAX_JOBS]
    candidates: dict[int, Candidate] = {}
    if scope.by is GroupBy.SHAPE:
        candidates = _candidates(ledger, on_page)
    groups = {
        queued.review.job_id: group_of(scope.by, queued.review, _effects(candidates, queued)) for queued in on_page
    }
    names = {key_of(name): name for name in groups.values()}
    group = scope.group if scope.group in names else next(iter(names), None) if len(names) == 1 else None
    members = [item for item in on_page if group and key_of(groups[item.review.job_id]) == group]
    candidates = candidates or _candidates(ledger, members)
    shown = [item for item in members if item.review.job_id in candidates]
    table = table_of([candidates[item.review.job_id] for item in shown])
    return page(
        request,
        "bulk_review.html",
        {
            "viewer": viewer,
            "scope": scope,
            "titles": TITLES,
            "groups": Counter(groups.values()),
            "yours": Counter(groups[item.review.job_id] for item in on_page if item.mine),
            "key_of": key_of,
            "group": group,
            "group_name": names.get(group or ""),
            "queued_by_job": {item.review.job_id: item for item in shown},
            "table": table,
            "labels": [" › ".join(map(label, path)) for path in table.columns],  # noqa: RUF001  as pages write it
            "jobs_path": path_to(request, "show_job", job_id=0).removesuffix("0"),
            "select_all": select_all,
            "refused": refused,
            "left_out": len(waiting) - len(on_page),
            "address": lambda **more: _address(request, scope, **more),
            "max_comment": schemas.MAX_COMMENT,
        },
        status=status,
    )


def _candidates(ledger: Ledger, wanted: Sequence[QueuedReview]) -> dict[int, Candidate]:
    """The jobs with their current output and plan; each is decided on by the digest of exactly these."""
    return {each.job.job_id: each for each in ledger.candidates([item.review.job_id for item in wanted])}


def _effects(candidates: dict[int, Candidate], queued: QueuedReview) -> Sequence[Any]:
    candidate = candidates.get(queued.review.job_id)
    return candidate.effects if candidate else ()


def _address(request: Request, scope: schemas.BulkScope, **more: str) -> str:
    """The path of this page, about the same Dag and run."""
    kept = {name: value for name, value in scope.model_dump(mode="json").items() if name in ("by", "dag_id", "run_id")}
    query = {name: value for name, value in {**kept, **more}.items() if value}
    return f"{path_to(request, 'bulk_review_page')}?{urlencode(query)}"
