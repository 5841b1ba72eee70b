"""The pages on which many jobs are compared in one table, and decided on together: those selected, or a whole group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData

from airflow_provider_aihandoff.core.amounts import count
from airflow_provider_aihandoff.core.errors import StaleBulkDecision
from airflow_provider_aihandoff.core.ledger import Candidate, Ledger
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, Viewer, ViewerDep
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.pages.bulk_groups import groups_of, narrowed
from airflow_provider_aihandoff.web.pages.bulk_table import INPUT, GroupBy, key_of, size_of, table_of
from airflow_provider_aihandoff.web.pages.facets import Chosen
from airflow_provider_aihandoff.web.pages.review_queue import QueuedReview, decide_in_bulk, queued, review_queue
from airflow_provider_aihandoff.web.render.budget import MAX_CHARACTERS, Budget
from airflow_provider_aihandoff.web.render.environment import page
from airflow_provider_aihandoff.web.render.formatting import label
from airflow_provider_aihandoff.web.request_body import FormDep

Form = TypeVar("Form", bound=schemas.BulkForm)

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

#: Jobs of a page.
PAGE_SIZE = 100

#: How many of them are read from the ledger at once, and how many characters of all are held: a page of large jobs has
#: fewer. What a request repeats of the output is not shown twice.
READ_AT_ONCE = 50
MAX_HELD = 2 * MAX_CHARACTERS

#: Jobs that are listed of those that a decision was about, or that refuse it.
MAX_LISTED = 500

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


def _scope(
    by: GroupBy = GroupBy.TYPE,
    group: str | None = None,
    dag_id: str | None = None,
    run_id: schemas.RunId = None,
    set: schemas.JobId | None = None,
    where: Annotated[schemas.Where, Query()] = [],  # noqa: B006  as FastAPI wants it
    start: schemas.Start = 0,
) -> schemas.BulkScope:
    return schemas.BulkScope(
        by=by, group=group or None, dag_id=dag_id or None, run_id=run_id or None, set=set, where=where, start=start
    )


ScopeDep = Annotated[schemas.BulkScope, Depends(_scope)]


@router.get("/bulk-review", name="bulk_review_page")
def bulk_review_page(
    request: Request,
    viewer: ViewerDep,
    ledger: LedgerDep,
    scope: ScopeDep,
    select: Annotated[str | None, Query(pattern="^all$")] = None,
) -> Response:
    """Show the review queue in groups, and the jobs of one group in a table, page by page."""
    return _page(request, viewer, ledger, scope, select_all=select == "all")


@router.get("/bulk-review/all", name="bulk_review_all")
def bulk_review_all(
    request: Request, viewer: ViewerDep, ledger: LedgerDep, scope: ScopeDep, verdict: schemas.BulkVerdict = "approve"
) -> Response:
    """Show what one answer to all jobs of a group would be about, and ask for their number."""
    return _all_page(request, viewer, ledger, scope, verdict)


@router.post("/bulk-review/all/decision", name="decide_all")
def decide_all(request: Request, viewer: ViewerDep, ledger: LedgerDep, form: FormDep) -> Response:
    """Approve or reject all jobs of a group, each exactly as it was when the page was shown, or none of them."""
    sent = _form(schemas.BulkAllForm, form, form.get("jobs"))
    if sent.count != len(sent.choices):
        said = f"You typed {sent.count:,}, and the page was about {count(len(sent.choices), 'job')}."
        wrong = Refused("No decision was recorded", said, {}, frozenset(), sent.comment or "")
        return _all_page(request, viewer, ledger, sent, sent.verdict, refused=wrong, status=409)
    try:
        return _decided(request, viewer, ledger, sent)
    except StaleBulkDecision as error:
        stale = Refused(
            "No decision was recorded",
            "Some of the jobs have changed since the page was shown. Below is what it would be about now.",
            error.stale,
            frozenset(),
            sent.comment or "",
        )
        return _all_page(request, viewer, ledger, sent, sent.verdict, refused=stale, status=409)


@router.post("/bulk-review/decision", name="decide_bulk")
def decide(request: Request, viewer: ViewerDep, ledger: LedgerDep, form: FormDep) -> Response:
    """Approve or reject the selected jobs, each exactly as the page showed it, or none of them."""
    chosen = form.getlist("job")
    sent = _form(schemas.BulkForm, form, chosen)
    if not chosen:
        nothing = Refused("No decision was recorded", "Select the jobs first.", {}, frozenset(), sent.comment or "")
        return _page(request, viewer, ledger, sent, refused=nothing, status=422)
    try:
        return _decided(request, viewer, ledger, sent)
    except StaleBulkDecision as error:
        stale = Refused(
            "No decision was recorded",
            "Some of the jobs have changed since you opened them. Review these again, or deselect them.",
            error.stale,
            frozenset(sent.jobs),
            sent.comment or "",
        )
        return _page(request, viewer, ledger, sent, refused=stale, status=409)


def _form(model: type[Form], form: FormData, jobs: Any) -> Form:
    """What a form has sent.

    :param jobs: the selected jobs.
    :raises RequestValidationError: it is not what the page has.
    """
    fields = {name: text for name, text in form.items() if name not in ("job", "jobs", "where")}
    try:
        return model.model_validate({**fields, "where": form.getlist("where"), "jobs": jobs})
    except ValidationError as error:
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in error.errors()]) from error


def _decided(request: Request, viewer: Viewer, ledger: Ledger, sent: schemas.BulkForm) -> Response:
    """Record a decision, and say so.

    :raises StaleBulkDecision: none was recorded; it says which jobs have changed.
    """
    jobs = decide_in_bulk(ledger, viewer, sent.choices, sent.verdict, sent.comment)
    context = {
        "viewer": viewer,
        "number": len(jobs),
        "jobs": jobs[:MAX_LISTED],
        "verdict": sent.verdict,
        "further": _address(request, sent),
    }
    return page(request, "bulk_decided.html", context)


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
    """Render the groups, and a page of the table of the chosen one."""
    queue = review_queue(ledger, viewer, scope.dag_id, scope.run_id, set_id=scope.set)
    groups = groups_of(ledger, queue, scope)
    members = narrowed(ledger, groups.members, scope)
    start = scope.start if scope.start < len(members.ids) else 0
    on_page = members.ids[start : start + PAGE_SIZE]
    candidates, left = _that_fit(ledger, queued(ledger, viewer, on_page))
    budget = Budget()
    table = table_of([candidate for _, candidate in candidates], budget)
    end = start + len(on_page) - left
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
            "groups": groups.sizes,
            "yours": Counter(groups.names[job_id] for job_id in groups.names if job_id in queue.mine_ids),
            "key_of": key_of,
            "group": groups.group,
            "group_name": groups.name,
            "members": members,
            "chosen": {each: _without(scope, each) for each in scope.chosen},
            "mine": sum(job_id in queue.mine_ids for job_id in members.ids),
            "start": start,
            "end": end,
            "previous": max(0, start - PAGE_SIZE) if start else None,
            "next": end if end < len(members.ids) else None,
            "queued_by_job": {item.review.job_id: item for item, _ in candidates},
            "table": table,
            "input_path": INPUT,
            "labels": [" › ".join(map(label, path)) for path in table.columns],  # noqa: RUF001  as pages write it
            "jobs_path": path_to(request, "show_job", job_id=0).removesuffix("0"),
            "select_all": select_all,
            "refused": refused,
            "address": partial(_address, request, scope),
            "all_address": partial(_address, request, scope, "bulk_review_all", group=groups.group),
            "max_comment": schemas.MAX_COMMENT,
            "max_listed": MAX_LISTED,
        },
        status=status,
    )


def _all_page(
    request: Request,
    viewer: Viewer,
    ledger: Ledger,
    scope: schemas.BulkScope,
    verdict: schemas.BulkVerdict,
    *,
    refused: Refused | None = None,
    status: int = 200,
) -> Response:
    """Render what one answer to all jobs of a group would be about."""
    queue = review_queue(ledger, viewer, scope.dag_id, scope.run_id, set_id=scope.set, digests=True)
    groups = groups_of(ledger, queue, scope)
    members = narrowed(ledger, groups.members, scope)
    # Of a job that has changed between these two, what was read first is no longer so.
    mine = [
        job_id
        for job_id, digest in members.digests.items()
        if job_id in queue.mine_ids and queue.digests[job_id] == digest
    ]
    about = mine[: schemas.MAX_BULK]
    return page(
        request,
        "bulk_review_all.html",
        {
            "viewer": viewer,
            "scope": scope,
            "verdict": verdict,
            "group": groups.group,
            "group_name": groups.name,
            "chosen": scope.chosen,
            "number": len(about),
            "later": len(mine) - len(about),
            "others": len(members.ids) - len(mine),
            "jobs": " ".join(f"{job_id}:{members.digests[job_id]}" for job_id in about),
            "writes": ledger.review_queue.planned_writes(about) if verdict == "approve" else {},
            "back": _address(request, scope, group=groups.group, where=scope.where),
            "refused": refused,
            "max_comment": schemas.MAX_COMMENT,
            "max_listed": MAX_LISTED,
        },
        status=status,
    )


def _that_fit(ledger: Ledger, wanted: Sequence[QueuedReview]) -> tuple[list[tuple[QueuedReview, Candidate]], int]:
    """The first of the jobs, of which no more is held than a page may show, and one at least; and how many are left.

    A few are read at once, each with its current output and plan, and is decided on by the digest of these.
    """
    found: list[tuple[QueuedReview, Candidate]] = []
    size = 0
    for start in range(0, len(wanted), READ_AT_ONCE):
        some = wanted[start : start + READ_AT_ONCE]
        read = {each.job.job_id: each for each in ledger.candidates([item.review.job_id for item in some])}
        for place, item in enumerate(some, start):
            candidate = read[item.review.job_id]
            size += size_of(candidate)
            if found and size > MAX_HELD:
                return found, len(wanted) - place
            found.append((item, candidate))
    return found, 0


def _without(scope: schemas.BulkScope, chosen: Chosen) -> list[str]:
    """The other values by which a group is narrowed."""
    return [text for text in scope.where if text != chosen.as_address()]


def _address(request: Request, scope: schemas.BulkScope, route: str = "bulk_review_page", **more: Any) -> str:
    """The path of a page of the bulk review, about the same Dag, run and set.

    :param more: further parameters; those that are empty are left out.
    """
    names = ("by", "dag_id", "run_id", "set")
    kept = {name: value for name, value in scope.model_dump(mode="json").items() if name in names}
    query = {name: value for name, value in {**kept, **more}.items() if value}
    return f"{path_to(request, route)}?{urlencode(query, doseq=True)}"
