"""The operator that asks the model: one job, one bill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.amounts import checked_amount
from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.errors import JobCancelled, JobFailed
from airflow_provider_aihandoff.core.generation.outcome import is_final
from airflow_provider_aihandoff.core.generation.stop import cancel, record_cancelled, record_cost
from airflow_provider_aihandoff.core.job_requests.declared_type import DeclaredType
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.core.text import plain_or_none
from airflow_provider_aihandoff.hooks.model_provider import facts_for, providers
from airflow_provider_aihandoff.operators.job_tasks import JobRole, effect_tasks
from airflow_provider_aihandoff.operators.masking import masked
from airflow_provider_aihandoff.operators.rate_arguments import checked_max_wait, checked_priority
from airflow_provider_aihandoff.operators.rendering import RendersText
from airflow_provider_aihandoff.operators.retries import RETRIES, RETRY_DELAY, final_errors
from airflow_provider_aihandoff.operators.task_links import ReviewLink
from airflow_provider_aihandoff.task_states import ENDED_TASK_STATES, loop_suffix, owner_of, state_among

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage
    from pydantic import BaseModel

    from airflow_provider_aihandoff.core.generation.provider import ProviderFacts, ProviderFor, WorstCase
    from airflow_provider_aihandoff.core.generation.submit import SubmitSteps
    from airflow_provider_aihandoff.core.job_requests.job_request import JobRequest
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import (
        Actor,
        Approval,
        Job,
        JobSpec,
        OnLost,
        Owner,
        PriorityName,
        Revision,
    )

#: Arguments that are sent to the Responses API under the same name.
REQUEST_FIELDS = (
    "input",
    "model",
    "instructions",
    "tools",
    "reasoning",
    "max_output_tokens",
    "max_tool_calls",
    "service_tier",
    "background_options",
    "metadata",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "safety_identifier",
)


class OpenAIBackgroundResponseOperator(RendersText):
    """Ask the model in the background, and keep the answer as a job in the ledger.

    **Retry, clear, second run**: the task attaches to the job with its ``job_type`` and ``job_key``. A response that
    runs is waited for, an output that is stored is returned; neither is paid again. A job that failed gets a new
    revision, up to ``max_revisions``; one that was rejected gets one only from another Dag run. Another input under
    the same key makes a new revision until an external write was made or the job is completed, and is an error
    afterwards.

    **Regenerate**: a run with the conf ``{"regenerate": true}``, or a list of task ids instead of ``true``, makes one
    new revision of its jobs, whatever they are. It is refused while an applied effect of the job is not
    undone.

    **Kill**: marking the task failed cancels the response, running or deferred, and the job is cancelled. Clearing it,
    or restarting workers and triggerers, does not.

    **Deadline**: absolute, from the moment a revision is opened, and not moved by a retry or a restart.

    The XCom is small: ``{"job_id", "job_type", "job_key", "revision", "response_id", "output_digest", "state",
    "cost_usd"}``, and ``output`` while it is below ``[aihandoff] xcom_output_limit`` and Airflow can carry it.

    :param input: text, or a list of input items (templated).
    :param model: the model (templated).
    :param instructions: the system message (templated).
    :param output_type: a Pydantic model; it is sent as a strict JSON schema, and the answer is validated against it.
        A mismatch or a refusal fails the revision, and the ledger keeps the text.
    :param job_type: what kind of work it is; by default the id of the Dag. A
        :class:`~airflow_provider_aihandoff.job_types.JobType`, where the Dag does such jobs for those who ask: in a run
        that was made for a request, key, requester and permissions are those of the request, as the ledger has them.
    :param job_key: what identifies this piece of work among its kind (templated); by default Dag, run, task and map
        index, so that each run makes its own job.
    :param requested_by: who asked (templated); by default the user who triggered the run.
    :param permissions: what the work may touch, for reviewers and policies; recorded with the job (templated).
    :param approval: ``required``, or ``not required`` together with ``approval_reason``.
    :param approval_reason: why no one has to approve; it goes on the record.
    :param deadline: how long a revision may take, or until when; by default ``[aihandoff] response_deadline``.
    :param max_revisions: how many revisions by the model a job may have. One whose request the provider refused, as
        by a spending limit, does not count.
    :param retry_incomplete: a response that stopped at ``max_output_tokens`` is asked for again, up to
        ``max_revisions``. By default it is not: the same request would most likely stop there again, and be paid again.
    :param max_cost_usd: no request is sent that could make the job cost more, the first one or a change that a reviewer
        asks for; None for no such bound. Where the price of an earlier one is not known, none is sent. Calls of the
        provider's tools are in no price.
    :param expected_output_tokens: how long an answer is at most, as far as you know, where ``max_output_tokens`` is not
        set: so much is reserved in :doc:`budgets </spending>`, in place of the most that the model can write.
    :param unpriced: what becomes of a request of which it is not known what it can cost, where a budget or
        ``max_cost_usd`` is about it: ``refuse``, or the most that one can cost, in US dollars.
    :param tags: what you call the work, for budgets and reports (templated).
    :param inline_wait: how long the worker waits by itself before the task defers.
    :param on_lost_submission: what to do where the answer to a request was lost, so that a response may exist and be
        billed: ``wait`` for its webhook until the deadline; ``ask`` a person, who says on the job's page, over REST or
        in the terminal whether to send it again; ``resend`` it, once, after ``[aihandoff] orphan_wait``. By default it
        waits where webhooks are known to arrive on the connection, for as long as a response of the job type may take,
        and is sent again once where nothing could arrive. It waits deferred. With a conversation (see
        :doc:`/operators`) OpenAI is asked instead, whatever is set here.
    :param response_kwargs: further arguments of ``responses.create``, for what is not listed here (templated).
    :param stream: those who may see the job can watch it: the summary of the reasoning, and the text, arrive on its
        page while the model works. It is part of the processing, not of the input; nothing of it is stored, and the
        output is read as ever. Not with a completion window, nor in a batch.
    :param priority: ``interactive``, where a person waits for the answer: it goes before those of batches where a
        limit of speed holds them. Revisions at a reviewer's wish always do.
    :param rate_key: the name of limits of speed that the request counts for, beside those of its connection
        (templated).
    :param max_wait: how long a request waits for a limit of speed, before the job fails; None: until its deadline.
    :param openai_conn_id: connection of the type OpenAI.
    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.

    ``tools``, ``reasoning``, ``max_output_tokens``, ``max_tool_calls``, ``service_tier``, ``background_options``,
    ``metadata``, ``previous_response_id``, ``prompt_cache_key``, ``prompt_cache_retention``, ``prompt_cache_options``
    and ``safety_identifier`` are those of the Responses API (templated).
    """

    template_fields: Sequence[str] = (
        *REQUEST_FIELDS,
        "response_kwargs",
        "job_type",
        "job_key",
        "requested_by",
        "permissions",
        "approval_reason",
        "tags",
        "rate_key",
        "openai_conn_id",
        "ledger_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "instructions": "md",
        "response_kwargs": "json",
        "permissions": "json",
    }
    ui_color = "#e8f3ee"
    job_role = JobRole.DRAFT
    operator_extra_links = (ReviewLink(),)

    #: The job that the task has made, as its XCom names it; None before.
    made: dict[str, int] | None = None

    def __init__(
        self,
        *,
        input: str | list[dict[str, Any]],
        model: str,
        instructions: str | None = None,
        output_type: type[BaseModel] | None = None,
        tools: list[dict[str, Any]] | None = None,
        reasoning: dict[str, Any] | None = None,
        max_output_tokens: int | None = None,
        max_tool_calls: int | None = None,
        service_tier: str | None = None,
        background_options: dict[str, Any] | None = None,
        metadata: dict[str, str] | None = None,
        previous_response_id: str | None = None,
        prompt_cache_key: str | None = None,
        prompt_cache_retention: str | None = None,
        prompt_cache_options: dict[str, Any] | None = None,
        safety_identifier: str | None = None,
        response_kwargs: dict[str, Any] | None = None,
        job_type: str | DeclaredType = "{{ dag.dag_id }}",
        job_key: str | None = None,
        requested_by: str | None = None,
        permissions: dict[str, Any] | None = None,
        approval: Approval = "required",
        approval_reason: str | None = None,
        deadline: timedelta | datetime | None = None,
        max_revisions: int = 3,
        retry_incomplete: bool = False,
        max_cost_usd: Decimal | float | None = None,
        expected_output_tokens: int | None = None,
        unpriced: Decimal | float | Literal["refuse"] = "refuse",
        tags: Sequence[str] = (),
        inline_wait: timedelta | None = None,
        on_lost_submission: OnLost | None = None,
        stream: bool = False,
        priority: PriorityName = "batch",
        rate_key: str | None = None,
        max_wait: timedelta | None = None,
        openai_conn_id: str = "openai_default",
        ledger_conn_id: str | None = None,
        retries: int | None = RETRIES,
        retry_delay: timedelta | float = RETRY_DELAY,
        **kwargs: Any,
    ) -> None:
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)
        self.input = input
        self.model = model
        self.instructions = instructions
        self.output_type = output_type
        self.tools = tools
        self.reasoning = reasoning
        self.max_output_tokens = max_output_tokens
        self.max_tool_calls = max_tool_calls
        self.service_tier = service_tier
        self.background_options = background_options
        self.metadata = metadata
        self.previous_response_id = previous_response_id
        self.prompt_cache_key = prompt_cache_key
        self.prompt_cache_retention = prompt_cache_retention
        self.prompt_cache_options = prompt_cache_options
        self.safety_identifier = safety_identifier
        self.response_kwargs = response_kwargs
        self.takes_requests = isinstance(job_type, DeclaredType)
        self.job_type = job_type.name if isinstance(job_type, DeclaredType) else job_type
        self.job_key = job_key
        self.requested_by = requested_by
        self.permissions = permissions
        self.approval = approval
        self.approval_reason = approval_reason
        self.deadline = deadline
        self.max_revisions = max_revisions
        self.retry_incomplete = retry_incomplete
        self.max_cost_usd = None if max_cost_usd is None else Decimal(str(max_cost_usd))
        self.expected_output_tokens = expected_output_tokens
        self.unpriced = unpriced
        self.tags = tags
        self.inline_wait = inline_wait
        self.on_lost_submission = on_lost_submission
        self.stream = _checked_flag("stream", stream)
        self.priority = checked_priority(priority)
        self.rate_key = rate_key
        self.max_wait = checked_max_wait(max_wait)
        self.openai_conn_id = openai_conn_id
        self.ledger_conn_id = ledger_conn_id
        self._check_arguments()

    def _check_arguments(self) -> None:
        if self.approval not in ("required", "not required"):
            raise ValueError(f"approval must be 'required' or 'not required', not {self.approval!r}.")
        if self.approval == "not required" and not self.approval_reason:
            raise ValueError("approval='not required' needs an approval_reason: it goes on the record.")
        if self.on_lost_submission not in (None, "wait", "ask", "resend"):
            raise ValueError(
                f"on_lost_submission must be 'wait', 'ask', 'resend' or None, not {self.on_lost_submission!r}."
            )
        if self.unpriced != "refuse":
            checked_amount(self.unpriced, what="unpriced")
        if self.max_cost_usd is not None:
            checked_amount(self.max_cost_usd, what="max_cost_usd")
        if self.expected_output_tokens is not None and self.expected_output_tokens < 1:
            raise ValueError(f"expected_output_tokens must be at least 1, not {self.expected_output_tokens}.")
        if self.max_revisions < 1:
            raise ValueError(f"max_revisions must be at least 1, not {self.max_revisions}.")
        if isinstance(self.deadline, datetime) and self.deadline.tzinfo is None:
            raise ValueError("deadline must be a timedelta, or a datetime with a time zone.")
        if self.output_type is not None:
            facts_for(self.openai_conn_id).check_output_type(self.output_type)

    def execute(self, context: Context) -> dict[str, Any]:
        """Open or attach to the job, submit if nothing runs for it, and wait for a little while; then defer."""
        from airflow_provider_aihandoff.core.jobs.attach import Attachment
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.operators.requesting import requested_in, stop_if_cancelled

        owner = owner_of(context)
        with (
            final_errors(self.ledger_conn_id) as subject,
            LedgerHook(self.ledger_conn_id).get_conn() as ledger,
            providers() as provider_for,
        ):
            asked = requested_in(context, ledger, self.job_type) if self.takes_requests else None
            spec = self._spec(context, asked)
            subject.key = (spec.job_type, spec.job_key)
            opened = ledger.submission.open(spec)
            job, revision = opened.job, opened.revision
            self.made = {"job_id": job.job_id}
            if asked is not None:
                stop_if_cancelled(ledger, provider_for, asked, job, actor=owner.actor)
            self.log.info("Attached to %s: %s.", job.label, opened.next)
            self._running = (job, context["ti"], owner)
            if opened.superseded is not None:
                self._cancel_superseded(ledger, provider_for, opened.superseded, owner.actor)
            if opened.next is Attachment.SUBMIT:
                revision = self._submit(context, ledger, provider_for, job, revision, spec.request)
            return self._wait(context, ledger, provider_for, revision)

    def execute_submission(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Go on after the wait for the outcome of a request: send it, if it may be sent; then wait for its response."""
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook

        owner = owner_of(context)
        job_id = int(event["job_id"])
        self.made = {"job_id": job_id}
        with (
            final_errors(self.ledger_conn_id, job_id),
            LedgerHook(self.ledger_conn_id).get_conn() as ledger,
            providers() as provider_for,
        ):
            job = ledger.job(job_id)
            revision = ledger.revision(job.job_id, int(event["submission"]))
            self._running = (job, context["ti"], owner)
            if job.state is JobState.QUEUED and job.revision == revision.number:
                request = self.build_request()
                asked = provider_for(revision.conn_id).input_snapshot(request)
                if not ledger.submission.is_input(job, asked):  # its fields render to other work
                    return self.execute(context)
                revision = self._submit(context, ledger, provider_for, job, revision, request)
            return self._wait(context, ledger, provider_for, revision)

    def _wait(self, context: Context, ledger: Ledger, provider_for: ProviderFor, revision: Revision) -> dict[str, Any]:
        """Wait for what runs for a revision, in the worker for a little while and then deferred; finish what ended."""
        from airflow_provider_aihandoff.operators.responding import defer_until_ended, wait_for_submission, wait_inline

        wait_for_submission(
            self,
            ledger,
            provider_for,
            revision,
            context=context,
            source=self.task_id,
            output_type=self.output_type,
            ledger_conn_id=self.ledger_conn_id,
            method_name="execute_submission",
        )
        if not wait_inline(self, ledger, provider_for, revision, patience=self.inline_wait):
            defer_until_ended(
                self, ledger, revision, ledger_conn_id=self.ledger_conn_id, method_name="execute_complete"
            )
        return self._finish(context, ledger, provider_for, revision.job_id)

    def _submit(
        self,
        context: Context,
        ledger: Ledger,
        provider_for: ProviderFor,
        job: Job,
        revision: Revision,
        request: dict[str, Any],
        steps: SubmitSteps | None = None,
    ) -> Revision:
        from airflow_provider_aihandoff.core.generation.submit import submit
        from airflow_provider_aihandoff.operators.responding import store_response
        from airflow_provider_aihandoff.operators.revising import send_change
        from airflow_provider_aihandoff.task_memory import memory_of

        if revision.changes is not None:  # a reviewer asked for it, and the approval task has not sent it yet
            return send_change(self, context, ledger, provider_for, job, revision)
        provider = provider_for(revision.conn_id)
        return submit(
            ledger,
            provider,
            job,
            actor=owner_of(context).actor,
            request=request,
            orphan_wait=settings.seconds("orphan_wait"),
            take=partial(store_response, ledger, provider, output_type=self.output_type, actor=owner_of(context).actor),
            memory=memory_of(context),
            worst=partial(self.worst_case, request),
            steps=steps,
            found=revision,
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Go on after the wait: read what the response left, store it, and return it."""
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.operators.responding import give_up_if_over

        job_id = int(event["job_id"])
        self.made = {"job_id": job_id}
        with (
            final_errors(self.ledger_conn_id, job_id),
            LedgerHook(self.ledger_conn_id).get_conn() as ledger,
            providers() as provider_for,
        ):
            give_up_if_over(ledger, provider_for, event, actor=owner_of(context).actor)
            return self._finish(context, ledger, provider_for, job_id)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """What OpenLineage gets: model, digests and the job, and no content. See :mod:`operators.lineage`."""
        from airflow_provider_aihandoff.operators.lineage import draft_lineage

        return draft_lineage(self, self.ledger_conn_id)

    def on_kill(self) -> None:
        """Cancel the response if a person ended the running task, and only then; the request is recorded first.

        A clear, or a worker that is shut down, arrives here as well; another attempt takes the job up then.
        """
        running = getattr(self, "_running", None)
        if running is None:
            return
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook

        job, ti, owner = running
        if self._state_of(ti, owner) not in ENDED_TASK_STATES:
            self.log.info("This task has not ended: the response of %s goes on.", job.label)
            return
        reason = "the task was ended while it ran"
        with LedgerHook(self.ledger_conn_id).get_conn() as ledger, providers() as provider_for:
            revision = ledger.outputs.request_cancel(job.job_id, owner=owner, actor=owner.actor, reason=reason)
            if revision is not None and revision.response_id is not None:
                provider = provider_for(revision.conn_id)
                response = cancel(provider, revision.response_id)
                record_cancelled(ledger, provider, revision, response, actor=owner.actor, reason=reason)

    def _state_of(self, ti: Any, owner: Owner) -> str | None:
        """The state of the own task instance now, or None where it cannot be read."""
        index = owner.map_index if owner.map_index >= 0 else None
        try:
            states = ti.get_task_states(
                dag_id=owner.dag_id, task_ids=[owner.task_id], run_ids=[owner.run_id], map_index=index
            )
        except Exception as error:
            self.log.error("The state of this task cannot be read; nothing is cancelled.", exc_info=shown(error))
            return None
        return state_among(owner, states)

    def _spec(self, context: Context, asked: JobRequest | None = None) -> JobSpec:
        """What this task asks for.

        :param asked: the request that its run was made for.
        """
        from airflow_provider_aihandoff.core.models import JobSpec

        owner = owner_of(context)
        own_key, own_requester, own_permissions = self.job_key, self.requested_by, self.permissions
        if asked is not None:
            own_key = asked.job_key if own_key is None else own_key
            own_requester = asked.requested_by if own_requester is None else own_requester
            own_permissions = asked.permissions if own_permissions is None else own_permissions
        request = self.build_request()
        facts, shown = self._facts, masked(request)
        index = f"[{owner.map_index}]" if owner.map_index >= 0 else ""
        default_key = f"{owner.dag_id}/{owner.run_id}/{owner.task_id}{index}{loop_suffix(context)}"
        return JobSpec(
            job_type=self.job_type,
            job_key=default_key if own_key is None else own_key,
            input=facts.input_snapshot(request),
            request=request,
            shown_input=facts.input_snapshot(shown),
            shown_request=shown,
            conn_id=self.openai_conn_id,
            requested_by=triggered_by(context) if own_requester is None else own_requester,
            permissions={} if own_permissions is None else own_permissions,
            approval=self.approval,
            approval_reason=self.approval_reason,
            max_revisions=self.max_revisions,
            max_cost_usd=self.max_cost_usd,
            tags=(self.tags,) if isinstance(self.tags, str) else tuple(self.tags),
            on_lost=self.on_lost_submission,
            priority=self.priority,
            rate_key=self.rate_key,
            max_wait=self.max_wait,
            expected_output_tokens=self.expected_output_tokens,
            unpriced_usd=self._unpriced_usd,
            triggered_by=_triggering_user(context),
            deadline=self.deadline or settings.seconds("response_deadline"),
            owner=owner,
            regenerate=self._is_asked_again(context),
        )

    def _is_asked_again(self, context: Context) -> bool:
        """Whether the run was triggered to make a new revision: of every job, or of this task's."""
        wanted: Any = (context["dag_run"].conf or {}).get("regenerate", False)
        if not isinstance(wanted, (bool, list)):
            raise AirflowFailException(
                f"The run's conf has regenerate={wanted!r}; it must be true, false or a list of task ids. Nothing was "
                "sent to the model, and no external write was made. Correct the conf, and trigger the run again."
            )
        return self.task_id in wanted if isinstance(wanted, list) else wanted

    @property
    def _facts(self) -> ProviderFacts:
        """What is known of the provider without asking it."""
        return facts_for(self.openai_conn_id)

    def build_request(self) -> dict[str, Any]:
        """The request that the rendered fields make, with its secrets.

        :raises RequestError: they make none.
        """
        arguments = {**{name: getattr(self, name) for name in REQUEST_FIELDS}, **(self.response_kwargs or {})}
        return self._facts.build_request(arguments, self.output_type, stream=self.stream)

    def worst_case(
        self, request: Mapping[str, Any], counted: int | None = None, *, context_tokens: int | None = None
    ) -> WorstCase:
        """The most that a request can need; where that is not known, it can cost what its author says.

        :param counted: how many tokens its input has, where the provider has counted them.
        :param context_tokens: of the response that it continues, if that is known.
        """
        worst = self._facts.worst_case(
            request,
            expected_output_tokens=self.expected_output_tokens,
            context_tokens=context_tokens,
            counted=counted,
        )
        return worst.or_at_most(self._unpriced_usd)

    @property
    def _unpriced_usd(self) -> Decimal | None:
        return None if self.unpriced == "refuse" else checked_amount(self.unpriced, what="unpriced")

    def _finish(self, context: Context, ledger: Ledger, provider_for: ProviderFor, job_id: int) -> dict[str, Any]:
        """Store what the response left, unless that was done, and return the XCom."""
        from airflow_provider_aihandoff.operators.responding import store_ended

        job, actor = ledger.job(job_id), owner_of(context).actor
        revision = ledger.revision(job_id, job.revision)
        job = store_ended(ledger, provider_for, job, revision, output_type=self.output_type, actor=actor)
        revision = ledger.revision(job_id, job.revision)
        self._raise_unless_usable(job, revision)
        if job.state is JobState.APPROVED and not self._has_effects():
            job = ledger.effects.complete_without_effects(job_id, actor=actor)
        return self._xcom(job, revision)

    def _has_effects(self) -> bool:
        return bool(effect_tasks(self.get_dag(), self.task_id))

    @staticmethod
    def _cancel_superseded(ledger: Ledger, provider_for: ProviderFor, revision: Revision, actor: Actor) -> None:
        """Stop the response of an input that was replaced, and record what it has cost."""
        if revision.response_id is None:  # it is in a batch, which goes on for the others: its result is late
            return
        provider = provider_for(revision.conn_id)
        record_cost(ledger, provider, revision, cancel(provider, revision.response_id), actor=actor)

    def _raise_unless_usable(self, job: Job, revision: Revision) -> None:
        if job.state is JobState.CANCELLED:
            raise JobCancelled(f"it was cancelled ({job.state_reason}).", job=job.label)
        if job.state is JobState.FAILED and (self._is_final(revision) or revision.number >= job.max_revisions):
            raise JobFailed(
                f"{job.state_reason}.",
                job=job.label,
                remedy="The ledger keeps what there was (`airflow aihandoff jobs show`). Clear the task for a new "
                "revision, after fixing the input.",
            )
        if job.state is JobState.RUNNING and revision.is_in_batch:
            raise RevisionFailed(
                f"{job.label}: its request is in batch {revision.batch_id} of set {job.set_id}, which takes up to a "
                "day. This step sent nothing, and made no external write. A retry takes the output when it is there."
            )
        if job.state in (JobState.FAILED, JobState.QUEUED):
            raise RevisionFailed(
                f"{job.label}: {job.state_reason}. This step made no external write. A retry makes a new revision, at "
                f"most {job.max_revisions} in all."
            )

    def _is_final(self, revision: Revision) -> bool:
        """Whether another revision would only cost."""
        error = revision.error or {}
        return is_final(error) and not (self.retry_incomplete and error.get("code") == "max_output_tokens")

    def _xcom(self, job: Job, revision: Revision) -> dict[str, Any]:
        from airflow_provider_aihandoff.operators.xcom import fits_xcom

        xcom: dict[str, Any] = {
            "job_id": job.job_id,
            "job_type": job.job_type,
            "job_key": job.job_key,
            "revision": revision.number,
            "response_id": revision.response_id,
            "output_digest": revision.output_digest,
            "state": job.state.value,
            "cost_usd": None if revision.cost_usd is None else str(revision.cost_usd),
        }
        if fits_xcom(revision.output, limit=settings.number("xcom_output_limit")):
            xcom["output"] = revision.output
        return xcom


def _checked_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}.")
    return value


class RevisionFailed(RuntimeError):
    """A revision failed, and a retry may make a new one."""


def triggered_by(context: Context) -> str:
    """The user who triggered the run; otherwise what did."""
    dag_run = context["dag_run"]
    user = plain_or_none(_triggering_user(context))
    return user or f"airflow ({getattr(dag_run.run_type, 'value', dag_run.run_type)} run)"


def _triggering_user(context: Context) -> str | None:
    user = getattr(context["dag_run"], "triggering_user_name", None)
    return str(user) if user else None
