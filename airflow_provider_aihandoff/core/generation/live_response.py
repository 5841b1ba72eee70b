"""Which response of a job can be watched now."""

from __future__ import annotations

from typing import NamedTuple

from airflow_provider_aihandoff.core.generation.response_stream import is_streamed
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.states import JobState, RevisionState


class LiveResponse(NamedTuple):
    """A response that runs, and can be watched."""

    conn_id: str
    response_id: str
    revision: int


def live_response(ledger: Ledger, job: Job | None) -> LiveResponse | None:
    """The response that runs for a job and that can be watched; None where there is none."""
    if job is None or job.state is not JobState.RUNNING:
        return None
    revision = ledger.revision(job.job_id, job.revision)
    if revision.state is not RevisionState.RUNNING or revision.response_id is None or not is_streamed(revision.request):
        return None
    return LiveResponse(revision.conn_id, revision.response_id, revision.number)
