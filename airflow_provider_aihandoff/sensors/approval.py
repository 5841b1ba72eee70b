"""Waits until somebody, or a written policy, has decided on exactly what would be written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, BaseSensorOperator

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.operators.jobs import (
    RETRIES,
    RETRY_DELAY,
    JobReference,
    final_errors,
    job_reference,
    owner_of,
    resolve_job_id,
    source_of,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.jobview import JobView
    from airflow_provider_aihandoff.ledger import Ledger
    from airflow_provider_aihandoff.ledger.records import EffectPlan, Job
    from airflow_provider_aihandoff.policies import ApprovalPolicy


class ApprovalSensor(BaseSensorOperator):
    """Render the plan of a job's effects, ask for a decision on it, and wait without a worker slot.

    The decision lives in the ledger, bound to one digest of the output, the plan and the policy together. People decide
    on the review page in the Airflow UI, over REST, or with ``airflow aihandoff approve|reject``.

    **Retry and clear**: a decision stands, and the task ends the same way again. A plan that has changed since (an
    edited Dag, another input) is asked about anew while nothing of it was sent.

    **Kill**: marking the task failed while it waits cancels the job: nothing will be written for it. Restarts of
    workers and triggerers do not.

    :param job: the operator that makes the job, or a job id.
    :param policy: asked first; what it approves needs no person.
    :param timeout: how long to wait for a decision; absolute from the moment of asking, and not moved by a retry. By
        default ``[sensors] default_timeout``.
    :param on_timeout: what the end of that time means: ``reject``, or ``fail`` the job.
    :param on_reject: what a rejection means for the Dag: ``skip`` what comes after, or ``fail``.
    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    """

    template_fields: Sequence[str] = ("job", "ledger_conn_id")
    ui_color = "#e7e9f7"

    def __init__(
        self,
        *,
        job: JobReference,
        policy: ApprovalPolicy | None = None,
        on_timeout: Literal["reject", "fail"] = "reject",
        on_reject: Literal["skip", "fail"] = "skip",
        ledger_conn_id: str | None = None,
        retries: int | None = RETRIES,
        retry_delay: timedelta | float = RETRY_DELAY,
        **kwargs: Any,
    ) -> None:
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)
        if on_timeout not in ("reject", "fail"):
            raise ValueError(f"on_timeout must be 'reject' or 'fail', not {on_timeout!r}.")
        if on_reject not in ("skip", "fail"):
            raise ValueError(f"on_reject must be 'skip' or 'fail', not {on_reject!r}.")
        self.job = job_reference(job)
        self.job_source = source_of(self.job)
        self.policy = policy
        self.on_timeout = on_timeout
        self.on_reject = on_reject
        self.ledger_conn_id = ledger_conn_id

    def execute(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask, and end if there is a decision; otherwise defer. Called again with the event when the wait is over."""
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.jobview import view
        from airflow_provider_aihandoff.operators.planning import plan_effects
        from airflow_provider_aihandoff.states import JobState

        job_id = resolve_job_id(self.job, self.task_id)
        with final_errors(), LedgerHook(self.ledger_conn_id).get_conn() as ledger:
            job = ledger.job(job_id)
            if job.state in (JobState.REVIEW, JobState.APPROVED, JobState.APPLYING):
                seen = view(job, ledger.revision(job_id, job.revision))
                plans = plan_effects(context, self.job_source, seen, ledger)
                job = self._ask(context, ledger, job, seen, plans)
                if job.state is JobState.APPROVED and not plans:
                    job = ledger.effects.complete_without_effects(job_id, actor=owner_of(context).actor)
            if job.state is JobState.REVIEW and job.review_digest is not None:
                job = ledger.reviews.expire(job_id, digest=job.review_digest, fail=self.on_timeout == "fail")
            if job.state is JobState.REVIEW:
                ledger.close()
                self._defer(job)
            return self._end(job)

    def _ask(self, context: Context, ledger: Ledger, job: Job, seen: JobView, plans: Sequence[EffectPlan]) -> Job:
        """Store the plan, and let the policy decide if it wants to."""
        from airflow_provider_aihandoff.policies import Approve, AskPerson
        from airflow_provider_aihandoff.states import JobState

        verdict = AskPerson("no policy") if self.policy is None else self._ask_policy(seen, plans)
        asks = isinstance(verdict, AskPerson) and self.policy is not None
        before = job.review_digest
        job = ledger.reviews.ask(
            job.job_id,
            plans,
            policy=None if self.policy is None else self.policy.label,
            deadline=datetime.now(UTC) + timedelta(seconds=self.timeout),
            actor=owner_of(context).actor,
            reason=f"a person decides: {verdict.reason}" if asks else None,
            on_timeout=self.on_timeout,
        )
        if job.state is not JobState.REVIEW:
            return job
        assert job.review_digest is not None
        if isinstance(verdict, Approve) and self.policy is not None:
            return ledger.reviews.decide(
                job.job_id,
                "approve",
                digest=job.review_digest,
                decided_by=self.policy.label,
                kind="policy",
                comment=verdict.reason,
            )
        if job.review_digest != before:
            self.log.info("%s waits for a decision (%s).", job.label, verdict.reason)
        return job

    def _ask_policy(self, seen: JobView, plans: Sequence[EffectPlan]) -> Any:
        from airflow_provider_aihandoff.policies import Approve, AskPerson

        assert self.policy is not None
        try:
            verdict: Any = self.policy.decide(seen, [plan.shown for plan in plans])
        except Exception:
            self.log.exception("The policy %s raised; a person decides.", self.policy.label)
            return AskPerson("the policy raised")
        if not isinstance(verdict, (Approve, AskPerson)):
            self.log.error("The policy %s returned %r; a person decides.", self.policy.label, verdict)
            return AskPerson("the policy returned no verdict")
        return verdict

    def _defer(self, job: Job) -> None:
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.triggers.approval import ApprovalTrigger

        assert job.review_digest is not None
        assert job.review_deadline is not None
        not_before = datetime.now(UTC) + settings.seconds("min_deferral")
        self.defer(
            trigger=ApprovalTrigger(
                job_id=job.job_id,
                digest=job.review_digest,
                ledger_conn_id=LedgerHook(self.ledger_conn_id).ledger_conn_id,
                deadline=job.review_deadline.isoformat(),
                not_before=not_before.isoformat(),
            ),
            method_name="execute",
        )

    def _end(self, job: Job) -> dict[str, Any]:
        """End the task as the job's state says."""
        from airflow_provider_aihandoff.states import JobState

        if job.state is JobState.REJECTED:
            message = f"{job.label} was rejected: {job.state_reason or 'no comment'}. Nothing was written outside."
            raise AirflowFailException(message) if self.on_reject == "fail" else AirflowSkipException(message)
        if job.state in (JobState.APPROVED, JobState.APPLYING, JobState.COMPLETED):
            return {"job_id": job.job_id, "state": job.state.value, "digest": job.review_digest}
        if job.state in (JobState.QUEUED, JobState.RUNNING):
            raise NothingToReview(f"{job.label} is {job.state.value} again: its output is not there yet. Retry later.")
        raise AirflowFailException(f"{job.label} is {job.state.value} ({job.state_reason}): nothing will be written.")


class NothingToReview(RuntimeError):
    """The job is being made anew; a retry finds its output."""
