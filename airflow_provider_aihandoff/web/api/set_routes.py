"""Sets, for programs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from airflow_provider_aihandoff.core.sets.pause_set import pause_set, pauses_of, resume_set
from airflow_provider_aihandoff.core.sets.set_record import JobSet, SetTotals
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.api.pause_routes import pause_fields
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep, check_may_pause, visible_dag_ids, visible_set
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.links import API_PREFIX
from airflow_provider_aihandoff.web.problems import AsciiJSONResponse

_PROBLEMS: dict[int | str, dict[str, Any]] = {status: {"model": schemas.Problem} for status in (401, 404, 422, 503)}

router = APIRouter(
    prefix=f"{API_PREFIX}/sets",
    tags=["Sets"],
    default_response_class=AsciiJSONResponse,
    route_class=GuardedRoute,
    responses=_PROBLEMS,
)


@router.get("")
def list_sets(
    viewer: ViewerDep,
    ledger: LedgerDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[schemas.JobId | None, Query(description="The last set of the page before.")] = None,
) -> schemas.SetList:
    """List the sets that you may see, the newest first, each with what its jobs add up to."""
    found = ledger.sets.newest(dag_ids=visible_dag_ids(ledger, viewer), before=before, limit=limit)
    totals = ledger.sets.totals([each.set_id for each in found])
    return schemas.SetList.model_validate({"sets": [set_fields(each, totals[each.set_id]) for each in found]})


@router.get("/{set_id}")
def get_set(set_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep) -> schemas.OneJobSet:
    """Show one set with what its jobs add up to, and its batches. `GET /jobs?set=ID` lists its jobs."""
    found = visible_set(ledger, viewer, set_id)
    writes = ledger.sets.writes(set_id)
    fields = {
        "minutes_to_writes": writes.minutes_left,
        "paused": bool(pauses_of(ledger, set_id)),
        "batches": [vars(each) for each in ledger.batches.of_set(set_id)],
    }
    return schemas.OneJobSet.model_validate(set_fields(found, ledger.sets.total(set_id)) | fields)


@router.post("/{set_id}/pause", responses={403: {"model": schemas.Problem}})
def pause_job_set(
    set_id: schemas.JobId, body: schemas.PauseReasonBody, viewer: ViewerDep, ledger: LedgerDep
) -> schemas.Pause:
    """Hold each request to the model and each external write of the set, in the whole fleet at once."""
    found = visible_set(ledger, viewer, set_id)
    check_may_pause(ledger, viewer, found.dag_id)
    begun = pause_set(ledger, found, reason=body.reason, actor=viewer.actor)
    return schemas.Pause.model_validate(pause_fields(ledger, begun))


@router.post("/{set_id}/resume", responses={403: {"model": schemas.Problem}})
def resume_job_set(
    set_id: schemas.JobId, body: schemas.PauseReasonBody, viewer: ViewerDep, ledger: LedgerDep
) -> schemas.PauseList:
    """End each pause that is about the set alone: what it holds continues."""
    found = visible_set(ledger, viewer, set_id)
    check_may_pause(ledger, viewer, found.dag_id)
    ended = resume_set(ledger, found, reason=body.reason, actor=viewer.actor)
    return schemas.PauseList.model_validate({"pauses": [pause_fields(ledger, each) for each in ended]})


def set_fields(found: JobSet, totals: SetTotals) -> dict[str, Any]:
    """A set as the API shows it."""
    left_out = found.without_job
    names = ("set_id", "set_type", "set_key", "requested_by", "dag_id", "run_id", "task_id", "map_index", "deadline")
    return {
        **{name: getattr(found, name) for name in (*names, "items", "created_at")},
        "phase": totals.phase(found),
        "jobs": totals.jobs,
        "states": dict(totals.states),
        "unknown": totals.unknown,
        "held": totals.held,
        "failures": dict(totals.failures),
        "cost_usd": totals.cost_usd,
        "unpriced": totals.unpriced,
        "per_minute": totals.per_minute,
        "minutes_to_answers": totals.minutes_to_answers,
        "expected_usd": totals.expected_usd,
        "left_out": left_out.counts,
        "first_left_out": [{"number": each.number, "reason": each.reason, "why": each.why} for each in left_out.first],
        "said": totals.in_words(left_out.number),
        **{name: getattr(found, name) for name in ("transport", "transport_why", "complete_by")},
    }
