"""Stops an orphaned response, and records what it had cost by then."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.generation.provider import (
        ModelProvider,
        ModelResponse,
        ProviderFacts,
        ProviderFor,
    )
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Actor, Job, Revision

log = logging.getLogger(__name__)

#: Why a response is given up: its deadline passed, or OpenAI has not found it for long.
Why = Literal["deadline", "gone"]


def cancel(provider: ModelProvider, response_id: str) -> ModelResponse | None:
    """Ask OpenAI to stop, and return what it says about the response then; None where it says nothing."""
    reached("wait.cancel", "before call")
    response = provider.cancel(response_id)
    reached("wait.cancel", "after call")
    return response


def give_up(
    ledger: Ledger, provider: ModelProvider, job_id: int, number: int, *, why: Why, actor: Actor
) -> ResponseStatus | None:
    """End a running revision whose deadline passed, or whose response is gone; unless it has ended after all.

    :return: the status with which the response has ended on its own: then nothing is recorded, and its output is
        still to be taken. None where the revision is given up, or has moved on.
    """
    from airflow_provider_aihandoff.core.generation.provider import NOT_FOUND

    job = ledger.job(job_id)
    revision = ledger.revision(job_id, number)
    if job.state is not JobState.RUNNING or job.revision != number or revision.response_id is None:
        return None
    response = None
    if why == "gone":
        reason = NOT_FOUND
    else:
        reason = f"the deadline passed: {revision.deadline.isoformat()}"
        response = cancel(provider, revision.response_id)
        if response is not None and response.ended_by_itself:
            return response.status
    ledger.outputs.fail(
        job_id,
        number,
        actor=actor,
        reason=reason,
        error={"kind": why},
        status=revision.response_status,
        response_id=revision.response_id,
    )
    record_cost(ledger, provider, revision, response, actor=actor)
    return None


def cancel_job(ledger: Ledger, provider_for: ProviderFor, job_id: int, *, actor: Actor, reason: str) -> Job:
    """Stop a job, whatever its phase, and its response at OpenAI, where one runs.

    The wish is recorded first. Where OpenAI cannot be asked, the job is cancelled all the same, and what its response
    leaves is recorded as late.

    :return: the job as it is now; while an effect is under way, it goes on applying until that is known.
    :raises JobNotFound: there is none with this id.
    :raises CannotCancel: the job has ended, or is being rolled back.
    """
    request = ledger.cancels.cancel(job_id, actor=actor, reason=reason)
    revision = request.revision
    if revision is not None and revision.is_in_batch:  # its batch goes on for the others: its result is late
        return ledger.outputs.cancelled(job_id, revision.number, actor=actor, reason=reason, status=None)
    if revision is None or revision.response_id is None:
        return request.job
    try:
        provider = provider_for(revision.conn_id)
    except Exception as error:  # noqa: BLE001 - a connection that is gone, or wrong
        log.warning("OpenAI could not be asked to stop %s: %s.", revision.response_id, type(error).__name__)
        ledger.outputs.cancelled(job_id, revision.number, actor=actor, reason=reason, status=None)
    else:
        response = cancel(provider, revision.response_id)
        record_cancelled(ledger, provider, revision, response, actor=actor, reason=reason)
    return ledger.job(job_id)


def record_cancelled(
    ledger: Ledger,
    provider: ProviderFacts,
    revision: Revision,
    response: ModelResponse | None,
    *,
    actor: Actor,
    reason: str,
) -> None:
    """End the job as cancelled. Does nothing to one that has moved on.

    :param response: what OpenAI said last about the response; None where it said nothing.
    """
    status = None if response is None else response.status
    ledger.outputs.cancelled(revision.job_id, revision.number, actor=actor, reason=reason, status=status)
    record_cost(ledger, provider, revision, response, actor=actor)


def record_cost(
    ledger: Ledger, provider: ProviderFacts, revision: Revision, response: ModelResponse | None, *, actor: Actor
) -> None:
    """Record what a response has cost that was given up. Its output is not taken, even if it completed after all.

    Does nothing where it has not ended: what it costs is not known yet.
    """
    if response is None or not response.ended:
        return
    cost_usd = provider.price(response, revision.request)
    output = Output(response.status, usage=response.usage, cost_usd=cost_usd)
    ledger.outputs.store(revision.job_id, revision.number, output, actor=actor, response_id=revision.response_id)
