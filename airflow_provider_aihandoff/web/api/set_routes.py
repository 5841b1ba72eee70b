"""Sets, for programs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from airflow_provider_aihandoff.core.sets.set_record import JobSet, SetTotals
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep, visible_dag_ids, visible_set
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
def get_set(set_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep) -> schemas.JobSetDetail:
    """Show one set with what its jobs add up to, and its batches. `GET /jobs?set=ID` lists its jobs."""
    found = visible_set(ledger, viewer, set_id)
    batches = [vars(each) for each in ledger.batches.of_set(set_id)]
    return schemas.JobSetDetail.model_validate({**set_fields(found, ledger.sets.total(set_id)), "batches": batches})


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
        "left_out": left_out.counts,
        "first_left_out": [{"number": each.number, "reason": each.reason, "why": each.why} for each in left_out.first],
        "said": totals.in_words(left_out.number),
        **{name: getattr(found, name) for name in ("transport", "transport_why", "complete_by")},
    }
