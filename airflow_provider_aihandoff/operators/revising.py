"""Has the model change an output as a reviewer asks, and checks what a person has edited."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.errors import JobFailed
from airflow_provider_aihandoff.core.generation.change_request import context_tokens, origin_of
from airflow_provider_aihandoff.core.generation.outcome import in_words, problems_with
from airflow_provider_aihandoff.core.generation.provider import ModelProvider, ProviderFor, ResponseNotFound
from airflow_provider_aihandoff.core.generation.submit import submit
from airflow_provider_aihandoff.core.states import JobState, RevisionState
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.operators.job_tasks import DraftTask, draft_task
from airflow_provider_aihandoff.operators.masking import masked
from airflow_provider_aihandoff.operators.responding import (
    defer_until_ended,
    give_up_if_over,
    store_ended,
    store_response,
    wait_for_submission,
    wait_inline,
)
from airflow_provider_aihandoff.task_memory import memory_of
from airflow_provider_aihandoff.task_states import owner_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Job, Revision


def follow_reviewer(
    approval: BaseOperator,
    source: Any,
    context: Context,
    ledger: Ledger,
    job: Job,
    event: Mapping[str, Any] | None,
    *,
    ledger_conn_id: str | None,
) -> Job:
    """Go on with a revision that a reviewer has asked the model for: send it, wait for it, store it.

    Where nothing comes of it, the job goes back into review at the revision before.

    :param approval: the task that runs now, which waits for the response.
    :param source: what makes the job, as :func:`operators.job_argument.source_of` names it.
    :param event: what ended the wait for its response, if that is why the task runs.
    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    :return: the job as it is now; unchanged where its revision is the asking task's to make.
    :raises TaskDeferred: the response runs.
    """
    revision = ledger.revision(job.job_id, job.revision)
    if revision.changes is None:
        return job
    actor, task = owner_of(context).actor, draft_task(context["dag"], source)
    try:
        if task is None:
            reason = f"the Dag {context['dag'].dag_id} has no task that asks the model for this job"
            return ledger.outputs.fail(
                job.job_id, job.revision, actor=actor, reason=reason, error={"kind": "cannot be sent"}
            )
        with providers() as provider_for:
            if event is not None and event.get("revision") == revision.number:
                give_up_if_over(ledger, provider_for, event, actor=actor)
            else:
                revision = send_change(task, context, ledger, provider_for, job, revision)
                wait_for_submission(
                    approval,
                    ledger,
                    provider_for,
                    revision,
                    context=context,
                    source=source,
                    output_type=task.output_type,
                    ledger_conn_id=ledger_conn_id,
                    method_name="execute",
                )
                if not wait_inline(approval, ledger, provider_for, revision, patience=task.inline_wait):
                    defer_until_ended(approval, ledger, revision, ledger_conn_id=ledger_conn_id, method_name="execute")
            job = ledger.job(job.job_id)
            if job.state is JobState.RUNNING and job.revision == revision.number:
                store_ended(ledger, provider_for, job, revision, output_type=task.output_type, actor=actor)
    except JobFailed as failure:
        approval.log.warning("%s", failure)
    return ledger.job(job.job_id)


def send_change(
    task: DraftTask,
    context: Context,
    ledger: Ledger,
    provider_for: ProviderFor,
    job: Job,
    revision: Revision,
) -> Revision:
    """Send the request of a revision that a reviewer has asked for, unless its response runs; for the task that runs.

    :param task: the one that asks the model for this job.
    :raises JobFailed: it cannot be sent; the job is back in review.
    """
    owner = owner_of(context)
    if revision.state not in (RevisionState.QUEUED, RevisionState.SUBMITTING, RevisionState.RUNNING):
        return revision
    provider = provider_for(revision.conn_id)
    request, continues = (
        ({}, None)
        if revision.state is RevisionState.RUNNING
        else _request(task, context, ledger, job, revision, provider)
    )
    taken = ledger.submission.take_over(
        job.job_id, revision.number, owner=owner, request=masked(request), on_lost=task.on_lost_submission
    )
    if taken is None or taken.state is RevisionState.RUNNING:
        return ledger.revision(job.job_id, revision.number)
    return submit(
        ledger,
        provider,
        ledger.job(job.job_id),
        actor=owner.actor,
        request=request,
        orphan_wait=settings.seconds("orphan_wait"),
        take=partial(store_response, ledger, provider, output_type=task.output_type, actor=owner.actor),
        memory=memory_of(context),
        worst=partial(task.worst_case, request, context_tokens=continues),
    )


def _request(
    task: DraftTask,
    context: Context,
    ledger: Ledger,
    job: Job,
    revision: Revision,
    provider: ModelProvider,
) -> tuple[dict[str, Any], int | None]:
    """The request that continues what was asked first, with its secrets; and the tokens of what it continues, if they
    are known."""
    assert revision.based_on is not None
    assert revision.changes is not None
    before = ledger.revision(job.job_id, revision.based_on)
    origin = origin_of(before, partial(ledger.revision, job.job_id))
    asking = copy.copy(task)
    asking.render_template_fields({**context, "task": asking})  # type: ignore[typeddict-item]
    request = asking.build_request()
    if not ledger.submission.is_input(job, provider.input_snapshot(request)):  # the Dag was edited since
        kept = ledger.submission.first_request(job.job_id, revision.based_on)
        if kept is None:
            reason = "the Dag asks for other work by now, and what it asked for has secrets that are not kept"
            ledger.outputs.fail(
                job.job_id, job.revision, actor=owner_of(context).actor, reason=reason, error={"kind": "cannot be sent"}
            )
            raise JobFailed(f"{reason}.", job=job.label)
        request = kept
    response_id = origin.response_id if _is_known(provider, origin.response_id) else None
    continued = provider.continued(request, changes=revision.changes, before=before, response_id=response_id)
    return continued, context_tokens(provider, origin)


def _is_known(provider: ModelProvider, response_id: str | None) -> bool:
    """Whether OpenAI still has a response.

    :raises ProviderError: it does not say; Airflow's retry asks again.
    """
    if response_id is None:
        return False
    try:
        provider.retrieve(response_id)
    except ResponseNotFound:
        return False
    return True


def check_edit(source: Any, context: Context, ledger: Ledger, job: Job) -> Job:
    """Let the output type itself say whether it takes what a person has edited; undo the edit where it does not.

    :param source: what makes the job, as :func:`operators.job_argument.source_of` names it.
    :return: the job as it is now.
    """
    edit = ledger.revision(job.job_id, job.revision)
    task = draft_task(context["dag"], source)
    if edit.editor is None or job.review_digest is not None or task is None:
        return job
    if task.output_type is None:
        problems = [] if isinstance(edit.output, str) else [{"loc": [], "msg": "it must be a text"}]
    else:
        problems = problems_with(task.output_type, edit.output)
    if not problems:
        return job
    error = {"kind": "mismatch", "problems": problems}
    reason = f"the edit is not taken: {in_words(problems)}"
    return ledger.reviews.refuse_edit(
        job.job_id, edit.number, error=error, reason=reason, actor=owner_of(context).actor
    )
