"""The page on which many jobs are compared in one table, and decided on together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
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
from airflow_provider_aihandoff.web.pages.bulk_table import INPUT, GroupBy, group_of, key_of, size_of, table_of
from airflow_provider_aihandoff.web.pages.review_queue import QueuedReview, decide_in_bulk, review_queue
from airflow_provider_aihandoff.web.render.budget import MAX_CHARACTERS, Budget
from airflow_provider_aihandoff.web.render.environment import page
from airflow_provider_aihandoff.web.render.formatting import label
from airflow_provider_aihandoff.web.request_body import FormDep

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

#: How many jobs the page shows, the oldest first. Others follow when these are decided.
MAX_JOBS = 1_000

#: How many of them are read from the ledger at once, and how many characters of all are held. What a request repeats of
#: the output is not shown twice.
READ_AT_ONCE = 50
MAX_HELD = 2 * MAX_CHARACTERS

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
    groups = _groups(ledger, scope.by, on_page)
    names = {key_of(name): name for name in groups.values()}
    group = scope.group if scope.group in names else next(iter(names), None) if len(names) == 1 else None
    members = [item for item in on_page if group and key_of(groups[item.review.job_id]) == group]
    candidates = _that_fit(ledger, members)
    shown = [item for item in members if item.review.job_id in candidates]
    budget = Budget()
    table = table_of([candidates[item.review.job_id] for item in shown], budget)
    return page(
        request,
        "bulk_review.html",
        {
            "viewer": viewer,
            # What the table shows was cut before; a long text is printed in its row and where the row is opened.
            "budget": Budget(characters=2 * MAX_CHARACTERS),
            "not_whole": sum(not row.whole for row in table.rows),
            "scope": scope,
            "titles": TITLES,
            "groups": Counter(groups.values()),
            "yours": Counter(groups[item.review.job_id] for item in on_page if item.mine),
            "key_of": key_of,
            "group": group,
            "group_name": names.get(group or ""),
            "queued_by_job": {item.review.job_id: item for item in shown},
            "table": table,
            "input_path": INPUT,
            "labels": [" › ".join(map(label, path)) for path in table.columns],  # noqa: RUF001  as pages write it
            "jobs_path": path_to(request, "show_job", job_id=0).removesuffix("0"),
            "select_all": select_all,
            "refused": refused,
            "left_out": len(waiting) - len(on_page),
            "no_room": len(members) - len(shown),
            "address": lambda **more: _address(request, scope, **more),
            "max_comment": schemas.MAX_COMMENT,
        },
        status=status,
    )


def _groups(ledger: Ledger, by: GroupBy, jobs: Sequence[QueuedReview]) -> dict[int, str]:
    """The name of the group of each job, by its id."""
    if by is not GroupBy.SHAPE:
        return {item.review.job_id: group_of(by, item.review, ()) for item in jobs}
    return {
        item.review.job_id: group_of(by, item.review, candidate.effects if candidate else ())
        for item, candidate in _candidates(ledger, jobs)
    }


def _that_fit(ledger: Ledger, wanted: Sequence[QueuedReview]) -> dict[int, Candidate]:
    """The first of the jobs, of which no more are held than a page may show, and one at least."""
    found: dict[int, Candidate] = {}
    size = 0
    for item, candidate in _candidates(ledger, wanted):
        if candidate is None:
            continue
        size += size_of(candidate)
        if found and size > MAX_HELD:
            break
        found[item.review.job_id] = candidate
    return found


def _candidates(ledger: Ledger, wanted: Sequence[QueuedReview]) -> Iterator[tuple[QueuedReview, Candidate | None]]:
    """The jobs with their current output and plan, a few read at once; each is decided on by the digest of these."""
    for start in range(0, len(wanted), READ_AT_ONCE):
        some = wanted[start : start + READ_AT_ONCE]
        read = {each.job.job_id: each for each in ledger.candidates([item.review.job_id for item in some])}
        yield from ((item, read.get(item.review.job_id)) for item in some)


def _address(request: Request, scope: schemas.BulkScope, **more: str) -> str:
    """The path of this page, about the same Dag and run."""
    kept = {name: value for name, value in scope.model_dump(mode="json").items() if name in ("by", "dag_id", "run_id")}
    query = {name: value for name, value in {**kept, **more}.items() if value}
    return f"{path_to(request, 'bulk_review_page')}?{urlencode(query)}"
