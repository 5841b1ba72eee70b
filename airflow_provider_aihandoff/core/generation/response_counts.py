"""Counts a response that has ended: its outcome, its tokens, what it has cost and how long it took."""

from __future__ import annotations

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.models import Job, Revision
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES

_MICRO = 1_000_000


def count_response(
    connection: LedgerConnection, job: Job, revision: Revision, output: Output, *, counted: bool = False
) -> None:
    """Count a response once its transaction is committed. Does nothing for one that has not ended.

    :param revision: as it is after its end was recorded.
    :param counted: its end was counted before, and now brings the cost.
    """
    if output.status not in ENDED_RESPONSE_STATUSES:
        return
    labels = {"job_type": job.job_type, "model": model_of(revision)}
    if not counted:
        connection.count(signals.RESPONSES, **labels, status=output.status)
        if revision.submitted_at is not None and revision.completed_at is not None:
            seconds = (revision.completed_at - revision.submitted_at).total_seconds()
            connection.timing(signals.RESPONSE_TIME, seconds, **labels)
    if output.usage is None:
        return
    for direction in ("input", "output"):
        tokens = output.usage.get(f"{direction}_tokens")
        if isinstance(tokens, int):
            connection.count(signals.TOKENS, tokens, **labels, direction=direction)
    if output.cost_usd is None:
        connection.count(signals.UNPRICED, **labels)
    else:
        connection.count(signals.COST, round(output.cost_usd * _MICRO), **labels)


def model_of(revision: Revision) -> str:
    """The model that a revision asks."""
    return str(revision.request.get("model", "unknown"))
