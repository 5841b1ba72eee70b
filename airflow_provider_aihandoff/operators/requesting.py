"""What a task of a run does that was made for a request: it takes the request from the ledger, not from the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.errors import JobCancelled, RequestError
from airflow_provider_aihandoff.core.generation.provider import ProviderFor
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.job_requests.declared_type import PARAM
from airflow_provider_aihandoff.core.job_requests.job_request import JobRequest, RequestState
from airflow_provider_aihandoff.core.models import Actor, Job

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.ledger import Ledger


def requested_in(context: Context, ledger: Ledger, job_type: str) -> JobRequest | None:
    """The request that the run of this task was made for; None where it was made for none of this type.

    :raises RequestError: the conf of the run, which templates read, has another content than the request.
    """
    dag_run = context["dag_run"]
    asked = ledger.job_requests.of_run(dag_run.run_id, job_type)
    # Not by their JSON: Airflow's database writes numbers in another way.
    if asked is not None and (dag_run.conf or {}).get(PARAM) != asked.conf:
        raise RequestError(
            f"the conf of the run {dag_run.run_id!r} is not what was requested: the run was made by hand, or its "
            "request is another one.",
            written="Nothing was sent to the model, and no external write was made.",
            remedy="Delete the run: it is made again for the request.",
        )
    return asked


def stop_if_cancelled(ledger: Ledger, provider_for: ProviderFor, asked: JobRequest, job: Job, *, actor: Actor) -> None:
    """Cancel a job whose request was cancelled before there was a job. Call it before the model is asked.

    :raises JobCancelled: it was.
    """
    request = ledger.job_requests.read(asked.request_id, settled=True).request
    if request.state is not RequestState.CANCELLED:
        return
    reason = request.state_reason or "its request was cancelled"
    cancel_job(ledger, provider_for, job.job_id, actor=actor, reason=reason)
    raise JobCancelled(f"it was cancelled ({reason}).", job=job.label)
