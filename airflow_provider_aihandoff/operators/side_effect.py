"""The base of every effect: claim → send → confirm, of exactly what was approved."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_aihandoff.core.arguments import identifier
from airflow_provider_aihandoff.core.digests import canonical_json, keyed_digest
from airflow_provider_aihandoff.core.effects.target import (
    Applied,
    CannotTell,
    Found,
    NotApplied,
    Target,
    as_applied,
    as_found,
    resends_of,
)
from airflow_provider_aihandoff.core.error_text import Secrets, call_cleaned, said
from airflow_provider_aihandoff.core.errors import (
    EffectNotNow,
    EffectRefused,
    EffectUnknown,
    HandoffError,
    PlanError,
    PlanNotApproved,
)
from airflow_provider_aihandoff.core.external_link import checked_template
from airflow_provider_aihandoff.core.sets.fail_when import checked_fail_when
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.core.strict_json import TOO_DEEP, is_shallow
from airflow_provider_aihandoff.core.text import first_problem, unwritable
from airflow_provider_aihandoff.operators.asset_events import announce, as_aliases, check_type, declared, is_written
from airflow_provider_aihandoff.operators.elements import Element, all_failures, check_path, elements_of, first_wait
from airflow_provider_aihandoff.operators.job_argument import (
    JobReference,
    job_reference,
    resolve_job_id,
    set_id_of,
    source_of,
)
from airflow_provider_aihandoff.operators.job_tasks import JobRole, notifiers_of
from airflow_provider_aihandoff.operators.masking import hide_from_logs, masked
from airflow_provider_aihandoff.operators.rate_arguments import checked_max_wait, checked_priority
from airflow_provider_aihandoff.operators.rendering import RendersText
from airflow_provider_aihandoff.operators.retries import RETRIES, RETRY_DELAY, final_errors
from airflow_provider_aihandoff.operators.task_links import ExternalRecordLink, ReviewLink
from airflow_provider_aihandoff.task_states import owner_of

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import BaseNotifier, Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_aihandoff.core.effects.apply import Wait
    from airflow_provider_aihandoff.core.effects.effect_store import WriteSteps
    from airflow_provider_aihandoff.core.effects.placeholders import Marks
    from airflow_provider_aihandoff.core.jobs.job_view import JobView
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Effect, EffectPlan, PriorityName


#: What a target had, as :attr:`EffectPlan.current` has it.
Reading = dict[str, Any]

#: The key with which the probe is tried before there is an effect. No effect ever has it.
KEY_OF_NO_EFFECT = "aih-0-r0-00000000000000000000000000000000"


class SideEffectOperator(RendersText):
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

    **A set**: where ``job`` is the operator that makes a set, the task applies the effect of each approved job of it,
    some at the same time. One that is refused, or whose outcome is unknown, holds up no other; the task ends with the
    counts. An unknown outcome is probed; a person can resolve what is left on the job's page, for which the task waits
    as long as ``hold_timeout`` says, by default not at all.

    :param job: the operator that makes the job or the set, or a job id.
    :param effect: the effect's name within the job; by default the id of the task.
    :param when: whether the effect applies at all (templated): ``"{{ job.output.category == 'billing' }}"``. Where it
        renders to ``False``, the effect is no part of the plan, and its other fields are not rendered; the reviewer
        sees that, nothing is sent, and the task succeeds with the state ``skipped``.
    :param for_each: a JSONPath (RFC 9535) of a list in the output, such as ``$.lines``: one effect for each of its
        elements, each with its own key, state and undo. Templates have the element as ``item``, and its number, from 0,
        as ``index``. An element that the target refuses does not stop the others; the task fails at the end.
    :param max_elements: the most elements that ``for_each`` takes; a longer list is refused when it is planned.
    :param idempotent: the target takes the same effect key twice without writing twice.
    :param resends: how often the effect is sent again after an attempt whose outcome stayed unknown, before a person
        resolves it: by default once, if its probe saw no trace; 3 times if it is ``idempotent``.
    :param verify: a write that the target confirms counts once :meth:`probe` sees it. If it does not within ``grace``,
        a person resolves it.
    :param try_probe: try :meth:`probe`: when the plan is rendered for a review, where it must see nothing, and after a
        write, where it must see it. What it saw instead is on the record, and a find that was there before is none.
    :param undo: what undoes the effect, as a mapping (templated); shown before approval, and sent by a roll-back. It
        has a ``kind`` (``http``, ``postgres``, ``function``, or another one that is installed; by default that of the
        effect) and what that takes; ``{external_id}`` in it stands for the id of the record in the target.
    :param secret_fields: names of fields of the plan whose values are secrets: sent, never stored or shown. Fields such
        as ``Authorization``, and values that Airflow's secrets masker knows, are so in any case.
    :param shown_fields: names of fields of the plan whose values are no secrets, although their names read like it:
        reviewers see them.
    :param external_url: where people see the record that the effect has made: an ``https`` address with
        ``{external_id}`` in its path or query, such as ``https://cms.example/posts/{external_id}``. Pages, lists, REST
        and the command line show the external id as a link to it. It is not templated, and not part of what is
        approved.
    :param grace: how long a write may take to become visible to :meth:`probe`; a probe that sees nothing is repeated
        until then.
    :param hold_timeout: how long the task waits for a person to resolve the write, before it fails; None waits without
        limit.
    :param rate_key: the name of limits of speed that the write counts for, beside those of its connection.
    :param priority: ``interactive``, where a person waits for the write: it goes before those of batches where a limit
        of speed holds them.
    :param max_wait: how long the write waits for a limit of speed or a pause, before the task fails; None waits without
        limit.
    :param notifiers: Airflow's notifiers, called in the worker once for each time that the write waits for a person;
        by default those of the job's ``ApprovalSensor``.
    :param write_at_once: how many jobs of a set are written at the same time.
    :param wait_for_decisions: write the jobs of a set that are approved while others wait for their decision, and wait
        for those without a worker slot. Have the task follow the one that drafts, beside the approval task and not
        after it.
    :param fail_when: fail the task when so many jobs of a set could not be written: a share of them as a float
        (``0.05``), or a number as an int. By default it fails when none could.
    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    :param outlets: Airflow's. Of :func:`~airflow_provider_aihandoff.assets.applied_asset`, the task that applies the
        last effect of the job makes one event; a retry or a clear makes no second one.
    """

    template_fields: Sequence[str] = ("job", "when", "undo")
    ui_color = "#fbeee0"
    job_role = JobRole.EFFECT
    operator_extra_links = (ReviewLink(), ExternalRecordLink())

    #: Where the records can be seen that the task has written.
    external_links: Sequence[str] = ()

    #: What the ledger and the review page call an effect that :meth:`apply` sends; by default the class's name.
    kind: str = ""

    #: Seconds that one call of :meth:`apply` may take at most. A claim lasts a little longer.
    call_seconds: float = 60.0

    #: What stands for placeholders in the fields as they are rendered; None before.
    _marks: Marks | None = None
    _marked: Mapping[str, Any] = MappingProxyType({})
    #: Whether the plan was made of marked fields: what reads like a placeholder in any other is none.
    _is_settled: bool = False
    #: The fields of its answer that other effects name, where many copies of this task share it.
    _answer_fields: tuple[str, ...] | None = None

    #: The template fields that must be known when the plan is rendered: what an earlier effect brings is not.
    known_fields: Collection[str] = ("job", "when")

    #: The template fields that are paths under the base URL of a connection.
    endpoint_fields: Collection[str] = ()

    #: Which endpoint would lead elsewhere by what its template fills in, and why.
    endpoint_problem: str | None = None

    def __init__(
        self,
        *,
        job: JobReference,
        effect: str | None = None,
        when: str | bool = True,
        for_each: str | None = None,
        max_elements: int = 100,
        idempotent: bool = False,
        resends: int | None = None,
        verify: bool = False,
        try_probe: bool = True,
        undo: dict[str, Any] | None = None,
        secret_fields: Sequence[str] = (),
        shown_fields: Sequence[str] = (),
        external_url: str | None = None,
        grace: timedelta | float = 30.0,
        hold_timeout: timedelta | None = None,
        rate_key: str | None = None,
        priority: PriorityName = "batch",
        max_wait: timedelta | None = None,
        notifiers: Sequence[BaseNotifier] | None = None,
        write_at_once: int = 8,
        wait_for_decisions: bool = False,
        fail_when: float | int | None = None,
        ledger_conn_id: str | None = None,
        retries: int | None = RETRIES,
        retry_delay: timedelta | float = RETRY_DELAY,
        **kwargs: Any,
    ) -> None:
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)
        self.job = job_reference(job)
        self.job_source = source_of(self.job)
        self.effect = None if effect is None else identifier("effect", effect)
        self.when = when
        self.condition = str(when)
        self.for_each = for_each
        self.max_elements = max_elements
        self.element: Element | None = None
        self.idempotent = idempotent
        self.resends = resends_of(resends, idempotent=idempotent)
        self.verify = verify
        self.try_probe = try_probe
        self.undo = undo
        self.secret_fields = tuple(secret_fields)
        self.shown_fields = tuple(shown_fields)
        self.external_url = None if external_url is None else checked_template(external_url)
        self.grace_seconds = grace.total_seconds() if isinstance(grace, timedelta) else float(grace)
        self.hold_timeout = hold_timeout
        self.rate_key = None if rate_key is None else identifier("rate_key", rate_key)
        self.priority = checked_priority(priority)
        self.max_wait = checked_max_wait(max_wait)
        self.notifiers = None if notifiers is None else list(notifiers)
        self.write_at_once = write_at_once
        self.wait_for_decisions = wait_for_decisions
        self.fail_when = checked_fail_when(fail_when)
        self.ledger_conn_id = ledger_conn_id
        self.outlets = as_aliases(self.outlets)
        if write_at_once < 1:
            raise ValueError(f"write_at_once must be at least 1, not {write_at_once}.")
        if "[" in (self.effect or ""):
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

    def probe(self, plan: dict[str, Any], key: str) -> Found:
        """Find out what became of an attempt that ended without a result.

        ``NotApplied()`` where there is no trace of it: it counts as such once the grace time has passed.
        :class:`CannotTell`, or None (the default), where that is not known.
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

    def share_environment(self) -> None:
        """As there; and find once what is the same for all copies."""
        from airflow_provider_aihandoff.operators.earlier_effects import answer_fields

        super().share_environment()
        self._answer_fields = answer_fields(self)

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render one value, with ``job`` as the ledger has it now."""
        if "job" not in context and content is not self.job:
            context["job"] = self._load_job()  # type: ignore[typeddict-unknown-key]
        rendered = super().render_template(content, context, jinja_env, seen_oids)
        if id(content) not in (seen_oids or ()):  # otherwise it is a value
            self._check_endpoints(content, rendered, context, jinja_env or self.get_template_env())
        return rendered

    def _check_endpoints(self, content: Any, rendered: Any, context: Context, env: jinja2.Environment) -> None:
        """Keep the first problem of an endpoint in the field that was rendered, for :meth:`effect_plan` to refuse."""
        from airflow_provider_aihandoff.operators.endpoint_values import (
            ENDPOINT_FIELDS,
            declared_endpoints,
            value_problem,
        )

        named = [name for name in self.template_fields if name in ENDPOINT_FIELDS or name in self.endpoint_fields]
        declared = {name: content for name in named if content is getattr(self, name, None)}
        if not declared:
            return
        texts = dict(declared_endpoints(dict.fromkeys(declared, rendered), self.endpoint_fields))
        for name, template in declared_endpoints(declared, self.endpoint_fields):
            problem = value_problem(template, texts.get(name), env, lambda text, env: self._text_of(text, context, env))
            if problem and not self.endpoint_problem:
                self.endpoint_problem = f"`{name}` of the effect {self.effect_name!r}, {template!r}, {problem}."

    def _text_of(self, template: str, context: Context, env: jinja2.Environment) -> Any:
        return super().render_template(template, context, env)

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: jinja2.Environment,
        seen_oids: set[int],
    ) -> None:
        """Render the fields, and see to it that Airflow shows the secrets in them neither in logs nor as fields.

        Only ``job`` and ``when`` where the effect does not apply; only ``job`` where there is one effect for each
        element of a list, or of each job of a set: the fields are then rendered for each, by :meth:`parts`.

        :raises PlanError: Airflow itself could not keep what they render to.
        """
        from airflow_provider_aihandoff.core.effects.placeholders import Marks

        if parent is not self:
            self._marks = None
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
            return
        self._marks, self._marked = Marks(), {}
        each = self.for_each is not None and self.element is None
        super()._do_render_template_fields(self, ["job"], context, jinja_env, seen_oids)
        if each or ("job" not in context and set_id_of(self.job) is not None):
            return
        super()._do_render_template_fields(self, ["when"], context, jinja_env, seen_oids)
        if not self.applies:
            return
        rest = [field for field in template_fields if field not in ("job", "when")]
        super()._do_render_template_fields(self, rest, context, jinja_env, seen_oids)
        self._marked = {field: getattr(self, field) for field in rest}
        for field, value in self._marked.items():
            if (plain := self._marks.plain(value)) is not value:
                setattr(self, field, plain)
        _check_sendable({field: getattr(self, field) for field in rest}, name=self.effect_name)
        hide_from_logs(self._marked, self.secret_fields, self.shown_fields)

    def _called(self) -> str:
        return super()._called() if self.element is None else f"the effect {self.effect_name!r}"

    def _template(self, text: str) -> str:
        from airflow_provider_aihandoff.operators.earlier_effects import check_placeholders

        if self._marks is None:
            return text
        check_placeholders(self, self._field or "", text)
        return self._marks.mark(text)

    def marked(self, field: str) -> Any:
        """A rendered field with marks in the place of placeholders, to be settled by :meth:`settled`."""
        return self._marked.get(field, getattr(self, field))

    def settled(self, plan: Any) -> tuple[Any, list[list[Any]]]:
        """A part of a plan that was made of :meth:`marked` fields, and its literals."""
        return (plan, []) if self._marks is None else self._marks.settle(plan)

    def settled_plan(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """A plan that was made of :meth:`marked` fields, with its literals in it."""
        from airflow_provider_aihandoff.core.effects.placeholders import LITERALS

        self._is_settled = True
        settled, literals = self.settled(plan)
        return {**settled, LITERALS: literals} if literals else dict(settled)

    @property
    def applies(self) -> bool:
        """Whether the effect is part of the plan, as its rendered condition says.

        :raises PlanError: the condition says neither.
        """
        rendered = str(self.when).strip().lower()
        if rendered not in ("true", "false"):
            raise PlanError(
                f"the condition of the effect {self.effect_name!r} renders to {str(self.when)[:100]!r}.",
                remedy="`when` must render to True or False, as a comparison does: "
                "\"{{ job.output.category == 'billing' }}\".",
            )
        return rendered == "true"

    def parts(self, context: Context, job: JobView) -> list[SideEffectOperator]:
        """Copies of this task with their fields rendered for the job, in the context of a task of the same run: one,
        or with ``for_each`` one for each element.

        :raises PlanError: there is no list at ``for_each``, it is too long, or an element cannot be rendered.
        """
        if self.for_each is None:
            return [self._part(context, job)]
        elements = elements_of(job, self.for_each, effect=self.effect_name, limit=self.max_elements)
        return [self._part(context, job, element) for element in elements]

    def _part(self, context: Context, job: JobView, element: Element | None = None) -> SideEffectOperator:
        part = copy.copy(self)
        part._lock_for_execution = True  # it is no task of the Dag: what its fields render to makes no dependency
        part.element = element
        part.job = job.job_id
        more: dict[str, Any] = {"task": part, "job": job}
        if element is None:
            part.render_template_fields(cast("Context", {**context, **more}))
            return part
        more |= {"item": element.item, "index": element.index}
        try:
            part.render_template_fields(cast("Context", {**context, **more}))
        except (HandoffError, AirflowFailException):
            raise
        except Exception as error:  # noqa: BLE001 - raised below, where nothing is chained to it
            problem = said(error)
        else:
            return part
        raise PlanError(
            f"the effect {part.effect_name!r} cannot be rendered: {problem}.",
            job=f"job {job.job_id}",
            remedy="Fix the templates of this task, or the output they use; then clear this task.",
        )

    def plans(
        self,
        context: Context,
        job: JobView,
        *,
        key: str,
        after: Sequence[str],
        ask_target: bool = False,
        readings: Mapping[str, Reading] = MappingProxyType({}),
    ) -> list[EffectPlan]:
        """The plan of each of the :meth:`parts`, as :meth:`effect_plan` makes it.

        :param readings: by the names of the effects.
        """
        parts = self.parts(context, job)
        if not parts:
            return [self._left_out({"for_each": self.for_each, "elements": 0}, key=key, after=after)]
        return [
            part.effect_plan(job, key=key, after=after, ask_target=ask_target, reading=readings.get(part.effect_name))
            for part in parts
        ]

    def effect_plan(
        self,
        job: JobView,
        *,
        key: str,
        after: Sequence[str],
        ask_target: bool = False,
        reading: Reading | None = None,
    ) -> EffectPlan:
        """The plan with its digest, and as it may be shown.

        :param key: of the digest, so that its readers cannot guess the secrets by trial.
        :param after: names of the effects that must be applied before this one.
        :param ask_target: read what the target has now, and try its probe, where the author says how.
        :param reading: what the target had when it was read before. Without one, it is read for an undo that names it.
        :raises PlanError: the plan is not JSON, or the undo cannot be what it is.
        :raises EffectNotNow: the undo names what the target has, and it cannot be read now.
        """
        from airflow_provider_aihandoff.core.effects.filled import earlier_names
        from airflow_provider_aihandoff.core.effects.placeholders import LITERALS
        from airflow_provider_aihandoff.core.models import EffectPlan
        from airflow_provider_aihandoff.operators.earlier_effects import answer_fields

        if not self.applies:
            return self._left_out({"when": self.condition}, key=key, after=after)
        if self.endpoint_problem:
            raise PlanError(
                self.endpoint_problem,
                job=f"job {job.job_id}",
                remedy="Pass the value in `query`, use another value, or write it with the filter urlencode. A path "
                "with steps of its own is one template as a whole.",
            )
        fields = {field: getattr(self, field) for field in self.template_fields if field != "job"}
        own = Secrets.between(fields, masked(fields, self.secret_fields, self.shown_fields))
        self._is_settled = False
        plan, target = call_cleaned(lambda: (self.plan(job), self.target()), own)
        secrets = frozenset(self.secret_fields) | target.secret_fields
        names = earlier_names(plan, plan.get(LITERALS, ())) if self._is_settled else set()
        self._check_filled_in(names | target.names(), target)
        if target.can_read and (ask_target or (reading is None and self._restores)):
            reading = self._read(target, plan, secrets)
        undo = call_cleaned(lambda: self._undo_plan(target, plan, reading), own)
        _check_sendable({"plan": plan, "undo": undo}, name=self.effect_name)
        try:
            canonical_json([plan, undo])
        except (TypeError, ValueError) as error:
            raise PlanError(
                f"the plan of the effect {self.effect_name!r} is not JSON: {error}.", job=f"job {job.job_id}"
            ) from error
        shown, find_counts, probe_note = hide_from_logs(plan, secrets, self.shown_fields), True, None
        if ask_target and target.can_probe:
            find_counts, probe_note = self._try_probe(target, plan, own)
            shown = masked(plan, secrets, self.shown_fields)  # the masker knows by now what the probe has read
        return EffectPlan(
            name=self.effect_name,
            kind=target.kind,
            plan=plan,
            # The undo and the order are part of what is approved. Which texts are secrets plays no part: what
            # Airflow's masker knows of them differs from process to process.
            plan_digest=keyed_digest([plan, undo, list(after)], key),
            shown=shown,
            undo=None if undo is None else _shown_undo(undo, secrets, self.shown_fields),
            after=tuple(after),
            current=reading,
            find_counts=find_counts,
            probe_note=probe_note,
            task_id=self.task_id,
            names=tuple(sorted(names)),
            other_names=tuple(sorted(target.names() | earlier_names(undo, (undo or {}).get(LITERALS, ())))),
            answer_fields=answer_fields(self) if self._answer_fields is None else self._answer_fields,
            external_url=self.external_url,
            rate_key=self.rate_key,
            priority=self.priority,
        )

    def _check_filled_in(self, names: Collection[str], target: Target) -> None:
        """Refuse what an author wrote to be filled in, and this kind of effect would send as it stands.

        :param names: the placeholders that are filled in.
        """
        from airflow_provider_aihandoff.core.effects.placeholders import earlier

        if self._marks is None or not any(map(earlier, self._marks.names)):
            return
        fields = {field: value for field, value in self._marked.items() if field != "undo"}
        left = sorted(name for name in self._marks.names_in(fields) - set(names) if earlier(name) is not None)
        if left:
            raise PlanError(
                f"the effect {self.effect_name!r} has {' and '.join(left)} where the kind {target.kind!r} fills in "
                "nothing.",
                remedy="Make its plan of `self.marked(FIELD)` and `self.settled_plan(...)`, or use it elsewhere.",
            )

    @property
    def _restores(self) -> bool:
        """Whether the undo names what the target has."""
        from airflow_provider_aihandoff.core.effects.placeholders import is_current

        names = self._marks.names_in(self._marked.get("undo")) if self._marks is not None else set()
        return any(map(is_current, names))

    def _left_out(self, shown: dict[str, Any], *, key: str, after: Sequence[str]) -> EffectPlan:
        """In the place of a plan, where there is nothing to send. That this is so is part of what is approved."""
        from airflow_provider_aihandoff.core.models import EffectPlan

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

    def _undo_plan(self, target: Target, plan: dict[str, Any], reading: Reading | None) -> dict[str, Any] | None:
        """The declared undo, as it is kept beside the plan."""
        from airflow_provider_aihandoff.core.effects.current_values import with_current
        from airflow_provider_aihandoff.core.effects.undo import plan_undo

        if self.undo is None:
            return None
        declared = self.marked("undo")
        if self._marks is not None and self._restores:
            declared = with_current(declared, self._marks, self._record_of(reading), name=self.effect_name)
        return plan_undo(
            declared,
            kind=target.kind,
            name=self.effect_name,
            defaults=target.undo_defaults(plan),
            marks=self._marks,
        )

    def _record_of(self, reading: Reading | None) -> Any:
        """What the target has, for an undo that names it.

        :raises PlanError: its author does not say how to read it.
        :raises EffectNotNow: it cannot be read now.
        """
        if reading is None:
            raise PlanError(
                f"the undo of the effect {self.effect_name!r} names what the target has, and nothing says how to read "
                "that.",
                remedy="Declare `current`.",
            )
        if "error" in reading:
            raise EffectNotNow(
                f"the undo of the effect {self.effect_name!r} names what the target has, and that cannot be read: "
                f"{str(reading['error']).rstrip('.')}.",
                answered=False,
                remedy="Check the target; a retry is safe.",
            )
        return reading.get("record")

    def _try_probe(self, target: Target, plan: dict[str, Any], secrets: Secrets) -> tuple[bool, str | None]:
        """Try the probe before anything is sent: whether a later find counts, and what the reviewer should know."""
        from airflow_provider_aihandoff.core import signals

        if not (target.can_probe and target.try_probe) or target.names():  # what it names is not known yet
            return True, None
        try:
            found = call_cleaned(lambda: target.probe(plan, KEY_OF_NO_EFFECT), secrets)
        except Exception as error:  # noqa: BLE001 - the reviewer sees why, and can decide all the same
            found = CannotTell(f"it failed: {error}")
        proves = "yes" if isinstance(found, NotApplied) else "no"
        signals.count(signals.PROBE_TRIALS, target=target.kind, moment="before", proves=proves)
        if isinstance(found, Applied) or (isinstance(found, CannotTell) and found.found):
            note = "before anything was sent, the probe saw what it is to find. A later find proves nothing"
            return False, note
        if isinstance(found, NotApplied):
            return True, None
        why = found.why if isinstance(found, CannotTell) else "it gave no answer that can be read"
        return True, str(masked(f"before anything was sent, the probe could not tell: {why}"))

    def _read(self, target: Target, plan: dict[str, Any], secrets: Collection[str]) -> dict[str, Any]:
        """What the target has now, with the time, as it may be shown."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        own = Secrets.between(plan, masked(plan, secrets, self.shown_fields))
        try:
            found = call_cleaned(lambda: target.read(plan), own)
            record = json.loads(canonical_json(masked({"record": found}, secrets, self.shown_fields)))["record"]
        except Exception as error:  # noqa: BLE001 - the reviewer sees why, and can decide all the same
            self.log.warning("What the target of %r has now cannot be read: %s", self.effect_name, error)
            return {"at": at, "error": str(error)}
        return {"at": at, "record": record}

    @property
    def effect_name(self) -> str:
        """The effect's name within its job."""
        name = self.effect or self.task_id
        return name if self.element is None else f"{name}[{self.element.index}]"

    def execute(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Claim the effect, send it, and record what became of it; or wait until that is known."""
        from airflow_provider_aihandoff.core.effects.apply import Wait
        from airflow_provider_aihandoff.core.models import Effect
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.operators.planning import ask_again, effects_before
        from airflow_provider_aihandoff.operators.set_effects import apply_to_set
        from airflow_provider_aihandoff.operators.skipped import record_skipped
        from airflow_provider_aihandoff.operators.waiting import wait_or_defer

        if (set_id := set_id_of(self.job)) is not None:
            return apply_to_set(self, context, set_id, event)
        job_id = resolve_job_id(self.job, self.task_id)
        not_now = (event or {}).get("not_now", 0)
        with final_errors(self.ledger_conn_id, job_id), LedgerHook(self.ledger_conn_id).get_conn() as ledger:
            if self.wait_for_decisions:
                raise PlanError(
                    "`wait_for_decisions` is for the jobs of a set, and this is a job of its own.",
                    remedy=f"Leave it out, and have {self.task_id!r} follow the approval task.",
                )
            job = self.view_of(ledger, job_id)
            check_type(assets := declared(self, context), job.job_type, job=f"job {job_id}")
            written = is_written(assets, ledger, job_id)
            key, after = ledger.digest_key(), effects_before(context["dag"], self)
            parts = [self] if self.for_each is None else self.parts(context, job)
            readings = self.readings_of_attempts(ledger, job_id)
            sent = [
                (part.effect_plan(job, key=key, after=after, reading=readings.get(part.effect_name)), part.target())
                for part in parts
                if part.applies
            ]
            left_out = [part.effect_plan(job, key=key, after=after) for part in parts if not part.applies]
            if not parts:
                left_out = self.plans(context, job, key=key, after=after)
            self.ensure_planned(context, ledger, job)
            while True:
                try:
                    done = [self.apply_one(context, ledger, job_id, plan, target, not_now) for plan, target in sent]
                    skipped = [self.skip(context, ledger, job_id, plan) for plan in left_out]
                except PlanNotApproved as refusal:
                    raise ask_again(context, self.job_source, job, ledger, refusal) from refusal
                waits = [each for each in done if isinstance(each, Wait)]
                if not waits:
                    break
                not_now = max(wait.not_now for wait in waits)
                wait_or_defer(
                    self,
                    context,
                    ledger,
                    first_wait(waits),
                    notifiers=self.notifiers_for(context),
                    hold_timeout=self.hold_timeout,
                    max_wait=self.max_wait,
                    ledger_conn_id=self.ledger_conn_id,
                )
            record_skipped(context, ledger, job_id)
            if failures := [each for each in done if isinstance(each, HandoffError)]:
                raise all_failures(self.effect_name, failures, len(parts))
            announce(self, context, ledger, job_id, written)
            effects = [each for each in (*done, *skipped) if isinstance(each, Effect)]
            self.external_links = [each.external_link for each in effects if each.external_link is not None]
            results = [self._result(each) for each in sorted(effects, key=lambda effect: effect.position)]
            return results[0] if self.for_each is None else {"job_id": job_id, "effects": results}

    def apply_one(
        self,
        context: Context,
        ledger: Ledger,
        job_id: int,
        plan: EffectPlan,
        target: Target,
        not_now: int,
        steps: WriteSteps | None = None,
    ) -> Effect | Wait | HandoffError:
        """Apply one effect. What stops one of several is returned, so that it does not stop the others.

        :param steps: as of :func:`apply_effect`.
        """
        from airflow_provider_aihandoff.core.effects.apply import apply_effect
        from airflow_provider_aihandoff.task_memory import memory_of

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
                memory=memory_of(context),
                is_secret=self._is_secret,
                steps=steps,
            )
        except (EffectRefused, EffectNotNow, EffectUnknown) as error:
            if self.for_each is None:
                raise
            return error

    def _is_secret(self, name: str, value: Any) -> bool:
        """Whether a field of the target's answer is a secret."""
        field = {name: value}
        return bool(masked(field, self.secret_fields, self.shown_fields) != field)

    def readings_of_attempts(self, ledger: Ledger, job_id: int) -> dict[str, Reading]:
        """What the targets had before they may have been written to, by the names of the effects.

        An effect that no attempt has sent reads its target again: if it has changed, so has the undo that was approved.
        """
        if "{current" not in str(self.undo):
            return {}
        effects = ledger.record(job_id).current_effects
        return {effect.name: effect.current for effect in effects if effect.attempt and effect.current}

    @staticmethod
    def skip(context: Context, ledger: Ledger, job_id: int, plan: EffectPlan) -> Effect:
        """Check that the plan that was approved leaves the effect out, too."""
        return ledger.effects.claim(job_id, plan, lease=timedelta(0), actor=owner_of(context).actor).effect

    def notifiers_for(self, context: Context) -> Sequence[BaseNotifier]:
        """Who is called where the write waits for a person: by default, whom the approval of the job calls."""
        if self.notifiers is not None:
            return self.notifiers
        return notifiers_of(context["dag"], self.job_source)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """What OpenLineage gets: the target, the external id and who approved, and no content. See
        :mod:`operators.lineage`."""
        from airflow_provider_aihandoff.operators.lineage import effect_lineage

        return effect_lineage(self, self.ledger_conn_id)

    @staticmethod
    def _result(effect: Effect) -> dict[str, Any]:
        return {
            "job_id": effect.job_id,
            "effect_id": effect.effect_id,
            "effect_key": effect.effect_key,
            "external_id": effect.external_id,
            "state": effect.state.value,
        }

    def ensure_planned(self, context: Context, ledger: Ledger, job: JobView) -> None:
        """Plan the effects of a job that needs no approval, where no approval task has done it before."""
        from airflow_provider_aihandoff.operators.planning import plan_effects

        current, actor = ledger.job(job.job_id), owner_of(context).actor
        if current.approval == "not required" and current.state in (JobState.APPROVED, JobState.APPLYING):
            first = current.review_digest is None
            plans = plan_effects(context, self.job_source, job, ledger, ask_targets=first)
            ledger.reviews.ask(job.job_id, plans, policy=None, deadline=current.updated_at, actor=actor)
            if all(plan.skipped for plan in plans):
                ledger.effects.complete_without_effects(job.job_id, actor=actor)

    def _load_job(self) -> JobView:
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook

        job_id = resolve_job_id(self.job, self.task_id)
        with final_errors(self.ledger_conn_id, job_id), LedgerHook(self.ledger_conn_id).get_conn() as ledger:
            job = self.view_of(ledger, job_id)
            if job.output is None:  # templates would fail on it, and say less
                ledger.effects.ensure_approved(job.job_id)
            return job

    @staticmethod
    def view_of(ledger: Ledger, job_id: int) -> JobView:
        """A job as its templates see it."""
        from airflow_provider_aihandoff.core.jobs.job_view import view

        job = ledger.job(job_id)
        return view(job, ledger.revision(job_id, job.revision))


def _check_sendable(fields: Mapping[str, Any], *, name: str) -> None:
    """Refuse what no target could be sent, no page could show, and Airflow could not keep as a rendered field.

    :raises PlanError: with the field.
    """
    for field, value in fields.items():
        found = first_problem(value, unwritable, field) if is_shallow(value) else f"a value in {field}: {TOO_DEEP}"
        if found is not None:
            raise PlanError(
                f"the effect {name!r} has {found}.",
                remedy="Change its templates, or edit the output; then clear this task.",
            )


def _shown_undo(undo: dict[str, Any], secrets: Collection[str], shown_fields: Collection[str]) -> dict[str, Any]:
    """A declared undo as the ledger keeps it. What its own kind sends as secrets is masked too."""
    from airflow_provider_aihandoff.core.effects.target_registry import target_type
    from airflow_provider_aihandoff.core.effects.undo import MASKED

    secrets = {*secrets, *target_type(undo["kind"]).secret_fields}
    shown = hide_from_logs(undo, secrets, shown_fields)
    return {**shown, MASKED: canonical_json(shown) != canonical_json(undo)}


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
        self.resends = operator.resends
        self.verify = operator.verify
        self.try_probe = operator.try_probe

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """As the operator does."""
        return as_applied(self._operator.apply(plan, key), self._operator.effect_name)

    @property
    def can_probe(self) -> bool:
        """Whether the operator defines a probe."""
        return type(self._operator).probe is not SideEffectOperator.probe

    def probe(self, plan: dict[str, Any], key: str) -> Found:
        """As the operator does."""
        return as_found(self._operator.probe(plan, key))

    @property
    def can_read(self) -> bool:
        """Whether the operator defines how to read."""
        return type(self._operator).read is not SideEffectOperator.read

    def read(self, plan: dict[str, Any]) -> Any:
        """As the operator does."""
        return self._operator.read(plan)


__all__ = ["Applied", "CannotTell", "EffectNotNow", "EffectRefused", "HandoffError", "NotApplied", "SideEffectOperator"]
