"""How a task waits for the response that runs for its job, and stores what it leaves."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core import spans
from airflow_provider_aihandoff.core.generation.handle import take_from_handle
from airflow_provider_aihandoff.core.generation.lost import in_words
from airflow_provider_aihandoff.core.generation.outcome import Output, read_output
from airflow_provider_aihandoff.core.generation.provider import ModelResponse, ProviderError, ProviderFacts, ProviderFor
from airflow_provider_aihandoff.core.generation.settle import read_ended
from airflow_provider_aihandoff.core.generation.stop import give_up
from airflow_provider_aihandoff.core.generation.trace_content import content_attributes
from airflow_provider_aihandoff.core.states import JobState, RevisionState
from airflow_provider_aihandoff.hooks.ledger import LedgerHook
from airflow_provider_aihandoff.operators import notices
from airflow_provider_aihandoff.operators.job_tasks import notifiers_of
from airflow_provider_aihandoff.operators.masking import masked
from airflow_provider_aihandoff.task_states import owner_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from pydantic import BaseModel

    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Actor, Job, Revision

log = logging.getLogger(__name__)

#: Seconds between two polls while the worker itself waits, and after which it records that the response runs.
_INLINE_POLL, NOTE_EVERY = 0.5, 30.0


class StoreSteps(Protocol):
    """The transaction that stores an output: that of :class:`.Outputs`, or what does it together with others."""

    def store(
        self, job_id: int, number: int, output: Output, *, actor: Actor, reason: str | None, response_id: str | None
    ) -> Job:
        """As :meth:`.Outputs.store`."""


def wait_inline(
    task: BaseOperator, ledger: Ledger, provider_for: ProviderFor, revision: Revision, *, patience: timedelta | None
) -> bool:
    """Poll for a short while whether the response ends. True when there is something to finish.

    :param patience: how long; by default ``[aihandoff] inline_wait``.
    """
    if revision.state is not RevisionState.RUNNING or revision.response_id is None:
        return True
    noted = time.monotonic()
    until = noted + (settings.seconds("inline_wait") if patience is None else patience).total_seconds()
    provider = provider_for(revision.conn_id)
    while time.monotonic() < until:
        try:
            if provider.retrieve(revision.response_id).ended:
                return True
            if time.monotonic() - noted >= NOTE_EVERY:
                ledger.signs.seen({revision.job_id: revision.number})
                noted = time.monotonic()
        except ProviderError as error:  # the trigger waits it out
            task.log.info("Polling %s: %s", revision.response_id, error.what)
        time.sleep(_INLINE_POLL)
    return False


def defer_until_ended(
    task: BaseOperator, ledger: Ledger, revision: Revision, *, ledger_conn_id: str | None, method_name: str
) -> None:
    """Defer until the response of a revision has ended, or its deadline has passed.

    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    :param method_name: the method of the task that is called with the event.
    :raises TaskDeferred: always.
    """
    from airflow_provider_aihandoff.triggers.response import OpenAIBackgroundResponseTrigger

    assert revision.response_id is not None
    not_before = ledger.now() + settings.seconds("min_deferral")
    ledger.close()
    task.defer(
        trigger=OpenAIBackgroundResponseTrigger(
            job_id=revision.job_id,
            revision=revision.number,
            response_id=revision.response_id,
            openai_conn_id=revision.conn_id,
            ledger_conn_id=LedgerHook(ledger_conn_id).ledger_conn_id,
            deadline=revision.deadline.isoformat(),
            not_before=not_before.isoformat(),
            poll_interval=settings.number("poll_interval"),
        ),
        method_name=method_name,
    )


def wait_for_submission(
    task: BaseOperator,
    ledger: Ledger,
    provider_for: ProviderFor,
    revision: Revision,
    *,
    context: Context,
    source: Any,
    output_type: type[BaseModel] | None,
    ledger_conn_id: str | None,
    method_name: str,
) -> None:
    """Defer while another attempt sends the request, one was lost, or it is held; return where nothing is waited for.

    The output of a lost request that has ended in its handle is stored. Where a person is to say what becomes of it,
    those whom the approval of the job notifies are notified.

    :param source: what makes the job, as :func:`operators.job_argument.source_of` names it.
    :param ledger_conn_id: as in :func:`defer_until_ended`, and so is ``method_name``.
    :raises TaskDeferred: no request may be sent yet, and no response is known.
    """
    from airflow_provider_aihandoff.triggers.submission import SubmissionTrigger

    if revision.state is not RevisionState.SUBMITTING and not revision.is_held:
        return
    try:
        actor, provider = owner_of(context).actor, provider_for(revision.conn_id)
        if take_from_handle(ledger, provider, revision, output_type=output_type, actor=actor):
            return
    except ProviderError as error:  # the trigger polls it
        task.log.info("Reading %s: %s", revision.conversation_id, error.what)
    lease_until = revision.submit_lease_until or revision.deadline
    if revision.is_held:
        task.log.warning("Nothing is sent to the model for now: %s", revision.held_why)
    else:
        words = in_words(revision) or f"A request is being sent; waiting until {lease_until} for its answer."
        task.log.info("%s", words)
    now, until = ledger.now(), None
    asks = revision.is_lost and revision.on_lost == "ask"
    if asks and not notices.notify_wait(notifiers_of(context["dag"], source), context, ledger, revision):
        until = (now + timedelta(seconds=notices.NOTICE_RETRY)).isoformat()
    ledger.close()
    task.defer(
        trigger=SubmissionTrigger(
            job_id=revision.job_id,
            revision=revision.number,
            handle=revision.conversation_id if revision.is_lost else None,
            openai_conn_id=revision.conn_id,
            ledger_conn_id=LedgerHook(ledger_conn_id).ledger_conn_id,
            lease_until=lease_until.isoformat(),
            not_before=(now + settings.seconds("min_deferral")).isoformat(),
            until=until,
            poll_interval=settings.number("poll_interval"),
        ),
        method_name=method_name,
    )


def store_ended(
    ledger: Ledger,
    provider_for: ProviderFor,
    job: Job,
    revision: Revision,
    *,
    output_type: type[BaseModel] | None,
    actor: Actor,
) -> Job:
    """Store what the response of a revision has left, unless that was done."""
    while job.state is JobState.RUNNING and job.revision == revision.number and revision.response_id is not None:
        provider, response_id = provider_for(revision.conn_id), revision.response_id
        response = read_ended(provider, response_id)
        job = store_response(ledger, provider, revision, response, output_type=output_type, actor=actor)
        revision = ledger.revision(job.job_id, revision.number)
        if revision.response_id == response_id:
            break
        # Another response of the revision has ended first, and was taken. There is one of those at most.
    return job


def store_response(
    ledger: Ledger,
    provider: ProviderFacts,
    revision: Revision,
    response: ModelResponse,
    *,
    output_type: type[BaseModel] | None,
    actor: Actor,
    steps: StoreSteps | None = None,
) -> Job:
    """Store what a response in hand has left, unless that was done.

    :param steps: what stores it; by default the ledger's own step, for this job alone.
    """
    output, why = read_output(response, output_type, provider.price(response, revision.request))
    job = (steps or ledger.outputs).store(
        revision.job_id, revision.number, output, actor=actor, reason=why or None, response_id=response.id
    )
    if spans.is_used():
        _add_span(ledger, provider, ledger.revision(revision.job_id, revision.number), response)
    return job


def _add_span(ledger: Ledger, provider: ProviderFacts, revision: Revision, response: ModelResponse) -> None:
    """Add the span of the model's work, from its request until its output is stored, by the conventions for GenAI."""
    model, usage = str(revision.request.get("model", "")), response.usage or {}
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider.name,
        "gen_ai.request.model": model or None,
        "gen_ai.response.model": response.model,
        "gen_ai.response.id": response.id,
        "gen_ai.response.finish_reasons": [response.incomplete_reason or response.status.value],
        "gen_ai.usage.input_tokens": usage.get("input_tokens"),
        "gen_ai.usage.output_tokens": usage.get("output_tokens"),
        "error.type": response.error_code,
        "aihandoff.revision": revision.number,
        **_content(provider, revision, response),
    }
    times = {"began": revision.submitted_at, "at": revision.completed_at}
    spans.ended(f"chat {model}".strip(), ledger, revision.job_id, attributes, client=True, **times)


def _content(provider: ProviderFacts, revision: Revision, response: ModelResponse) -> dict[str, str]:
    """The input and the output, where ``[aihandoff] trace_content`` is on. What fails here keeps no job from going on.

    The request is that of the ledger, in which the secrets that its author named are masked.
    """
    try:
        if not settings.flag("trace_content"):
            return {}
        return content_attributes(
            provider.prompt(revision.request), response, lambda text: str(masked({"body": text})["body"])
        )
    except Exception as error:  # noqa: BLE001
        log.warning("The span of %s has no content: %s", response.id, type(error).__name__)
        return {}


def give_up_if_over(ledger: Ledger, provider_for: ProviderFor, event: Mapping[str, Any], *, actor: Actor) -> None:
    """End a revision whose deadline passed, or whose response is gone, as the trigger says; unless it ended after all.

    :param event: the trigger's.
    """
    if event["status"] not in ("deadline", "gone"):
        return
    job_id, number = int(event["job_id"]), int(event["revision"])
    provider = provider_for(ledger.revision(job_id, number).conn_id)
    give_up(ledger, provider, job_id, number, why=event["status"], actor=actor)
