"""Waits until a person, or a written policy, has decided on exactly what would be written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException, BaseSensorOperator

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.review.rules import Approvers, Reassignment, ReviewRules, due_times
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.operators import required_actions
from airflow_provider_aihandoff.operators.job_argument import (
    JobReference,
    job_reference,
    resolve_job_id,
    set_id_of,
    source_of,
)
from airflow_provider_aihandoff.operators.job_tasks import JobRole
from airflow_provider_aihandoff.operators.rendering import RendersText
from airflow_provider_aihandoff.operators.retries import RETRIES, RETRY_DELAY, final_errors
from airflow_provider_aihandoff.operators.task_links import ReviewLink
from airflow_provider_aihandoff.policies import ApprovalPolicy, Approve, AskPerson, verdict_of
from airflow_provider_aihandoff.task_states import owner_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseNotifier, Context

    from airflow_provider_aihandoff.core.jobs.job_view import JobView
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import EffectPlan, Job, OnTimeout, Revision
    from airflow_provider_aihandoff.core.review.ask_first import FirstAsk
    from airflow_provider_aihandoff.operators.required_actions import ApprovalWait


class ApprovalSensor(RendersText, BaseSensorOperator):
    """Render the plan of a job's effects, ask for a decision on it, and wait without a worker slot.

    The decision lives in the ledger, bound to one digest of the output, the plan and the policy together. People decide
    on the review page in the Airflow UI, over REST, or with ``airflow aihandoff review``.

    As of Airflow 3.3, the task waits in the state ``awaiting_input``, without a triggerer, and is listed in *Required
    Actions*. What a person answers there counts for the digest that it names, by the same rules; roles and groups are
    not known there.

    **Retry and clear**: a decision stands, and the task ends the same way again. A plan that has changed since (an
    edited Dag, another input) is asked about again while nothing of it was sent.

    **Kill**: marking the task failed while it waits cancels the job: nothing will be written for it. Restarts of
    workers, triggerers and API servers do not.

    **Edits and changes**: what a person edits becomes a revision of their own; the task checks it with the output type
    of the task that asks the model, renders the plan again, and asks again. Where a person requests changes, this task
    has the model make another revision, waits for it without a worker slot, and asks again.

    **A set**: where ``job`` is the operator that makes a set, the task asks about each job of it, and goes on when all
    are decided, or with what is decided at the end of the time. What was approved is written; where nothing was, what
    comes after is skipped, or the task fails, as ``on_reject`` says. People are notified once that so many jobs wait.

    :param job: the operator that makes the job or the set, or a job id.
    :param policy: asked first; what it approves needs no person. Once a person has edited or requested changes, a
        person decides.
    :param approvers: who may decide, of those who may answer human-in-the-loop tasks of the Dag; by default all of
        them.
    :param approvals: how many must approve, each what the job says now.
    :param blind: where several have to approve, no one sees how others have voted before they have voted themselves.
    :param requester_may_approve: the user who asked for the work may decide on it as well. By default another user has
        to, whatever rights the requester has.
    :param timeout: how long to wait for a decision; absolute from the moment of asking, and not moved by a retry or an
        edit. By default ``[sensors] default_timeout``.
    :param on_timeout: what the end of that time means: ``reject``, ``fail`` the job, or a policy that may approve, and
        otherwise rejects.
    :param on_reject: what a rejection means for the Dag: ``skip`` what comes after, or ``fail``.
    :param remind_after: how long after the asking the reviewers are reminded, once.
    :param escalate_after: how long after the asking ``escalate_to`` may decide as well.
    :param escalate_to: who may decide from then on.
    :param notifiers: Airflow's notifiers, called in the worker when people are asked, reminded, when it is escalated,
        when it is reassigned to others, and when it is decided. Their templates have ``handoff``, with ``message`` and
        ``link`` and nothing of the content, and ``job``, with all of it. One that fails keeps no one from deciding;
        where all do, they are called again after five minutes.
    :param wait_in: where the task waits: ``awaiting_input``, where Airflow has that state and the ledger is the
        configured one, or ``triggerer``. By default ``[aihandoff] approvals_wait_in``. A set waits in a triggerer.
    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    """

    template_fields: Sequence[str] = ("job", "ledger_conn_id")
    ui_color = "#e7e9f7"
    job_role = JobRole.APPROVAL
    operator_extra_links = (ReviewLink(),)

    def __init__(
        self,
        *,
        job: JobReference,
        policy: ApprovalPolicy | None = None,
        approvers: Approvers | None = None,
        approvals: int = 1,
        blind: bool = False,
        requester_may_approve: bool = False,
        on_timeout: Literal["reject", "fail"] | ApprovalPolicy = "reject",
        on_reject: Literal["skip", "fail"] = "skip",
        remind_after: timedelta | None = None,
        escalate_after: timedelta | None = None,
        escalate_to: Approvers | None = None,
        notifiers: Sequence[BaseNotifier] = (),
        wait_in: ApprovalWait | None = None,
        ledger_conn_id: str | None = None,
        retries: int | None = RETRIES,
        retry_delay: timedelta | float = RETRY_DELAY,
        **kwargs: Any,
    ) -> None:
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)
        self.job = job_reference(job)
        self.job_source = source_of(self.job)
        self.policy = policy
        self.approvers = approvers
        self.approvals = approvals
        self.blind = blind
        self.requester_may_approve = requester_may_approve
        self.on_timeout = on_timeout
        self.on_reject = on_reject
        self.remind_after = remind_after
        self.escalate_after = escalate_after
        self.escalate_to = escalate_to
        self.notifiers = list(notifiers)
        self.wait_in = wait_in
        self.ledger_conn_id = ledger_conn_id
        self._check_arguments()

    def _check_arguments(self) -> None:
        if isinstance(self.on_timeout, str) and self.on_timeout not in ("reject", "fail"):
            raise ValueError(f"on_timeout must be 'reject', 'fail' or a policy, not {self.on_timeout!r}.")
        if self.on_reject not in ("skip", "fail"):
            raise ValueError(f"on_reject must be 'skip' or 'fail', not {self.on_reject!r}.")
        if self.wait_in is not None:
            required_actions.check_wait_in(self.wait_in)
        if self.approvals < 1:
            raise ValueError(f"approvals must be at least 1, not {self.approvals}.")
        if self.blind and self.approvals == 1 and self.policy is None:
            raise ValueError("blind needs at least 2 approvals: one reader alone sees no other vote.")
        users_alone = self.approvers and not self.approvers.roles and not self.approvers.groups
        if users_alone and self.approvers is not None and len(set(self.approvers.users)) < self.approvals:
            raise ValueError(
                f"{self.approvals} must approve, and approvers names only {', '.join(self.approvers.users)}."
            )
        if (self.escalate_after is None) != (not self.escalate_to):
            raise ValueError("escalate_after and escalate_to go together: when, and who may decide then.")
        if self.escalate_to and not self.approvers:
            raise ValueError("escalate_to needs approvers: without them, everyone may decide from the beginning.")

    def execute(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask, and end if there is a decision; otherwise defer. Called again with the event when the wait has ended."""
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.operators import notices
        from airflow_provider_aihandoff.operators.revising import follow_reviewer
        from airflow_provider_aihandoff.operators.set_approval import approve_set

        if (set_id := set_id_of(self.job)) is not None:
            return approve_set(self, context, set_id, event)
        job_id, actor = resolve_job_id(self.job, self.task_id), owner_of(context).actor
        with final_errors(self.ledger_conn_id, job_id), LedgerHook(self.ledger_conn_id).get_conn() as ledger:
            refusal = required_actions.take_answer(context, ledger, job_id, event)
            job = ledger.job(job_id)
            while True:
                if job.state in (JobState.QUEUED, JobState.RUNNING):
                    job = follow_reviewer(
                        self, self.job_source, context, ledger, job, event, ledger_conn_id=self.ledger_conn_id
                    )
                if job.state in (JobState.REVIEW, JobState.APPROVED, JobState.APPLYING):
                    job = self.ask_about(context, ledger, job)
                if job.state is JobState.REVIEW and job.review_digest is not None:
                    job = ledger.reviews.notify(job_id, digest=job.review_digest, actor=actor)
                    job = self.expire(ledger, job)
                all_sent = notices.notify(self.notifiers, context, ledger, job)
                if job.state is JobState.REVIEW and job.review_digest is not None:
                    self._wait(context, ledger, job, all_sent=all_sent, refusal=refusal)
                if not self._goes_on(ledger, job):
                    from airflow_provider_aihandoff.core.review.review_span import add_review_span

                    add_review_span(ledger, job)
                    return self._end(job)
                job, event = ledger.job(job_id), None

    def resume_review(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Go on where Airflow has parked the task. API servers wake no task that is to go on elsewhere."""
        return self.execute(context, event)

    @staticmethod
    def _goes_on(ledger: Ledger, job: Job) -> bool:
        """Whether a person has edited it, or requested changes, while this task was at it."""
        if job.state in (JobState.QUEUED, JobState.RUNNING):
            now = ledger.job(job.job_id)
            return now.event_seq != job.event_seq and now.state is JobState.REVIEW
        return job.state is JobState.REVIEW

    def ask_about(self, context: Context, ledger: Ledger, job: Job) -> Job:
        """Render the plan of what the job says now, and ask about it."""
        from airflow_provider_aihandoff.core.jobs.job_view import view
        from airflow_provider_aihandoff.operators.planning import plan_effects
        from airflow_provider_aihandoff.operators.revising import check_edit

        if job.state is JobState.REVIEW:
            job = check_edit(self.job_source, context, ledger, job)
        revision = ledger.revision(job.job_id, job.revision)
        seen = view(job, revision)
        first = job.state is JobState.REVIEW and job.review_digest is None
        plans = plan_effects(context, self.job_source, seen, ledger, ask_targets=first)
        job = self._ask(context, ledger, job, seen, plans, by_model=revision.based_on is None)
        if job.state is JobState.APPROVED and all(plan.skipped for plan in plans):
            job = ledger.effects.complete_without_effects(job.job_id, actor=owner_of(context).actor)
        return job

    def expire(self, ledger: Ledger, job: Job) -> Job:
        """End the review, if it has expired."""
        from airflow_provider_aihandoff.core.jobs.job_view import view

        assert job.review_digest is not None
        assert job.review_deadline is not None
        if isinstance(self.on_timeout, str):
            return ledger.reviews.expire(job.job_id, digest=job.review_digest, fail=self.on_timeout == "fail")
        if ledger.now() < job.review_deadline:
            return job
        record = ledger.record(job.job_id)
        plans = [effect.plan for effect in record.current_effects if effect.state is not EffectState.SKIPPED]
        verdict = verdict_of(self.on_timeout, view(record.job, record.revision), plans)
        if isinstance(verdict, Approve):
            reason = f"no one decided in time; {verdict.reason}"
            return ledger.reviews.approve_by_policy(
                job.job_id, digest=job.review_digest, policy=self.on_timeout.label, reason=reason, expired=True
            )
        return ledger.reviews.expire(job.job_id, digest=job.review_digest, fail=False)

    def _ask(
        self,
        context: Context,
        ledger: Ledger,
        job: Job,
        seen: JobView,
        plans: Sequence[EffectPlan],
        *,
        by_model: bool,
    ) -> Job:
        """Store the plan, and let the policy decide if it wants to.

        :param by_model: no person has edited the output, or requested changes of it.
        """
        verdict = self._verdict(seen, plans, by_model=by_model)
        before = job.review_digest
        job = ledger.reviews.ask(
            job.job_id,
            plans,
            policy=None if self.policy is None else self.policy.label,
            deadline=timedelta(seconds=self.timeout),
            actor=owner_of(context).actor,
            revision=seen.revision,
            rules=self._rules(verdict),
            reason=self._why_a_person(verdict),
            on_timeout=self._means_at_timeout,
        )
        if job.state is not JobState.REVIEW or job.review_digest is None:
            return job
        if isinstance(verdict, Approve) and self.policy is not None and job.revision == seen.revision:
            return ledger.reviews.approve_by_policy(
                job.job_id, digest=job.review_digest, policy=self.policy.label, reason=verdict.reason
            )
        if job.review_digest != before:
            self.log.info("%s waits for a decision (%s).", job.label, verdict.reason)
        return job

    def first_ask(self, context: Context, ledger: Ledger, job: Job, revision: Revision) -> FirstAsk:
        """Render the plan of a job that was never asked about, and what the policy says of it."""
        from airflow_provider_aihandoff.core.jobs.job_view import view
        from airflow_provider_aihandoff.core.review.ask_first import FirstAsk
        from airflow_provider_aihandoff.operators.planning import plan_effects

        seen = view(job, revision)
        plans = plan_effects(context, self.job_source, seen, ledger, ask_targets=True)
        verdict = self._verdict(seen, plans, by_model=revision.based_on is None)
        approved = verdict.reason if isinstance(verdict, Approve) and self.policy is not None else None
        rules, why = self._rules(verdict), self._why_a_person(verdict)
        return FirstAsk(job.job_id, revision.number, plans, rules, approved_since=approved, reason=why)

    def ask_first(self, context: Context, ledger: Ledger, asks: Sequence[FirstAsk]) -> list[Job | None]:
        """Store plans that were rendered, and what the policy says; None in place of a job that is to be asked about
        alone."""
        return ledger.reviews.ask_first(
            asks,
            policy=None if self.policy is None else self.policy.label,
            deadline=timedelta(seconds=self.timeout),
            actor=owner_of(context).actor,
            on_timeout=self._means_at_timeout,
        )

    def _verdict(self, seen: JobView, plans: Sequence[EffectPlan], *, by_model: bool) -> Approve | AskPerson:
        """What the policy says."""
        shown = [plan.shown for plan in plans if not plan.skipped]
        verdict = AskPerson("no policy") if self.policy is None else verdict_of(self.policy, seen, shown)
        if isinstance(verdict, Approve) and not by_model:
            return AskPerson("a person has worked on it")
        return verdict

    def _why_a_person(self, verdict: Approve | AskPerson) -> str | None:
        """Why a person decides, where there is a policy."""
        return f"a person decides: {verdict.reason}" if self.policy and isinstance(verdict, AskPerson) else None

    @property
    def _means_at_timeout(self) -> OnTimeout:
        """What the end of the time to decide means, for when no task waits for it."""
        return self.on_timeout if isinstance(self.on_timeout, str) else "reject"

    def _rules(self, verdict: Approve | AskPerson) -> ReviewRules:
        """Who decides: as the policy wants it, and otherwise as the author says."""
        asks = verdict if isinstance(verdict, AskPerson) else AskPerson("")
        return ReviewRules(
            approvers=asks.approvers or self.approvers or Approvers(),
            approvals=asks.approvals or self.approvals,
            blind=asks.blind or self.blind,
            requester_may_approve=self.requester_may_approve,
            escalate_to=self.escalate_to or Approvers(),
            remind_after=None if self.remind_after is None else self.remind_after.total_seconds(),
            escalate_after=None if self.escalate_after is None else self.escalate_after.total_seconds(),
            because={} if self.policy is None else {"policy": self.policy.label, "reason": verdict.reason},
        )

    def _wait(self, context: Context, ledger: Ledger, job: Job, *, all_sent: bool, refusal: str | None) -> NoReturn:
        """Wait for a decision, or until there is something to do about that, without a worker slot.

        :param all_sent: every notification that is due was sent; otherwise that is tried again.
        :param refusal: why an answer in Airflow's list was not recorded.
        """
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.operators import notices
        from airflow_provider_aihandoff.triggers.approval import ApprovalTrigger

        assert job.review_digest is not None
        assert job.review_deadline is not None
        now, ledger_conn_id = ledger.now(), LedgerHook(self.ledger_conn_id).ledger_conn_id
        times = [job.review_deadline, *due_times(job).values()]
        until = min(times if all_sent else [*times, now + timedelta(seconds=notices.NOTICE_RETRY)])
        parked = required_actions.is_parked_by_airflow(self.wait_in, ledger_conn_id)
        if parked and required_actions.may_be_answered_there(context, job):
            required_actions.park(context, ledger, job, now=now, until=until, refusal=refusal)
        ledger.close()
        self.defer(
            trigger=ApprovalTrigger(
                job_id=job.job_id,
                digest=job.review_digest,
                ledger_conn_id=ledger_conn_id,
                until=until.isoformat(),
                not_before=(now + settings.seconds("min_deferral")).isoformat(),
                reassigned=Reassignment.from_json(job.reassigned).number,
            ),
            method_name="execute",
        )

    def _end(self, job: Job) -> dict[str, Any]:
        """End the task as the job's state says."""
        if job.state is JobState.REJECTED:
            message = f"{job.label} was rejected: {job.state_reason or 'no comment'}. No external write was made."
            raise AirflowFailException(message) if self.on_reject == "fail" else AirflowSkipException(message)
        if job.state in (JobState.APPROVED, JobState.APPLYING, JobState.COMPLETED):
            return {"job_id": job.job_id, "state": job.state.value, "digest": job.review_digest}
        if job.state in (JobState.QUEUED, JobState.RUNNING):
            raise NothingToReview(
                f"{job.label} is {job.state.value} again: its new output is not there yet. No external write was made. "
                "A retry of this task waits for the output."
            )
        raise AirflowFailException(
            f"{job.label} is {job.state.value} ({job.state_reason}). No effect of it will be applied."
        )


class NothingToReview(RuntimeError):
    """A new revision of the job is being made; a retry finds its output."""
