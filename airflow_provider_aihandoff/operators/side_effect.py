"""The base of every effect: claim → send → confirm, of exactly what was approved."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_aihandoff.errors import EffectNotNow, EffectRefused, EffectUnknown, HandoffError, PlanError
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
from airflow_provider_aihandoff.operators.masking import masked

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.jobview import JobView
    from airflow_provider_aihandoff.ledger import Ledger
    from airflow_provider_aihandoff.ledger.effects import Claim
    from airflow_provider_aihandoff.ledger.records import EffectPlan


@dataclass(frozen=True)
class Applied:
    """A write that the target has confirmed.

    :param external_id: the id of the record in the target, where it gave one.
    :param result: what is worth keeping of the answer: small, no content and no secret.
    """

    external_id: str | None = None
    result: dict[str, Any] | None = None


class NotApplied:
    """What a probe returns that is certain that the write did not happen, and never will from an earlier attempt."""


class SideEffectOperator(BaseOperator):
    """Write to one outside system, at most once, and only what was approved.

    Extend it with :meth:`plan` and :meth:`apply`, and where the target allows it with :meth:`probe`. Template fields
    may use ``job``, the job as the ledger has it: ``{{ job.output.title }}``.

    **Retry and clear**: an effect that is applied is not applied again; the task succeeds with the same result.

    **Kill, crash, time-out**: an attempt that ended without a word leaves a claim. The next one asks :meth:`probe`;
    sends again with the same key where the target is declared ``idempotent``; otherwise the effect is ``unknown``,
    the task fails, and a person says what is so (``airflow aihandoff effects resolve``).

    :param job: the operator that makes the job, or a job id.
    :param effect: the effect's name within the job; by default the id of the task.
    :param idempotent: the target takes the same effect key twice without writing twice.
    :param undo: the declared way back, in the form that the class takes; shown before approval (templated).
    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    """

    template_fields: Sequence[str] = ("job", "undo")
    ui_color = "#fbeee0"

    #: What sends the effect, as the ledger and the review page name it.
    kind: str = ""

    def __init__(
        self,
        *,
        job: JobReference,
        effect: str | None = None,
        idempotent: bool = False,
        undo: dict[str, Any] | None = None,
        ledger_conn_id: str | None = None,
        retries: int | None = RETRIES,
        retry_delay: timedelta | float = RETRY_DELAY,
        **kwargs: Any,
    ) -> None:
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)
        self.job = job_reference(job)
        self.job_source = source_of(self.job)
        self.effect = effect
        self.idempotent = idempotent
        self.undo = undo
        self.ledger_conn_id = ledger_conn_id

    def plan(self, job: JobView) -> dict[str, Any]:
        """Return the exact request, as JSON, from the rendered fields and the job. Sends nothing, changes nothing.

        It must give the same result whenever it is called for the same revision: it is what gets approved.
        """
        raise NotImplementedError

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """Send the plan, once.

        :param key: the effect key: the same for every attempt at this write, and for no other.
        :raises EffectRefused: the target refused, which proves that nothing was written.
        :raises EffectNotNow: nothing was sent, or the target asked to come back later: a retry is safe.
        :raises Exception: any other error means that it is not known whether it was written.
        """
        raise NotImplementedError

    def probe(self, plan: dict[str, Any], key: str) -> Applied | NotApplied | None:
        """Find out what became of an attempt that ended without a word; None (the default) when it cannot tell."""
        return None

    # The parts below are the protocol; a subclass leaves them alone.

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render one field, with ``job`` as the ledger has it now."""
        if "job" not in context and content is not self.job:
            context = {**context, "job": self._load_job()}  # type: ignore[typeddict-unknown-key]
        return super().render_template(content, context, jinja_env, seen_oids)

    def rendered(self, context: Context, job: JobView) -> SideEffectOperator:
        """A copy of this task with its fields rendered for the job, in the context of another task of the same run."""
        other = copy.copy(self)
        other.render_template_fields({**context, "task": other, "job": job})  # type: ignore[typeddict-unknown-key]
        return other

    def effect_plan(self, job: JobView) -> EffectPlan:
        """The plan with its digest, and as it may be shown."""
        from airflow_provider_aihandoff.digests import canonical_json, digest
        from airflow_provider_aihandoff.ledger.records import EffectPlan

        plan = self.plan(job)
        try:
            canonical_json(plan)
        except (TypeError, ValueError) as error:
            raise PlanError(
                f"the plan of the effect {self.effect_name!r} is not JSON: {error}.", job=f"job {job.job_id}"
            ) from error
        return EffectPlan(
            name=self.effect_name,
            kind=self.kind or type(self).__name__,
            plan=plan,
            # The way back is part of what is approved.
            plan_digest=digest([plan, self.undo]),
            shown=masked(plan),
            undo=masked(self.undo),
        )

    @property
    def effect_name(self) -> str:
        """The effect's name within its job."""
        return self.effect or self.task_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Claim the effect, send it, and record what became of it."""
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook

        job_id = resolve_job_id(self.job, self.task_id)
        actor = owner_of(context).actor
        with final_errors(), LedgerHook(self.ledger_conn_id).get_conn() as ledger:
            job = self._view(ledger, job_id)
            plan = self.effect_plan(job)
            self._ensure_planned(context, ledger, job, actor)
            claim = self._claim(ledger, job_id, plan, actor)
            if claim.applied:
                self.log.info("Effect %r is applied already; nothing is sent.", plan.name)
                effect = claim.effect
            else:
                applied = self._apply(ledger, claim, plan.plan, actor)
                effect = ledger.effects.confirm(
                    claim, external_id=applied.external_id, result=applied.result, actor=actor
                )
            return {
                "job_id": job_id,
                "effect_id": effect.effect_id,
                "effect_key": effect.effect_key,
                "external_id": effect.external_id,
                "state": effect.state.value,
            }

    def _ensure_planned(self, context: Context, ledger: Ledger, job: JobView, actor: str) -> None:
        """Plan the effects of a job that needs no approval, where no approval task has done it before."""
        from airflow_provider_aihandoff.operators.planning import plan_effects
        from airflow_provider_aihandoff.states import JobState

        current = ledger.job(job.job_id)
        if current.approval == "not required" and current.state in (JobState.APPROVED, JobState.APPLYING):
            plans = plan_effects(context, self.job_source, job)
            ledger.reviews.ask(job.job_id, plans, policy=None, deadline=current.updated_at, actor=actor)

    def _claim(self, ledger: Ledger, job_id: int, plan: EffectPlan, actor: str) -> Claim:
        """Get the permission to send; where an earlier attempt ended without a word, ask the probe first."""
        try:
            return ledger.effects.claim(job_id, plan, repeatable=self.idempotent, actor=actor)
        except EffectUnknown as unknown:
            effect = unknown.effect
            found = self.probe(plan.plan, effect.effect_key)
            if found is None:
                raise AirflowFailException(str(unknown)) from unknown
            applied = isinstance(found, Applied)
            ledger.effects.resolve(
                effect.effect_id,
                applied=applied,
                external_id=found.external_id if isinstance(found, Applied) else None,
                actor=actor,
                why="the probe found the write" if applied else "the probe is certain that nothing was written",
            )
            return ledger.effects.claim(job_id, plan, repeatable=self.idempotent, actor=actor)

    def _apply(self, ledger: Ledger, claim: Claim, plan: dict[str, Any], actor: str) -> Applied:
        """Send, and record a failure as what it is before it is raised."""
        from airflow_provider_aihandoff.ledger.effects import unknown_error

        name, key = claim.effect.name, claim.effect.effect_key
        self.log.info("Sending effect %r, attempt %d, key %s.", name, claim.effect.attempt, key)
        try:
            return self.apply(plan, key)
        except (EffectRefused, EffectNotNow) as error:
            if claim.resent:
                # What this attempt proves, it proves for itself only: an earlier one may have been applied.
                effect = ledger.effects.lose(
                    claim, error=f"an earlier attempt was lost, this one: {error}", actor=actor
                )
                raise unknown_error(f"job {effect.job_id}", effect) from error
            if isinstance(error, EffectRefused):
                ledger.effects.refuse(claim, error=str(error), actor=actor)
            else:
                ledger.effects.release(claim, error=str(error), actor=actor)
            raise
        except Exception as error:
            effect = ledger.effects.lose(claim, error=f"{type(error).__name__}: {error}", actor=actor)
            if self.idempotent or type(self).probe is not SideEffectOperator.probe:
                raise unknown_error(f"job {effect.job_id}", effect) from error
            raise AirflowFailException(str(unknown_error(f"job {effect.job_id}", effect))) from error

    def _load_job(self) -> JobView:
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook

        with final_errors(), LedgerHook(self.ledger_conn_id).get_conn() as ledger:
            job = self._view(ledger, resolve_job_id(self.job, self.task_id))
            if job.output is None:  # templates would fail on it, and say less
                ledger.effects.ensure_approved(job.job_id)
            return job

    @staticmethod
    def _view(ledger: Ledger, job_id: int) -> JobView:
        from airflow_provider_aihandoff.jobview import view

        job = ledger.job(job_id)
        return view(job, ledger.revision(job_id, job.revision))


__all__ = ["Applied", "EffectNotNow", "EffectRefused", "HandoffError", "NotApplied", "SideEffectOperator"]
