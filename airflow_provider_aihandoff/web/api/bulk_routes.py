"""The bulk actions of the jobs API: preview, begin, continue, report."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from airflow_provider_aihandoff.core.bulk.bulk_run import begin
from airflow_provider_aihandoff.core.bulk.bulk_totals import in_words
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import API_PREFIX
from airflow_provider_aihandoff.web.pages.bulk_action import own_bulk, previewed, take_steps
from airflow_provider_aihandoff.web.problems import AsciiJSONResponse

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem} for status in (401, 404, 409, 422, 503)
}

router = APIRouter(
    prefix=f"{API_PREFIX}/jobs/bulk",
    tags=["Jobs"],
    default_response_class=AsciiJSONResponse,
    route_class=GuardedRoute,
    responses=_PROBLEMS,
)


@router.post("/preview")
def preview_bulk(body: schemas.BulkPreviewBody, viewer: ViewerDep, ledger: LedgerDep) -> schemas.BulkPreview:
    """Say what a bulk action would do to each job of a filter. Changes nothing."""
    shown = previewed(ledger, viewer, body.action, JobFilter.of_texts(body.filter), body.reviewers.reviewers)
    jobs = [
        {"job_id": step.job.job_id, "job_key": step.job.job_key, "refused": step.refused, "what": step.words}
        for step in shown.steps
    ]
    values = {
        "count": shown.count,
        "refused": shown.refused,
        "digest": shown.digest,
        "summary": in_words(shown.action, shown.totals),
        "cost_usd": shown.totals.cost_usd,
        "responses": shown.totals.responses,
        "writes": shown.totals.writes,
        "refusals": shown.totals.refusals,
        "jobs": jobs,
    }
    return schemas.BulkPreview.model_validate(values)


@router.post("")
def begin_bulk(body: schemas.BulkBody, viewer: ViewerDep, ledger: LedgerDep) -> schemas.BulkReport:
    """Begin a bulk action, exactly as its preview was, and take steps for some seconds."""
    shown = previewed(ledger, viewer, body.action, JobFilter.of_texts(body.filter), body.reviewers.reviewers)
    bulk_id = begin(ledger, shown, count=body.count, digest=body.digest, reason=body.reason, actor=viewer.actor)
    take_steps(ledger, viewer, bulk_id)
    return _report(ledger, bulk_id)


@router.post("/{bulk_id}/run")
def run_bulk(bulk_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep) -> schemas.BulkReport:
    """Take the next steps of your bulk action, for some seconds. What is done is not done again."""
    own_bulk(ledger, viewer, bulk_id)
    take_steps(ledger, viewer, bulk_id)
    return _report(ledger, bulk_id)


@router.get("/{bulk_id}")
def get_bulk(bulk_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep) -> schemas.BulkReport:
    """Return how far your bulk action has come, and what came of each job."""
    own_bulk(ledger, viewer, bulk_id)
    return _report(ledger, bulk_id)


def _report(ledger: Ledger, bulk_id: int) -> schemas.BulkReport:
    bulk, progress = ledger.bulks.read(bulk_id), ledger.bulks.progress(bulk_id)
    return schemas.BulkReport.model_validate(
        {
            "bulk_id": bulk_id,
            "action": bulk.action,
            "reason": bulk.reason,
            "filter": bulk.wanted,
            "reviewers": None if bulk.reviewers is None else bulk.reviewers.to_json(),
            "created_at": bulk.created_at,
            "progress": progress,
            "over": progress.is_over,
            "jobs": ledger.bulks.report(bulk_id),
        }
    )
