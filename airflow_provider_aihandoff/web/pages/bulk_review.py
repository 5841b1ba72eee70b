"""The page on which many jobs are looked at beside each other, and decided on together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from airflow_provider_aihandoff.core.errors import StaleBatch
from airflow_provider_aihandoff.core.ledger import Candidate, Ledger
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, Viewer, ViewerDep, check_same_origin
from airflow_provider_aihandoff.web.form_body import FormDep
from airflow_provider_aihandoff.web.links import path_to
from airflow_provider_aihandoff.web.pages.bulk_table import GroupBy, group_of, key_of, table_of
from airflow_provider_aihandoff.web.pages.review_queue import Turn, decide_together, turns
from airflow_provider_aihandoff.web.render.environment import page
from airflow_provider_aihandoff.web.render.formatting import label

router = APIRouter(include_in_schema=False)

#: The oldest that are looked at. Others come when these are decided.
MAX_JOBS = 1_000

TITLES = {
    GroupBy.TYPE: "Type",
    GroupBy.RUN: "Dag run",
    GroupBy.SHAPE: "What is written",
    GroupBy.OUTCOME: "Why a person is asked",
}


@dataclass(frozen=True)
class Sent:
    """What came of a batch that was just sent.

    :param stale: why each of these could not be decided on, by id.
    :param selected: the choices that were sent, as the page writes them.
    """

    title: str
    text: str
    stale: dict[int, str]
    selected: frozenset[str]
    comment: str = ""


@router.get("/batch", name="batch_page")
def batch_page(
    request: Request,
    viewer: ViewerDep,
    ledger: LedgerDep,
    by: GroupBy = GroupBy.TYPE,
    group: str | None = None,
    select: Annotated[str | None, Query(pattern="^all$")] = None,
    dag_id: str | None = None,
    run_id: schemas.RunId = None,
) -> Response:
    """Show what waits in groups, and the jobs of one group beside each other."""
    scope = schemas.BatchScope(by=by, group=group or None, dag_id=dag_id or None, run_id=run_id or None)
    return _page(request, viewer, ledger, scope, select_all=select == "all")


@router.post("/batch/decision", name="decide_batch", dependencies=[Depends(check_same_origin)])
def decide(request: Request, viewer: ViewerDep, ledger: LedgerDep, form: FormDep) -> Response:
    """Approve or reject the selected jobs, each exactly as the page showed it, or none of them."""
    chosen = [text for text in form.getlist("job") if isinstance(text, str)]
    sent = _batch_form({**{name: text for name, text in form.items() if name != "job"}, "jobs": chosen})
    if not chosen:
        nothing = Sent("Nothing was decided", "Select the jobs first.", {}, frozenset(), sent.comment or "")
        return _page(request, viewer, ledger, sent, sent=nothing, status=422)
    try:
        jobs = decide_together(ledger, viewer, sent.choices, sent.verdict, sent.comment)
    except StaleBatch as error:
        said = Sent(
            "None of the decisions was recorded",
            "Some of the jobs are not what you saw any more. Look at these again, or leave them out.",
            error.stale,
            frozenset(chosen),
            sent.comment or "",
        )
        return _page(request, viewer, ledger, sent, sent=said, status=409)
    return page(request, "decided.html", {"viewer": viewer, "jobs": jobs, "verdict": sent.verdict, "scope": sent})


def _batch_form(fields: dict[str, Any]) -> schemas.BatchForm:
    try:
        return schemas.BatchForm.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in error.errors()]) from error


def _page(
    request: Request,
    viewer: Viewer,
    ledger: Ledger,
    scope: schemas.BatchScope,
    *,
    select_all: bool = False,
    sent: Sent | None = None,
    status: int = 200,
) -> Response:
    """Render the groups, and the table of the chosen one."""
    found = turns(ledger, viewer, scope.dag_id, scope.run_id)
    on_page = found[:MAX_JOBS]
    candidates: dict[int, Candidate] = {}
    if scope.by is GroupBy.SHAPE:
        candidates = _candidates(ledger, on_page)
    groups = {turn.review.job_id: group_of(scope.by, turn.review, _effects(candidates, turn)) for turn in on_page}
    names = {key_of(name): name for name in groups.values()}
    group = scope.group if scope.group in names else next(iter(names), None) if len(names) == 1 else None
    members = [turn for turn in on_page if group and key_of(groups[turn.review.job_id]) == group]
    candidates = candidates or _candidates(ledger, members)
    shown = [turn for turn in members if turn.review.job_id in candidates]
    table = table_of([candidates[turn.review.job_id] for turn in shown])
    return page(
        request,
        "batch.html",
        {
            "viewer": viewer,
            "scope": scope,
            "titles": TITLES,
            "groups": Counter(groups.values()),
            "yours": Counter(groups[turn.review.job_id] for turn in on_page if turn.mine),
            "key_of": key_of,
            "group": group,
            "group_name": names.get(group or ""),
            "turns": {turn.review.job_id: turn for turn in shown},
            "table": table,
            "labels": [" › ".join(map(label, path)) for path in table.columns],  # noqa: RUF001  as pages write it
            "jobs_path": path_to(request, "show_job", job_id=0).removesuffix("0"),
            "select_all": select_all,
            "sent": sent,
            "left_out": len(found) - len(on_page),
            "address": lambda **more: _address(request, scope, **more),
            "max_comment": schemas.MAX_COMMENT,
        },
        status=status,
    )


def _candidates(ledger: Ledger, wanted: Sequence[Turn]) -> dict[int, Candidate]:
    """The jobs with what they say now; each is decided on by the digest of just that."""
    return {each.job.job_id: each for each in ledger.candidates([turn.review.job_id for turn in wanted])}


def _effects(candidates: dict[int, Candidate], turn: Turn) -> Sequence[Any]:
    candidate = candidates.get(turn.review.job_id)
    return candidate.effects if candidate else ()


def _address(request: Request, scope: schemas.BatchScope, **more: str) -> str:
    """The path of this page, about the same Dag and run."""
    kept = {name: value for name, value in scope.model_dump(mode="json").items() if name in ("by", "dag_id", "run_id")}
    query = {name: value for name, value in {**kept, **more}.items() if value}
    return f"{path_to(request, 'batch_page')}?{urlencode(query)}"
