"""Stops a response that nobody waits for any more, and records what it had cost by then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.generation.openai.outcome import terminal_status
from airflow_provider_aihandoff.core.generation.openai.pricing import price, read_usage
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.jobs.cancel_store import CancelRequest
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Revision
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES, JobState

if TYPE_CHECKING:
    from openai import OpenAI

log = logging.getLogger(__name__)

#: Why a response is given up: its deadline passed, or OpenAI does not know it any more.
Why = Literal["deadline", "gone"]

#: The statuses with which a response has ended by itself. A `cancelled` one has nothing to leave.
_ENDED_BY_ITSELF = ENDED_RESPONSE_STATUSES - {"cancelled"}


def status_of(response: Any) -> str:
    """The status of a response; ``unknown`` where OpenAI gave no answer to believe."""
    return str(getattr(response, "status", None) or "unknown")


def ended_by_itself(response: Any, response_id: str) -> str | None:
    """The status with which a response has ended before anybody stopped it; None where it has not."""
    status = terminal_status(response, response_id)
    return status if status in _ENDED_BY_ITSELF else None


def cancel(client: OpenAI, response_id: str) -> Any:
    """Ask OpenAI to stop, and return what it says about the response then; None where it says nothing."""
    reached("wait.cancel", "before call")
    try:
        response = client.responses.cancel(response_id)
        reached("wait.cancel", "after call")
        return response
    except Exception as error:  # noqa: BLE001 - a response that has ended may answer 400 or 409
        log.info("Cancelling response %s: %s; looking at it.", response_id, type(error).__name__)
    try:
        return client.responses.retrieve(response_id)
    except Exception as error:  # noqa: BLE001 - recorded as not known
        log.warning("Looking at response %s: %s.", response_id, type(error).__name__)
        return None


def give_up(ledger: Ledger, client: OpenAI, job_id: int, number: int, *, why: Why, actor: Actor) -> str | None:
    """End a running revision whose deadline passed, or whose response is gone; unless it has ended after all.

    :return: the status with which the response has ended by itself: then nothing is recorded, and its output is
        still to be taken. None where the revision is given up, or has moved on.
    """
    job = ledger.job(job_id)
    revision = ledger.revision(job_id, number)
    if job.state is not JobState.RUNNING or job.revision != number or revision.response_id is None:
        return None
    response = None
    if why == "gone":
        reason = "OpenAI does not know the response any more"
    else:
        reason = f"the deadline passed: {revision.deadline.isoformat()}"
        response = cancel(client, revision.response_id)
        if status := ended_by_itself(response, revision.response_id):
            return status
    ledger.outputs.fail(
        job_id, number, actor=actor, reason=reason, error={"kind": why}, status=revision.response_status
    )
    record_cost(ledger, revision, response, actor=actor)
    return None


def cancel_job(
    ledger: Ledger, client_for: Callable[[str], OpenAI], job_id: int, *, actor: Actor, reason: str
) -> CancelRequest:
    """Stop a job, whatever its phase, and its response at OpenAI, where one runs.

    The wish is recorded first. Where OpenAI cannot be asked, the job is cancelled all the same, and what its response
    leaves is recorded as late.

    :param client_for: makes the client of a connection.
    :return: the job as it is now; while an effect is under way, it goes on applying until that is known.
    :raises JobNotFound: there is none with this id.
    :raises CannotCancel: the job has ended, or is being rolled back.
    """
    request = ledger.cancels.cancel(job_id, actor=actor, reason=reason)
    revision = request.revision
    if revision is None or revision.response_id is None:
        return request
    try:
        response = cancel(client_for(revision.conn_id), revision.response_id)
    except Exception as error:  # noqa: BLE001 - a connection that is gone, or wrong
        log.warning("OpenAI could not be asked to stop %s: %s.", revision.response_id, type(error).__name__)
        response = None
    record_cancelled(ledger, revision, response, actor=actor, reason=reason)
    return CancelRequest(ledger.job(job_id))


def record_cancelled(ledger: Ledger, revision: Revision, response: Any, *, actor: Actor, reason: str) -> None:
    """End the job as cancelled. Does nothing to one that has moved on.

    :param response: what OpenAI said last about the response; None where it said nothing.
    """
    ledger.outputs.cancelled(revision.job_id, revision.number, actor=actor, reason=reason, status=status_of(response))
    record_cost(ledger, revision, response, actor=actor)


def record_cost(ledger: Ledger, revision: Revision, response: Any, *, actor: Actor) -> None:
    """Record what a response has cost that was given up. Its output is not taken, even if it completed after all."""
    if revision.response_id is None or terminal_status(response, revision.response_id) is None:
        return
    output = Output(status_of(response), usage=read_usage(response), cost_usd=price(response, revision.request))
    ledger.outputs.store(revision.job_id, revision.number, output, actor=actor)
