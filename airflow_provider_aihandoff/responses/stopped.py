"""Records what became of a response that was asked to stop: that nobody waits for it, and what it had cost by then."""

from __future__ import annotations

from typing import Any

from airflow_provider_aihandoff.ledger import Ledger
from airflow_provider_aihandoff.ledger.records import Revision
from airflow_provider_aihandoff.ledger.revisions import Output
from airflow_provider_aihandoff.responses.outcome import terminal_status
from airflow_provider_aihandoff.responses.pricing import price, read_usage


def status_of(response: Any) -> str:
    """The status of a response; ``unknown`` where OpenAI gave no answer to believe."""
    return str(getattr(response, "status", None) or "unknown")


def record_cancelled(ledger: Ledger, revision: Revision, response: Any, *, actor: str, reason: str) -> None:
    """End the job as cancelled. Does nothing to one that has moved on.

    :param response: what OpenAI said last about the response; None where it said nothing.
    """
    ledger.outputs.cancelled(revision.job_id, revision.number, actor=actor, reason=reason, status=status_of(response))
    record_cost(ledger, revision, response, actor=actor)


def record_cost(ledger: Ledger, revision: Revision, response: Any, *, actor: str) -> None:
    """Record what a response has cost that was given up. Its output is not taken, even if it completed after all."""
    if revision.response_id is None or terminal_status(response, revision.response_id) is None:
        return
    output = Output(status_of(response), usage=read_usage(response), cost_usd=price(response, revision.request))
    ledger.outputs.store(revision.job_id, revision.number, output, actor=actor)
