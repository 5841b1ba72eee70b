"""The declared undo of an effect: from what its author wrote, to an exact plan, to the target that applies it.

An undo is kept with the plan of its effect as ``{"kind": ..., "plan": {...}}``, with what its target needs to know
besides. Its plan may name what only the applied effect knows: ``{external_id}``, the id of the record in the target,
and ``{effect_key}``, the key of the effect that it undoes. A probe of an undo may also name ``{undo_key}``, the key
that the undo itself is sent with; its target fills that one in when it probes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.effects.target import Target
from airflow_provider_aihandoff.core.effects.target_registry import kinds, target_type
from airflow_provider_aihandoff.core.errors import PlanError, UnknownTargetKind
from airflow_provider_aihandoff.core.models import Effect, EffectPlan
from airflow_provider_aihandoff.core.states import EffectState

#: What replaces a secret; an undo that has one cannot be sent from the ledger.
MASK = "***"

#: How the name of an effect that undoes another one begins.
PREFIX = "undo:"

#: The placeholder for the key of the effect, in its probe and its undo; and for the undo's own key, in its probe.
EFFECT_KEY, UNDO_KEY = "{effect_key}", "{undo_key}"

#: What an undo may name.
_NAMES = re.compile(r"\{external_id\}|\{effect_key\}")


def plan_undo(
    declared: Mapping[str, Any], *, kind: str, name: str, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Render the undo that an author declared to the form in which the ledger keeps it.

    :param declared: its fields, rendered; ``kind`` is that of the effect unless it says otherwise.
    :param kind: of the effect.
    :param name: of the effect, for messages.
    :param defaults: the fields that an undo of the effect's own kind has where its author leaves them out.
    :raises PlanError: no target of its kind can undo anything here, or a field is unknown, missing, or not what it must
        be.
    """
    fields = {field: value for field, value in declared.items() if value is not None}
    own, kind = kind, str(fields.pop("kind", kind))
    found = _undo_type(kind, name)
    if unknown := sorted(fields.keys() - found.undo_fields):
        raise PlanError(
            f"the undo of the effect {name!r} has fields that its kind {kind!r} does not know: {', '.join(unknown)}.",
            remedy=f"It takes: {', '.join(sorted(found.undo_fields))}.",
        )
    if kind == own:
        fields = {**(defaults or {}), **fields}
    try:
        plan, options = found.plan_undo(fields, name=name)
    except KeyError as missing:
        raise PlanError(f"the undo of the effect {name!r} lacks {missing}.") from None
    return {**options, "kind": kind, "plan": plan}


def _undo_type(kind: str, name: str) -> type[Target]:
    """The class of a kind that can undo something. No other can be named by an undo."""
    try:
        found = target_type(kind)
    except UnknownTargetKind as unknown:
        raise PlanError(
            f"the undo of the effect {name!r} has the kind {kind!r}: {unknown.what}", remedy=_which_kinds()
        ) from unknown
    if not found.undo_fields:
        raise PlanError(
            f"the undo of the effect {name!r} has the kind {kind!r}, which cannot undo anything.", remedy=_which_kinds()
        )
    return found


def _which_kinds() -> str:
    able = []
    for kind in kinds():
        try:
            able += [kind] if target_type(kind).undo_fields else []
        except UnknownTargetKind:
            continue
    return f"Give the undo a kind that is installed here and can undo: {', '.join(able)}."


def undo_target(undo: EffectPlan) -> Target:
    """Make the target that applies an undo.

    :param undo: as :func:`undo_plan` makes it.
    :raises PlanError: it cannot be applied here: its kind or its function is not installed.
    """
    return target_type(undo.kind).from_undo(undo.name, undo.plan, undo.undo or {})


def why_not(effect: Effect) -> str | None:
    """Why an applied effect cannot be undone, as text; None where it can."""
    if effect.undo is None:
        return "declares no undo"
    if not effect.own:
        return "was there before, as far as the ledger knows: this job did not write it"
    kind = effect.undo.get("kind")
    if not isinstance(kind, str) or not isinstance(effect.undo.get("plan"), dict):
        return "has an undo that an earlier release kept for people to read, and that cannot be sent"
    if _mentions(effect.undo, MASK):
        return "has an undo with a masked secret, which the ledger does not keep"
    try:
        found = target_type(kind)
    except UnknownTargetKind as unknown:
        return f"has an undo that cannot be sent: {unknown.what.rstrip('.')}"
    if _mentions(effect.undo, "{external_id}"):
        if not effect.external_id:
            return "has an undo that names {external_id}, and its external id is not known"
        if not found.may_name(effect.external_id):
            return f"has an undo that names {{external_id}}, and its external id is {effect.external_id!r}"
    return None


def undo_plan(effect: Effect, after: str | None) -> EffectPlan:
    """The exact plan that undoes an applied effect. :func:`why_not` must have found nothing.

    :param after: the name of the undo that must come before it.
    """
    assert effect.undo is not None
    values = {"{external_id}": effect.external_id or "", EFFECT_KEY: effect.effect_key}
    quoted = target_type(effect.undo["kind"]).quoted
    undo = {name: _filled_part(part, values, quoted) for name, part in effect.undo.items()}
    options = {name: value for name, value in undo.items() if name not in ("kind", "plan")}
    return EffectPlan(
        name=PREFIX + effect.name,
        kind=undo["kind"],
        plan=undo["plan"],
        plan_digest=digest([undo["plan"], options, effect.effect_key]),
        shown=undo["plan"],
        undo=options or None,
        after=() if after is None else (after,),
    )


@dataclass(frozen=True)
class UndoStep:
    """What a roll-back does about one applied effect.

    :param plan: the exact request that undoes it; None where there is none.
    :param why_not: why it cannot be undone, as text.
    """

    effect: Effect
    plan: EffectPlan | None
    why_not: str | None


def undo_steps(effects: Sequence[Effect], leave: Collection[str] = ()) -> list[UndoStep]:
    """What rolling a job back would undo, in the order in which it would, before it has begun.

    :param effects: of the current revision, in the order of the plan.
    :param leave: names of effects that are to stay as they are.
    """
    steps = []
    for effect in reversed(effects):
        if effect.undoes is None and effect.state is EffectState.APPLIED and effect.name not in leave:
            why = why_not(effect)
            steps.append(UndoStep(effect, None if why else undo_plan(effect, None), why))
    return steps


def names_effect(text: str) -> bool:
    """Whether a text names what only the applied effect knows."""
    return _NAMES.search(text) is not None


def _filled_part(part: Any, values: Mapping[str, str], quoted: Callable[[str, str], str]) -> Any:
    """The plan of an undo, its probe, or one of its options, with its values."""
    if not isinstance(part, dict):
        return _filled(part, values)
    return {name: _filled(item, values, quoted, name) for name, item in part.items()}


def _filled(
    value: Any, values: Mapping[str, str], quoted: Callable[[str, str], str] | None = None, field: str = ""
) -> Any:
    """A value with what it names; a text that is a field of the plan itself is quoted as its target says."""
    if isinstance(value, dict):
        return {name: _filled(item, values) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if not isinstance(value, str):
        return value
    return _NAMES.sub(lambda match: quoted(field, values[match[0]]) if quoted else values[match[0]], value)


def _mentions(value: Any, text: str) -> bool:
    if isinstance(value, dict):
        return any(_mentions(item, text) for item in value.values())
    if isinstance(value, list):
        return any(_mentions(item, text) for item in value)
    return isinstance(value, str) and text in value
