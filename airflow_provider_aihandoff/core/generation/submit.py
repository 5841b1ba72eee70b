"""The submit protocol's outer half: intend, send once, record; safe against every failure in between."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.errors import HandoffError, JobFailed, LedgerUnavailable
from airflow_provider_aihandoff.core.generation.provider import (
    ModelProvider,
    ModelResponse,
    Sent,
    SubmitFailure,
    own_metadata,
)
from airflow_provider_aihandoff.core.models import Actor, Job, Revision

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import Ledger

log = logging.getLogger(__name__)

#: Seconds that one request may take. In the background OpenAI answers as soon as it has queued the work.
SUBMIT_TIMEOUT = 30.0

#: How long the permission to send is valid: longer than the request, so that no one takes over one that is in transit.
SUBMIT_LEASE = timedelta(seconds=SUBMIT_TIMEOUT + 15)

#: Seconds after the permission was asked for, within which its request must be sent to finish before it expires.
_SEND_WITHIN = SUBMIT_LEASE.total_seconds() - SUBMIT_TIMEOUT

_SUSPENDED = SubmitFailure(Sent.NO, "this process was suspended between the permission to send and the request")

#: Requests of one attempt of the task; Airflow's retries come on top.
SUBMIT_TRIES = 5

_BACKOFF_BASE, _BACKOFF_CAP = 1.0, 20.0


class NotSubmitted(HandoffError):
    """OpenAI did not take the request in the tries of one attempt; trying again later may help."""


def submit(
    ledger: Ledger,
    provider: ModelProvider,
    job: Job,
    *,
    deadline: datetime,
    actor: Actor,
    request: Mapping[str, Any] | None = None,
    orphan_wait: timedelta = timedelta(0),
    take: Callable[[Revision, ModelResponse], object] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Revision:
    """Send the request of a job's current revision, never two at the same time, and record the answer.

    :param deadline: the revision's; no request is sent after it.
    :param request: the revision's request with its secrets; by default as the ledger has it, where they are masked.
    :param orphan_wait: how long to wait for the webhook of a response whose id was lost, before sending again.
    :param take: stores what a response left that had ended when the request was answered. Not every server has it
        afterwards: some have no background mode, and keep nothing.
    :return: the revision, with its response id, or as another attempt has left it meanwhile.
    :raises NotSubmitted: the tries are used up.
    :raises JobFailed: OpenAI refused for good, the deadline passed, or it cannot be proved that nothing runs.
    :raises JobCancelled: the job was cancelled meanwhile.
    :raises InputChanged: a task with other input has taken the key over meanwhile.
    """
    ledger_id = ledger.ledger_id()
    failures = 0
    while True:
        _check_deadline(ledger, job, deadline, actor)
        asked = time.monotonic()
        intent = ledger.submission.intend(
            job.job_id, job.revision, actor=actor, lease=SUBMIT_LEASE, orphan_wait=orphan_wait
        )
        if intent.token is None:
            if not intent.wait:
                return intent.revision
            log.info("A request for %s may be in transit; waiting up to %.0f s for its answer.", job.label, intent.wait)
            sleep(min(intent.wait, 1.0))
            continue
        body, metadata = request or intent.revision.request, own_metadata(job.job_id, job.revision, ledger_id)
        sent = _send(provider, body, metadata) if time.monotonic() - asked < _SEND_WITHIN else _SUSPENDED
        if isinstance(sent, ModelResponse):
            revision = _record(ledger, provider, job, intent.token, sent, actor)
            if revision is None:
                continue
            if take is None or not sent.readable:
                return revision
            take(revision, sent)
            return ledger.revision(job.job_id, job.revision)
        failures += 1
        _record_failure(ledger, job, intent.token, sent, actor, orphan_wait)
        if failures >= SUBMIT_TRIES:
            raise NotSubmitted(
                f"the request was not accepted in {failures} tries: {sent.reason}.",
                job=job.label,
                remedy="Airflow's retry of this task continues from here.",
            )
        wait = max(sent.retry_after or 0.0, backoff(failures, base=_BACKOFF_BASE, cap=_BACKOFF_CAP))
        left = max(0.0, (deadline - datetime.now(UTC)).total_seconds())
        log.warning("Submitting %s failed (%s); next try in %.1f s.", job.label, sent.reason, min(wait, left))
        sleep(min(wait, left, 2 * _BACKOFF_CAP))


def _send(
    provider: ModelProvider, request: Mapping[str, Any], metadata: Mapping[str, str]
) -> ModelResponse | SubmitFailure:
    reached("submit.create", "before call")
    sent = provider.create(request, metadata, timeout=SUBMIT_TIMEOUT)
    if isinstance(sent, ModelResponse):
        reached("submit.create", "after call")
    return sent


def _record(
    ledger: Ledger, provider: ModelProvider, job: Job, token: UUID, response: ModelResponse, actor: Actor
) -> Revision | None:
    """Store the response id; None where the permission was lost meanwhile, and the response is orphaned."""
    try:
        revision = ledger.submission.submitted(
            job.job_id,
            job.revision,
            token=token,
            response_id=response.id,
            status=response.status,
            actor=actor,
        )
    except LedgerUnavailable:
        log.error("Response %s runs for %s, and its id cannot be stored in the ledger.", response.id, job.label)
        raise
    if revision is None:
        log.warning("Response %s came for %s after it had been given up; cancelling it.", response.id, job.label)
        provider.cancel(response.id)  # the ledger names the response; there is nothing more to do here
    return revision


def _record_failure(
    ledger: Ledger, job: Job, token: UUID, failure: SubmitFailure, actor: Actor, orphan_wait: timedelta
) -> None:
    where: dict[str, Any] = {"token": token, "actor": actor, "reason": failure.reason}
    if failure.sent is Sent.UNKNOWN:
        ledger.submission.submission_lost(job.job_id, job.revision, orphan_wait=orphan_wait, **where)
        return
    ledger.submission.not_submitted(job.job_id, job.revision, **where)
    if failure.sent is Sent.NEVER:
        error = {"kind": "refused request", "message": failure.reason}
        ledger.outputs.fail(job.job_id, job.revision, actor=actor, reason=failure.reason, error=error)
        raise JobFailed(
            f"no response was created: {failure.reason}.",
            job=job.label,
            remedy=failure.remedy
            or "Fix the request, the connection or the account; then clear the task, which makes a new revision.",
        )


def _check_deadline(ledger: Ledger, job: Job, deadline: datetime, actor: Actor) -> None:
    if datetime.now(UTC) < deadline:
        return
    reason = f"the deadline passed before a request was accepted: {deadline.isoformat()}"
    ledger.outputs.fail(job.job_id, job.revision, actor=actor, reason=reason, error={"kind": "deadline"})
    raise JobFailed(f"{reason}.", job=job.label, remedy="Clear the task to make a new revision with a new deadline.")
