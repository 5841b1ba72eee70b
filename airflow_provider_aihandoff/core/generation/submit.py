"""The submit protocol's outer half: intend, send once, record; safe against every failure in between."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from airflow_provider_aihandoff.core import spans
from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.error_text import Secrets, cleaned
from airflow_provider_aihandoff.core.errors import HandoffError, JobFailed
from airflow_provider_aihandoff.core.generation.handle import ended_in
from airflow_provider_aihandoff.core.generation.lost import HANDLE_CHECK
from airflow_provider_aihandoff.core.generation.provider import (
    ModelProvider,
    ModelResponse,
    ProviderError,
    Sent,
    SubmitFailure,
    WorstCase,
    own_metadata,
)
from airflow_provider_aihandoff.core.models import Actor, Job, Revision
from airflow_provider_aihandoff.core.rates.fair_order import HERE
from airflow_provider_aihandoff.core.rates.slowdown import Heard
from airflow_provider_aihandoff.core.second_memory import Facts, Memory, Unrecorded
from airflow_provider_aihandoff.core.states import ResponseStatus, RevisionState

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.database.connection import Keep
    from airflow_provider_aihandoff.core.generation.submission_store import Intent
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

#: Seconds that a worker waits in all for a limit of speed; for longer, the task waits in the triggerer.
_WAITS_HERE = 3 * HERE


class SubmitSteps(Protocol):
    """The two transactions that each request needs which is sent: those of :class:`.Submission`, or what has them done
    together with those of other jobs."""

    def intend(
        self,
        job_id: int,
        number: int,
        *,
        actor: Actor,
        lease: timedelta,
        orphan_wait: timedelta = ...,
        handle: str | None = ...,
        worst: WorstCase = ...,
        tokens: int = ...,
    ) -> Intent:
        """As :meth:`.Submission.intend`."""

    def submitted(
        self,
        job_id: int,
        number: int,
        *,
        token: UUID,
        response_id: str,
        status: ResponseStatus,
        actor: Actor,
        keep: Keep | None = ...,
        finds_out: bool = ...,
        heard: Heard | None = ...,
    ) -> Revision | None:
        """As :meth:`.Submission.submitted`."""


class NotSubmitted(HandoffError):
    """OpenAI did not take the request in the tries of one attempt; trying again later may help."""


def submit(
    ledger: Ledger,
    provider: ModelProvider,
    job: Job,
    *,
    actor: Actor,
    request: Mapping[str, Any] | None = None,
    orphan_wait: timedelta = timedelta(0),
    take: Callable[[Revision, ModelResponse], object] | None = None,
    memory: Memory | None = None,
    worst: Callable[[int | None], WorstCase] | None = None,
    steps: SubmitSteps | None = None,
    found: Revision | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Revision:
    """Send the request of a job's current revision, never two at the same time, and record the answer.

    It does not wait where another attempt is sending, where a request is lost whose response may exist, or where a
    pause, a limit or a budget holds it.

    :param request: the revision's request with its secrets; by default as the ledger has it, where they are masked.
    :param orphan_wait: the shortest wait for the webhook of a response whose id was lost, before sending again.
    :param take: stores what a response left that had ended when the request was answered. Not every server has it
        afterwards: some have no background mode, and keep nothing.
    :param memory: where the id of a response is kept while the ledger cannot record it.
    :param worst: the most that the request can need, given how many tokens its input has where they were counted; by
        default what the provider says of it.
    :param steps: what permits the request and records its answer; by default the ledger's own steps, for one job.
    :param found: the revision, where the caller has read it since this attempt has the job; by default it is read.
    :return: the revision, with its response id, or as another attempt has left it meanwhile. While it is held or
        ``submitting``, it is to be waited for: no request may be sent before its ``submit_lease_until``.
    :raises NotSubmitted: the tries are used up.
    :raises JobFailed: OpenAI refused for good, the deadline passed, it can cost more than it may, or it cannot be
        proved that nothing runs.
    :raises JobCancelled: the job was cancelled meanwhile.
    :raises InputChanged: a task with other input has taken the key over meanwhile.
    """
    steps, found = steps or ledger.submission, found or ledger.revision(job.job_id, job.revision)
    if (kept := _record_kept(ledger, provider, job, found, memory, actor)) is not None:
        return kept
    whole = request or found.request
    most = _most(
        ledger, provider, job, found, whole, worst or (lambda counted: provider.worst_case(whole, counted=counted))
    )
    metadata = own_metadata(job.job_id, job.revision, ledger.ledger_id())
    tokens = provider.counted_tokens(whole)
    failures = 0
    while True:
        handle, problem = _open_handle(provider, found or ledger.revision(job.job_id, job.revision), metadata, request)
        found = None  # from now on, it is another one
        intend = partial(
            steps.intend,
            job.job_id,
            job.revision,
            actor=actor,
            lease=SUBMIT_LEASE,
            orphan_wait=orphan_wait,
            handle=handle,
            worst=most,
            tokens=tokens,
        )
        intent, asked = _permission(intend, sleep)
        if intent.token is None:
            return intent.revision
        body = request or intent.revision.request
        with spans.span("aihandoff.submit", ledger, job.job_id, _attributes(job)) as span:
            sent = problem or _send(provider, intent.revision, body, metadata, asked)
            span.set({"aihandoff.submit.outcome": _outcome(sent)})
        sent = _cleaned(sent, body, intent.revision.request)
        if isinstance(sent, _Runs):
            return _record_runs(ledger, provider, job, intent.token, sent, actor)
        if isinstance(sent, ModelResponse):
            revision = _record(
                steps,
                provider,
                job,
                intent.token,
                sent.id,
                sent.status,
                actor,
                memory,
                finds_out=intent.finds_out,
                heard=sent.heard,
            )
            if revision is None:
                continue
            if take is None or not sent.readable:
                return revision
            take(revision, sent)
            return ledger.revision(job.job_id, job.revision)
        _record_failure(ledger, job, intent.token, sent, actor, orphan_wait)
        if sent.sent is Sent.SPENT or (sent.heard is not None and sent.heard.too_much):
            continue  # it is held from now on, like all of its connection
        failures += 1
        if failures >= SUBMIT_TRIES:
            raise NotSubmitted(
                f"the request was not accepted in {failures} tries: {sent.reason}.",
                job=job.label,
                remedy="Airflow's retry of this task continues from here.",
            )
        wait = max(sent.retry_after or 0.0, backoff(failures, base=_BACKOFF_BASE, cap=_BACKOFF_CAP))
        log.warning("Submitting %s failed (%s); next try in %.1f s.", job.label, sent.reason, min(wait, intent.left))
        sleep(min(wait, intent.left, 2 * _BACKOFF_CAP))


def _most(
    ledger: Ledger,
    provider: ModelProvider,
    job: Job,
    revision: Revision,
    request: Mapping[str, Any],
    worst: Callable[[int | None], WorstCase],
) -> WorstCase:
    """The most that a request can need; its input is counted where that matters, and the provider counts it."""
    most = worst(None)
    waits = revision.state is RevisionState.QUEUED
    if not most.loose or not waits or not ledger.budgets.bound(job, revision.conn_id):
        return most
    counted = provider.count_input(request, handle=revision.conversation_id)
    return most if counted is None else worst(counted)


def _permission(intend: Callable[[], Intent], sleep: Callable[[float], None]) -> tuple[Intent, float]:
    """Ask for the permission to send, and wait a moment where the limit of speed that holds it has room soon.

    :return: also when it was asked for, by the monotonic clock.
    """
    here = 0.0
    while True:
        asked = time.monotonic()
        intent = intend()
        here += intent.wait
        if intent.token is not None or intent.revision.held_kind != "rate" or here > _WAITS_HERE:
            return intent, asked if intent.asked is None else intent.asked
        sleep(intent.wait)


def _cleaned(
    sent: ModelResponse | SubmitFailure | _Runs, whole: Mapping[str, Any], shown: Mapping[str, Any]
) -> ModelResponse | SubmitFailure | _Runs:
    """What a request brought, without the secrets in it that the ledger does not keep: an answer may quote them.

    :param shown: the request as the ledger keeps it.
    """
    if isinstance(sent, ModelResponse):
        return sent
    return replace(sent, reason=cleaned(sent.reason, Secrets.between(whole, shown)))


def _outcome(sent: ModelResponse | SubmitFailure | _Runs) -> str:
    """How a trace names what a request brought."""
    if isinstance(sent, ModelResponse):
        return "accepted"
    return Sent.RUNS.value if isinstance(sent, _Runs) else sent.sent.value


def _attributes(job: Job) -> dict[str, str | int | None]:
    return {"aihandoff.job.type": job.job_type, "aihandoff.revision": job.revision}


@dataclass(frozen=True)
class _Runs:
    """The handle of a revision knows of the response to a request that was lost.

    :param check_after: how long no request is sent; None where the response has ended, and its output can be taken.
    :param surplus: a response that was created for this request all the same.
    """

    reason: str
    check_after: timedelta | None = None
    surplus: str | None = None


def _open_handle(
    provider: ModelProvider, revision: Revision, metadata: Mapping[str, str], request: Mapping[str, Any] | None
) -> tuple[str | None, SubmitFailure | None]:
    """A new handle for a revision of which nothing was sent yet, where the provider has handles; or why there is none.

    One that is not used costs nothing: the process died, or another one was sooner.
    """
    first = revision.state is RevisionState.QUEUED and revision.unknown_submissions == 0
    if not first or revision.conversation_id is not None:
        return None, None
    reached("submit.open handle", "before call")
    try:
        handle = provider.open_handle(request or revision.request, metadata)
    except ProviderError as error:
        return None, SubmitFailure(Sent.NO, f"no conversation could be made: {error.what.rstrip('.')}")
    reached("submit.open handle", "after call")
    return handle, None


def _send(
    provider: ModelProvider,
    revision: Revision,
    request: Mapping[str, Any],
    metadata: Mapping[str, str],
    asked: float,
) -> ModelResponse | SubmitFailure | _Runs:
    """Send a request; not where the handle has the output of a lost one, which is asked before and after.

    :param asked: when the permission was asked for, by the monotonic clock.
    """
    handle = revision.conversation_id
    lost = handle is not None and revision.unknown_submissions > 0
    if lost and (ended := _ended(provider, str(handle))):
        return ended
    reached("submit.create", "before call")
    if time.monotonic() - asked >= _SEND_WITHIN:
        return _SUSPENDED
    sent = provider.create(request, metadata, timeout=SUBMIT_TIMEOUT, handle=handle)
    if isinstance(sent, SubmitFailure):
        return _Runs(sent.reason, check_after=HANDLE_CHECK) if sent.sent is Sent.RUNS else sent
    reached("submit.create", "after call")
    # The first one may have ended just between the question and the request.
    if lost and not sent.ended and isinstance(ended := _ended(provider, str(handle)), _Runs):
        return replace(ended, surplus=sent.id)
    return sent


def _ended(provider: ModelProvider, handle: str) -> SubmitFailure | _Runs | None:
    try:
        ended = ended_in(provider, handle)
    except ProviderError as error:
        return SubmitFailure(Sent.NO, f"the conversation {handle} cannot be read: {error.what.rstrip('.')}")
    return _Runs("the response to the request that was lost has ended") if ended is not None else None


def _record_runs(ledger: Ledger, provider: ModelProvider, job: Job, token: UUID, runs: _Runs, actor: Actor) -> Revision:
    revision = ledger.submission.runs_in_handle(
        job.job_id,
        job.revision,
        token=token,
        actor=actor,
        reason=runs.reason,
        check_after=runs.check_after or timedelta(0),
        surplus=runs.surplus,
    )
    if runs.surplus is not None:
        provider.cancel(runs.surplus)  # the ledger names it: the reconciler records what it has cost
    return revision


def _record(
    steps: SubmitSteps,
    provider: ModelProvider,
    job: Job,
    token: UUID,
    response_id: str,
    status: ResponseStatus,
    actor: Actor,
    memory: Memory | None,
    *,
    finds_out: bool = False,
    heard: Heard | None = None,
) -> Revision | None:
    """Store the response id; None where the permission was lost meanwhile, and the response is orphaned."""
    facts: Facts = {"token": str(token), "response_id": response_id, "status": status}
    said = f"Response {response_id} runs for {job.label}. No external write was made."
    created = Unrecorded(memory, _kept_as(job), facts, said)
    with created.recording():
        revision = steps.submitted(
            job.job_id,
            job.revision,
            token=token,
            response_id=response_id,
            status=status,
            actor=actor,
            keep=created.keep,
            finds_out=finds_out,
            heard=heard,
        )
    if revision is None:
        log.warning("Response %s came for %s after it had been given up; cancelling it.", response_id, job.label)
        provider.cancel(response_id)  # the ledger names the response; there is nothing more to do here
    return revision


def _record_kept(
    ledger: Ledger, provider: ModelProvider, job: Job, revision: Revision, memory: Memory | None, actor: Actor
) -> Revision | None:
    """Store the response id that an earlier attempt had in hand while the ledger was unavailable; None without one."""
    if memory is None:
        return None
    if revision.state is not RevisionState.SUBMITTING and not revision.unknown_submissions:
        return None
    facts = memory.read(_kept_as(job))
    if facts is None:
        return None
    token, response_id = UUID(str(facts["token"])), str(facts["response_id"])
    status = ResponseStatus(str(facts["status"]))
    recorded = _record(ledger.submission, provider, job, token, response_id, status, actor, memory)
    memory.forget(_kept_as(job))
    return recorded


def _kept_as(job: Job) -> str:
    return f"aihandoff.response.{job.job_id}.{job.revision}"


def _record_failure(
    ledger: Ledger, job: Job, token: UUID, failure: SubmitFailure, actor: Actor, orphan_wait: timedelta
) -> None:
    where: dict[str, Any] = {"token": token, "actor": actor, "reason": failure.reason}
    if failure.sent is Sent.UNKNOWN:
        ledger.submission.submission_lost(job.job_id, job.revision, orphan_wait=orphan_wait, **where)
        return
    ledger.submission.not_submitted(
        job.job_id, job.revision, spent=failure.sent is Sent.SPENT, heard=failure.heard, **where
    )
    if failure.sent is Sent.NEVER:
        error = {"kind": "refused request", "message": failure.reason}
        ledger.outputs.fail(job.job_id, job.revision, actor=actor, reason=failure.reason, error=error)
        raise JobFailed(
            f"no response was created: {failure.reason}.",
            job=job.label,
            remedy=failure.remedy
            or "Fix the request, the connection or the account; then clear the task, which makes a new revision.",
        )
