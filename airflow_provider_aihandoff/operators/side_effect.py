"""The base of every effect: claim → send → confirm, of exactly what was approved."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_aihandoff.core.effects.targets.base import Applied, NotApplied
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused, HandoffError, PlanError, PlanNotApproved
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
from airflow_provider_aihandoff.operators.masking import hide_from_logs, masked
from airflow_provider_aihandoff.operators.waiting import wait_or_defer

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.jobs.job_view import JobView
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Actor, Effect, EffectPlan


class SideEffectOperator(BaseOperator):
    """Write to one outside system, at most once, and only what was approved.

    Extend it with :meth:`plan` and :meth:`apply`, and where the target allows it with :meth:`probe`. Template fields
    may use ``job``, the job as the ledger has it: ``{{ job.output.title }}``.

    **Retry and clear**: an effect that is applied is not applied again; the task succeeds with the same result.

    **Kill, crash, time-out**: an attempt that ended without a word leaves a claim that lasts for as long as its call
    may take; nobody else sends before it is over, and the attempt itself sends nothing after that. What became of it is
    then found out in this order: :meth:`probe` is asked, over a grace time; the effect is sent again with the same key
    where the target is ``idempotent``; otherwise a person says what is so, on the job's page or with ``airflow
    aihandoff effects resolve``. The task waits for that without a worker slot, and goes on by itself.

    **A plan that is not what was approved** (an edited Dag, another input) is not sent. The task fails, and where
    nothing of the job was written, a person is asked about the plan as it is now; clear the task once it is approved.

    **Order**: effects of the same job that come before this one in the Dag must be applied before it.

    :param job: the operator that makes the job, or a job id.
    :param effect: the effect's name within the job; by default the id of the task.
    :param idempotent: the target takes the same effect key twice without writing twice.
    :param undo: the declared way back, as a mapping (templated); shown before approval, and taken by a roll-back. It
        has a ``kind`` (``http``, ``postgres`` or ``function``; by default that of the effect) and what that takes;
        ``{external_id}`` in it stands for the id of the record in the target.
    :param secret_fields: names of fields of the plan whose values are secrets: sent, never stored or shown. Fields such
        as ``Authorization``, and values that Airflow's secrets masker knows, are so in any case.
    :param grace: how long a write may take to become visible to :meth:`probe`; a probe that sees nothing is repeated
        until then.
    :param hold_timeout: how long the task waits for a person to say what became of the write, before it fails; None
        waits for as long as that takes.
    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    """

    template_fields: Sequence[str] = ("job", "undo")
    ui_color = "#fbeee0"

    #: What sends the effect, as the ledger and the review page name it.
    kind: str = ""

    #: Seconds that one call of :meth:`apply` may take at most. A claim lasts a little longer.
    call_seconds: float = 60.0

    def __init__(
        self,
        *,
        job: JobReference,
        effect: str | None = None,
        idempotent: bool = False,
        undo: dict[str, Any] | None = None,
        secret_fields: Sequence[str] = (),
        grace: timedelta | float = 30.0,
        hold_timeout: timedelta | None = None,
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
        self.secret_fields = tuple(secret_fields)
        self.grace_seconds = grace.total_seconds() if isinstance(grace, timedelta) else float(grace)
        self.hold_timeout = hold_timeout
        self.ledger_conn_id = ledger_conn_id

    def plan(self, job: JobView) -> dict[str, Any]:
        """Return the exact request, as JSON, from the rendered fields and the job. Sends nothing, changes nothing.

        It must give the same result whenever it is called for the same revision: it is what gets approved.
        """
        raise NotImplementedError

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """Send the plan, once, within :attr:`call_seconds`.

        :param key: the effect key: the same for every attempt at this write, and for no other.
        :raises EffectRefused: the target refused, which proves that nothing was written.
        :raises EffectNotNow: nothing was sent, or the target asked to come back later: a retry is safe.
        :raises Exception: any other error means that it is not known whether it was written.
        """
        raise NotImplementedError

    def probe(self, plan: dict[str, Any], key: str) -> Applied | NotApplied | None:
        """Find out what became of an attempt that ended without a word.

        ``NotApplied()`` where there is no trace of it: it counts as such once the grace time is over. None (the
        default) where that cannot be told.
        """
        return None

    @property
    def can_probe(self) -> bool:
        """Whether there is a :meth:`probe` to ask."""
        return type(self).probe is not SideEffectOperator.probe

    @property
    def can_read(self) -> bool:
        """Whether there is a :meth:`read` to ask."""
        return type(self).read is not SideEffectOperator.read

    def read(self, plan: dict[str, Any]) -> Any:
        """Return what the target has now, as JSON, for whoever decides; None where there is nothing. Changes nothing.

        It is called when the plan is rendered for a review, and may fail: then the reviewer is told so.
        """
        raise NotImplementedError

    def plan_undo(self) -> dict[str, Any] | None:
        """The declared way back, as it is kept beside the plan."""
        if self.undo is None:
            return None
        from airflow_provider_aihandoff.core.effects.targets.undo_target import plan_undo

        return plan_undo(self.undo, kind=self.kind, connection=self.undo_connection, name=self.effect_name)

    @property
    def undo_connection(self) -> str | None:
        """The connection of an undo that names none."""
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
            context["job"] = self._load_job()  # type: ignore[typeddict-unknown-key]
        return super().render_template(content, context, jinja_env, seen_oids)

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the fields, and see to it that Airflow shows the secrets in them neither in logs nor as fields."""
        super().render_template_fields(context, jinja_env)
        fields = {field: getattr(self, field) for field in self.template_fields if field != "job"}
        hide_from_logs(fields, self.secret_fields)

    def rendered(self, context: Context, job: JobView) -> SideEffectOperator:
        """A copy of this task with its fields rendered for the job, in the context of another task of the same run."""
        other = copy.copy(self)
        other.render_template_fields({**context, "task": other, "job": job})  # type: ignore[typeddict-unknown-key]
        return other

    def effect_plan(self, job: JobView, *, key: str, after: Sequence[str], look: bool = False) -> EffectPlan:
        """The plan with its digest, and as it may be shown.

        :param key: of the digest, so that whoever reads it cannot try out what the secrets are.
        :param after: names of the effects that must be applied before this one.
        :param look: read what the target has now, where the author says how.
        :raises PlanError: the plan is not JSON.
        """
        from airflow_provider_aihandoff.core.digests import canonical_json, keyed_digest
        from airflow_provider_aihandoff.core.models import EffectPlan

        plan, undo = self.plan(job), self.plan_undo()
        try:
            canonical_json([plan, undo])
        except (TypeError, ValueError) as error:
            raise PlanError(
                f"the plan of the effect {self.effect_name!r} is not JSON: {error}.", job=f"job {job.job_id}"
            ) from error
        return EffectPlan(
            name=self.effect_name,
            kind=self.kind or type(self).__name__,
            plan=plan,
            # The way back and the order are part of what is approved. Which texts are secrets plays no part: what
            # Airflow's masker knows of them differs from process to process.
            plan_digest=keyed_digest([plan, undo, list(after)], key),
            shown=masked(plan, self.secret_fields),
            undo=masked(undo, self.secret_fields),
            after=tuple(after),
            current=self._look(plan) if look and self.can_read else None,
        )

    def _look(self, plan: dict[str, Any]) -> dict[str, Any]:
        """What the target has now, with the time, as it may be shown."""
        from airflow_provider_aihandoff.core.digests import canonical_json

        at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            record = json.loads(canonical_json(masked({"record": self.read(plan)}, self.secret_fields)))["record"]
        except Exception as error:  # noqa: BLE001 - whoever decides is told, and decides all the same
            self.log.warning("What the target of %r has now cannot be read: %s", self.effect_name, error)
            return {"at": at, **masked({"error": f"{type(error).__name__}: {error}"})}
        return {"at": at, "record": record}

    @property
    def effect_name(self) -> str:
        """The effect's name within its job."""
        return self.effect or self.task_id

    def execute(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Claim the effect, send it, and record what became of it; or wait until that is known."""
        from airflow_provider_aihandoff.core.effects.apply import Wait, apply_effect
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.operators.planning import ask_anew, digest_key, effects_before

        job_id = resolve_job_id(self.job, self.task_id)
        actor, ti = owner_of(context).actor, context["ti"]
        not_now = (event or {}).get("not_now", 0)
        with final_errors(), LedgerHook(self.ledger_conn_id).get_conn() as ledger:
            job = self._view(ledger, job_id)
            plan = self.effect_plan(job, key=digest_key(ledger), after=effects_before(context["dag"], self))
            self._ensure_planned(context, ledger, job, actor)
            while True:
                try:
                    done = apply_effect(
                        ledger,
                        job_id,
                        plan,
                        self,
                        actor=actor,
                        not_now=not_now,
                        last_try=ti.try_number > ti.max_tries,
                    )
                except PlanNotApproved as refusal:
                    raise ask_anew(context, self.job_source, job, ledger, refusal) from refusal
                if not isinstance(done, Wait):
                    return self._result(done)
                not_now = done.not_now
                wait_or_defer(self, ledger, done, hold_timeout=self.hold_timeout, ledger_conn_id=self.ledger_conn_id)

    @staticmethod
    def _result(effect: Effect) -> dict[str, Any]:
        return {
            "job_id": effect.job_id,
            "effect_id": effect.effect_id,
            "effect_key": effect.effect_key,
            "external_id": effect.external_id,
            "state": effect.state.value,
        }

    def _ensure_planned(self, context: Context, ledger: Ledger, job: JobView, actor: Actor) -> None:
        """Plan the effects of a job that needs no approval, where no approval task has done it before."""
        from airflow_provider_aihandoff.core.states import JobState
        from airflow_provider_aihandoff.operators.planning import plan_effects

        current = ledger.job(job.job_id)
        if current.approval == "not required" and current.state in (JobState.APPROVED, JobState.APPLYING):
            plans = plan_effects(context, self.job_source, job, ledger)
            ledger.reviews.ask(job.job_id, plans, policy=None, deadline=current.updated_at, actor=actor)

    def _load_job(self) -> JobView:
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook

        with final_errors(), LedgerHook(self.ledger_conn_id).get_conn() as ledger:
            job = self._view(ledger, resolve_job_id(self.job, self.task_id))
            if job.output is None:  # templates would fail on it, and say less
                ledger.effects.ensure_approved(job.job_id)
            return job

    @staticmethod
    def _view(ledger: Ledger, job_id: int) -> JobView:
        from airflow_provider_aihandoff.core.jobs.job_view import view

        job = ledger.job(job_id)
        return view(job, ledger.revision(job_id, job.revision))


__all__ = ["Applied", "EffectNotNow", "EffectRefused", "HandoffError", "NotApplied", "SideEffectOperator"]
