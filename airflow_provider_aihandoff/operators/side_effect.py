"""The base of every effect: claim → send → confirm, of exactly what was approved."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_aihandoff.core.digests import canonical_json, keyed_digest
from airflow_provider_aihandoff.core.effects.target import Applied, NotApplied, Target, as_applied, as_found
from airflow_provider_aihandoff.core.effects.undo import plan_undo
from airflow_provider_aihandoff.core.errors import (
    EffectNotNow,
    EffectRefused,
    EffectUnknown,
    HandoffError,
    PlanError,
    PlanNotApproved,
)
from airflow_provider_aihandoff.core.jobs.job_view import JobView, view
from airflow_provider_aihandoff.core.models import Effect, EffectPlan
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.operators.elements import Element, all_failures, check_path, elements_of, first_wait
from airflow_provider_aihandoff.operators.job_argument import JobReference, job_reference, resolve_job_id, source_of
from airflow_provider_aihandoff.operators.job_tasks import JobRole
from airflow_provider_aihandoff.operators.masking import hide_from_logs, masked
from airflow_provider_aihandoff.operators.retries import RETRIES, RETRY_DELAY, final_errors
from airflow_provider_aihandoff.operators.skipped import record_skipped
from airflow_provider_aihandoff.operators.waiting import wait_or_defer
from airflow_provider_aihandoff.task_states import owner_of

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.effects.apply import Wait
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Actor


class SideEffectOperator(BaseOperator):
    """Write to one outside system, at most once, and only what was approved.

    Extend it with :meth:`plan` and :meth:`apply`, and where the target allows it with :meth:`probe` and :meth:`read`;
    or with :meth:`plan` and :meth:`target`, where the target is a type of its own. Template fields may use ``job``, the
    job as the ledger has it: ``{{ job.output.title }}``.

    **Retry and clear**: an effect that is applied is not applied again; the task succeeds with the same result.

    **Kill, crash, time-out**: an attempt that ended without a result leaves a claim that lasts for as long as its call
    may take. No one else sends before the claim expires, and the attempt itself sends nothing after that. What became
    of it is then found out in this order: :meth:`probe` is asked, over a grace time; the effect is sent again with the
    same key where the target is ``idempotent``; otherwise a person resolves it, on the job's page or with ``airflow
    aihandoff effects resolve``. The task waits for that without a worker slot, and continues by itself.

    **A plan that is not what was approved** (an edited Dag, another input) is not sent. The task fails, and where
    nothing of the job was written, a person is asked about the plan as it is now; clear the task once it is approved.

    **Order**: effects of the same job that come before this one in the Dag must be applied before it.

    :param job: the operator that makes the job, or a job id.
    :param effect: the effect's name within the job; by default the id of the task.
    :param when: whether the effect applies at all (templated): ``"{{ job.output.category == 'billing' }}"``. Where it
        renders to ``False``, the effect is no part of the plan, and its other fields are not rendered; the reviewer
        sees that, nothing is sent, and the task succeeds with the state ``skipped``.
    :param for_each: a JSONPath (RFC 9535) of a list in the output, such as ``$.lines``: one effect for each of its
        elements, each with its own key, state and undo. Templates have the element as ``item``, and its number, from 0,
        as ``index``. An element that the target refuses does not stop the others; the task fails at the end.
    :param max_elements: the most elements that ``for_each`` takes; a longer list is refused when it is planned.
    :param idempotent: the target takes the same effect key twice without writing twice.
    :param undo: what undoes the effect, as a mapping (templated); shown before approval, and sent by a roll-back. It
        has a ``kind`` (``http``, ``postgres``, ``function``, or another one that is installed; by default that of the
        effect) and what that takes; ``{external_id}`` in it stands for the id of the record in the target.
    :param secret_fields: names of fields of the plan whose values are secrets: sent, never stored or shown. Fields such
        as ``Authorization``, and values that Airflow's secrets masker knows, are so in any case.
    :param grace: how long a write may take to become visible to :meth:`probe`; a probe that sees nothing is repeated
        until then.
    :param hold_timeout: how long the task waits for a person to resolve the write, before it fails; None waits without
        limit.
    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    """

    template_fields: Sequence[str] = ("job", "when", "undo")
    ui_color = "#fbeee0"
    job_role = JobRole.EFFECT

    #: What the ledger and the review page call an effect that :meth:`apply` sends; by default the class's name.
    kind: str = ""

    #: Seconds that one call of :meth:`apply` may take at most. A claim lasts a little longer.
    call_seconds: float = 60.0

    def __init__(
        self,
        *,
        job: JobReference,
        effect: str | None = None,
        when: str | bool = True,
        for_each: str | None = None,
        max_elements: int = 100,
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
        self.when = when
        self.condition = str(when)
        self.for_each = for_each
        self.max_elements = max_elements
        self.element: Element | None = None
        self.idempotent = idempotent
        self.undo = undo
        self.secret_fields = tuple(secret_fields)
        self.grace_seconds = grace.total_seconds() if isinstance(grace, timedelta) else float(grace)
        self.hold_timeout = hold_timeout
        self.ledger_conn_id = ledger_conn_id
        if "[" in (effect or ""):
            raise ValueError(f"effect must not contain '[', which marks the elements of for_each: {effect!r}.")
        if for_each is not None:
            check_path(for_each)

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
        """Find out what became of an attempt that ended without a result.

        ``NotApplied()`` where there is no trace of it: it counts as such once the grace time has passed. None (the
        default) where that is not known.
        """
        return None

    def read(self, plan: dict[str, Any]) -> Any:
        """Return what the target has now, as JSON, for the reviewer; None where there is nothing. Changes nothing.

        It is called when the plan is rendered for a review, and may fail: the reviewer sees why.
        """
        raise NotImplementedError

    def target(self) -> Target:
        """What the effect is written to, made of the rendered fields. Opens nothing.

        By default, it is this operator that sends, with :meth:`apply`. An operator whose target is a type of its own
        makes one, and defines none of :meth:`apply`, :meth:`probe` and :meth:`read`.
        """
        return OperatorTarget(self)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a method that would never be called.

        :raises TypeError: it has one that its target has in its place.
        """
        super().__init_subclass__(**kwargs)
        unused = sorted({"apply", "probe", "read"} & vars(cls).keys())
        if unused and "target" not in vars(cls) and cls.target is not SideEffectOperator.target:
            raise TypeError(
                f"{cls.__name__} defines {', '.join(unused)}, which is never called: its effects are sent by what "
                "`target` returns. Define `target` too, and return a target that does what you want."
            )

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
        """Render the fields, and see to it that Airflow shows the secrets in them neither in logs nor as fields.

        Only ``job`` and ``when`` where the effect does not apply; only ``job`` where there is one effect for each
        element of a list: the fields are then rendered for each, by :meth:`parts`.
        """
        each = self.for_each is not None and self.element is None
        self._render_each(["job"] if each else ["job", "when"], context, jinja_env)
        if each or not self.applies:
            return
        fields = [field for field in self.template_fields if field not in ("job", "when")]
        self._render_each(fields, context, jinja_env)
        hide_from_logs({field: getattr(self, field) for field in fields}, self.secret_fields)

    def _render_each(self, fields: Sequence[str], context: Context, jinja_env: jinja2.Environment | None) -> None:
        for field in fields:
            setattr(self, field, self.render_template(getattr(self, field), context, jinja_env))

    @property
    def applies(self) -> bool:
        """Whether the effect is part of the plan, as its rendered condition says.

        :raises PlanError: the condition says neither.
        """
        said = str(self.when).strip().lower()
        if said not in ("true", "false"):
            raise PlanError(
                f"the condition of the effect {self.effect_name!r} renders to {str(self.when)[:100]!r}.",
                remedy="`when` must render to True or False, as a comparison does: "
                "\"{{ job.output.category == 'billing' }}\".",
            )
        return said == "true"

    def parts(self, context: Context, job: JobView) -> list[SideEffectOperator]:
        """Copies of this task with their fields rendered for the job, in the context of a task of the same run: one,
        or with ``for_each`` one for each element.

        :raises PlanError: there is no list at ``for_each``, or it is too long.
        """
        if self.for_each is None:
            return [self._part(context, job)]
        elements = elements_of(job, self.for_each, effect=self.effect_name, limit=self.max_elements)
        return [self._part(context, job, element) for element in elements]

    def plans(
        self, context: Context, job: JobView, *, key: str, after: Sequence[str], read_current: bool = False
    ) -> list[EffectPlan]:
        """The plan of each of the :meth:`parts`, as :meth:`effect_plan` makes it. None of them sends anything."""
        parts = self.parts(context, job)
        if not parts:
            return [self._left_out({"for_each": self.for_each, "elements": 0}, key=key, after=after)]
        return [part.effect_plan(job, key=key, after=after, read_current=read_current) for part in parts]

    def _part(self, context: Context, job: JobView, element: Element | None = None) -> SideEffectOperator:
        part = copy.copy(self)
        part.element = element
        more: dict[str, Any] = {"task": part, "job": job}
        if element is None:
            part.render_template_fields(cast("Context", {**context, **more}))
            return part
        more |= {"item": element.item, "index": element.index}
        try:
            part.render_template_fields(cast("Context", {**context, **more}))
        except HandoffError:
            raise
        except Exception as error:
            raise PlanError(
                f"the effect {part.effect_name!r} cannot be rendered: {type(error).__name__}: {error}.",
                job=f"job {job.job_id}",
                remedy="Fix the templates of this task, or the output they use; then clear this task.",
            ) from error
        return part

    def effect_plan(self, job: JobView, *, key: str, after: Sequence[str], read_current: bool = False) -> EffectPlan:
        """The plan with its digest, and as it may be shown.

        :param key: of the digest, so that its readers cannot guess the secrets by trial.
        :param after: names of the effects that must be applied before this one.
        :param read_current: read what the target has now, where the author says how.
        :raises PlanError: the plan is not JSON.
        """
        if not self.applies:
            return self._left_out({"when": self.condition}, key=key, after=after)
        plan, target = self.plan(job), self.target()
        undo = self._undo_plan(target, plan)
        try:
            canonical_json([plan, undo])
        except (TypeError, ValueError) as error:
            raise PlanError(
                f"the plan of the effect {self.effect_name!r} is not JSON: {error}.", job=f"job {job.job_id}"
            ) from error
        secrets = frozenset(self.secret_fields) | target.secret_fields
        return EffectPlan(
            name=self.effect_name,
            kind=target.kind,
            plan=plan,
            # The undo and the order are part of what is approved. Which texts are secrets plays no part: what
            # Airflow's masker knows of them differs from process to process.
            plan_digest=keyed_digest([plan, undo, list(after)], key),
            shown=masked(plan, secrets),
            undo=masked(undo, secrets),
            after=tuple(after),
            current=self._read(target, plan, secrets) if read_current and target.can_read else None,
            task_id=self.task_id,
        )

    def _left_out(self, shown: dict[str, Any], *, key: str, after: Sequence[str]) -> EffectPlan:
        """In the place of a plan, where there is nothing to send. That this is so is part of what is approved."""
        return EffectPlan(
            name=self.effect_name,
            kind=self.kind or type(self).__name__,
            plan={},
            plan_digest=keyed_digest(["skipped", list(after)], key),
            shown=shown,
            after=tuple(after),
            task_id=self.task_id,
            skipped=True,
        )

    def _undo_plan(self, target: Target, plan: dict[str, Any]) -> dict[str, Any] | None:
        """The declared undo, as it is kept beside the plan."""
        if self.undo is None:
            return None
        return plan_undo(self.undo, kind=target.kind, name=self.effect_name, defaults=target.undo_defaults(plan))

    def _read(self, target: Target, plan: dict[str, Any], secrets: Collection[str]) -> dict[str, Any]:
        """What the target has now, with the time, as it may be shown."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            record = json.loads(canonical_json(masked({"record": target.read(plan)}, secrets)))["record"]
        except Exception as error:  # noqa: BLE001 - the reviewer sees why, and can decide all the same
            self.log.warning("What the target of %r has now cannot be read: %s", self.effect_name, error)
            return {"at": at, **masked({"error": f"{type(error).__name__}: {error}"})}
        return {"at": at, "record": record}

    @property
    def effect_name(self) -> str:
        """The effect's name within its job."""
        name = self.effect or self.task_id
        return name if self.element is None else f"{name}[{self.element.index}]"

    def execute(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Claim the effect, send it, and record what became of it; or wait until that is known."""
        from airflow_provider_aihandoff.core.effects.apply import Wait
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.operators.planning import ask_again, digest_key, effects_before

        job_id = resolve_job_id(self.job, self.task_id)
        not_now = (event or {}).get("not_now", 0)
        with final_errors(), LedgerHook(self.ledger_conn_id).get_conn() as ledger:
            job = self._view(ledger, job_id)
            key, after = digest_key(ledger), effects_before(context["dag"], self)
            parts = [self] if self.for_each is None else self.parts(context, job)
            sent = [(part.effect_plan(job, key=key, after=after), part.target()) for part in parts]
            self._ensure_planned(context, ledger, job, owner_of(context).actor)
            while True:
                try:
                    done = [self._apply(context, ledger, job_id, plan, target, not_now) for plan, target in sent]
                except PlanNotApproved as refusal:
                    raise ask_again(context, self.job_source, job, ledger, refusal) from refusal
                waits = [each for each in done if isinstance(each, Wait)]
                if not waits:
                    break
                not_now = max(wait.not_now for wait in waits)
                wait_or_defer(
                    self,
                    ledger,
                    first_wait(waits),
                    hold_timeout=self.hold_timeout,
                    ledger_conn_id=self.ledger_conn_id,
                )
            record_skipped(context, ledger, job_id)
            if failures := [each for each in done if isinstance(each, HandoffError)]:
                raise all_failures(self.effect_name, failures, len(sent))
            results = [self._result(each) for each in done if isinstance(each, Effect)]
            return results[0] if self.for_each is None else {"job_id": job_id, "effects": results}

    def _apply(
        self, context: Context, ledger: Ledger, job_id: int, plan: EffectPlan, target: Target, not_now: int
    ) -> Effect | Wait | HandoffError:
        """Apply one effect. What stops one of several is returned, so that it does not stop the others."""
        from airflow_provider_aihandoff.core.effects.apply import apply_effect

        ti = context["ti"]
        try:
            return apply_effect(
                ledger,
                job_id,
                plan,
                target,
                actor=owner_of(context).actor,
                not_now=not_now,
                last_try=ti.try_number > ti.max_tries,
            )
        except (EffectRefused, EffectNotNow, EffectUnknown) as error:
            if self.for_each is None:
                raise
            return error

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
        from airflow_provider_aihandoff.operators.planning import plan_effects

        current = ledger.job(job.job_id)
        if current.approval == "not required" and current.state in (JobState.APPROVED, JobState.APPLYING):
            plans = plan_effects(context, self.job_source, job, ledger)
            ledger.reviews.ask(job.job_id, plans, policy=None, deadline=current.updated_at, actor=actor)
            if all(plan.skipped for plan in plans):
                ledger.effects.complete_without_effects(job.job_id, actor=actor)

    def _load_job(self) -> JobView:
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook

        with final_errors(), LedgerHook(self.ledger_conn_id).get_conn() as ledger:
            job = self._view(ledger, resolve_job_id(self.job, self.task_id))
            if job.output is None:  # templates would fail on it, and say less
                ledger.effects.ensure_approved(job.job_id)
            return job

    @staticmethod
    def _view(ledger: Ledger, job_id: int) -> JobView:
        job = ledger.job(job_id)
        return view(job, ledger.revision(job_id, job.revision))


class OperatorTarget(Target):
    """A target that an author's operator writes to by itself.

    Only the operator knows how to send it: no undo can be of this kind, and a page shows its plan field by field.
    """

    def __init__(self, operator: SideEffectOperator) -> None:
        self._operator = operator
        self.kind = operator.kind or type(operator).__name__
        self.idempotent = operator.idempotent
        self.call_seconds = operator.call_seconds
        self.grace_seconds = operator.grace_seconds

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """As the operator does. It may return the external id, or None, as a function may."""
        return as_applied(self._operator.apply(plan, key), self._operator.effect_name)

    @property
    def can_probe(self) -> bool:
        """Whether the operator defines a probe."""
        return type(self._operator).probe is not SideEffectOperator.probe

    def probe(self, plan: dict[str, Any], key: str) -> Applied | NotApplied | None:
        """As the operator does. It may return what a function may."""
        return as_found(self._operator.probe(plan, key))

    @property
    def can_read(self) -> bool:
        """Whether the operator defines how to read."""
        return type(self._operator).read is not SideEffectOperator.read

    def read(self, plan: dict[str, Any]) -> Any:
        """As the operator does."""
        return self._operator.read(plan)


__all__ = ["Applied", "EffectNotNow", "EffectRefused", "HandoffError", "NotApplied", "SideEffectOperator"]
