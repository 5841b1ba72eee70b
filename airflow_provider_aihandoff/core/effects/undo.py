"""The declared undo of an effect: from what its author wrote, to an exact plan, to the target that applies it.

An undo is kept with the plan of its effect as ``{"kind": ..., "plan": {...}}``, with what its target needs to know
besides. Its plan may name what only the applied effect knows: ``{external_id}``, the id of the record in the target,
and ``{effect_key}``, the key of the effect that it undoes; and what earlier effects have brought, as it was filled into
the plan of the effect itself. A probe of an undo may also name ``{undo_key}``, the key
that the undo itself is sent with; its target fills that one in when it probes. :mod:`core.effects.placeholders` tells
these names from text that reads like them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.effects.filled import CannotFill, fill_in
from airflow_provider_aihandoff.core.effects.placeholders import (
    EFFECT_KEY,
    EXTERNAL_ID,
    LITERALS,
    Marks,
    Path,
    earlier,
    fill,
    names_in,
    within,
)
from airflow_provider_aihandoff.core.effects.target import Target
from airflow_provider_aihandoff.core.effects.target_registry import find_target_type, kinds, target_type
from airflow_provider_aihandoff.core.error_text import MASK
from airflow_provider_aihandoff.core.errors import PlanError, UnknownTargetKind
from airflow_provider_aihandoff.core.models import Effect, EffectPlan
from airflow_provider_aihandoff.core.states import EffectState

#: Under which an undo says, beside its plan, whether a secret was replaced in it.
MASKED = "masked"

#: How the name of an effect that undoes another one begins.
PREFIX = "undo:"


def plan_undo(
    declared: Mapping[str, Any],
    *,
    kind: str,
    name: str,
    defaults: Mapping[str, Any] | None = None,
    marks: Marks | None = None,
) -> dict[str, Any]:
    """Render the undo that an author declared to the form in which the ledger keeps it.

    :param declared: its fields, rendered; ``kind`` is that of the effect unless it says otherwise.
    :param kind: of the effect.
    :param name: of the effect, for messages.
    :param defaults: the fields that an undo of the effect's own kind has where its author leaves them out.
    :param marks: what stands for placeholders in the fields; without them, every text that reads like one is one.
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
    undo: dict[str, Any] = {**options, "kind": kind, "plan": plan}
    if marks is not None:
        undo, literals = marks.settle(undo)
        if literals:
            undo[LITERALS] = literals
    for field in found.fixed_fields & undo["plan"].keys():
        if names_in({"plan": {field: undo["plan"][field]}}, undo.get(LITERALS, ())):
            raise PlanError(
                f"`{field}` of the undo of the effect {name!r} names {{external_id}} or {{effect_key}}, or what an "
                "earlier effect brings.",
                remedy="Pass it as a parameter: an answer of a target must never be part of a statement.",
            )
    return undo


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


def needs_worker(undo: EffectPlan) -> bool:
    """Whether an undo imports code that it names, which only a worker does.

    :param undo: as :func:`undo_plan` makes it.
    """
    found = find_target_type(undo.kind)
    return found is not None and found.undo_in_worker


def why_not(effect: Effect) -> str | None:
    """Why an applied effect cannot be undone, as text; None where it can."""
    if effect.undo is None:
        return "declares no undo"
    if effect.own is False:
        return "was there before, as far as the ledger knows: this job did not write it"
    kind = effect.undo.get("kind")
    if not isinstance(kind, str) or not isinstance(effect.undo.get("plan"), dict):
        return "has an undo that an earlier release kept for people to read, and that cannot be sent"
    # An earlier release did not say whether it had masked anything.
    if effect.undo.get(MASKED, _mentions(effect.undo, MASK)):
        return "has an undo with a masked secret, which the ledger does not keep"
    try:
        found = target_type(kind)
    except UnknownTargetKind as unknown:
        return f"has an undo that cannot be sent: {unknown.what.rstrip('.')}"
    named = names_in(effect.undo, effect.undo.get(LITERALS, ()))
    if EXTERNAL_ID in named:
        if not effect.external_id:
            return "has an undo that names {external_id}, and its external id is not known"
        if not found.may_name(effect.external_id):
            return f"has an undo that names {{external_id}}, and its external id is {effect.external_id!r}"
    missing = sorted(name for name in named if earlier(name) and name not in (effect.filled or {}))
    return f"has an undo that names {' and '.join(missing)}, which is not known" if missing else None


def undo_plan(effect: Effect, after: str | None) -> EffectPlan:
    """The exact plan that undoes an applied effect. :func:`why_not` must have found nothing.

    :param after: the name of the undo that must come before it.
    """
    assert effect.undo is not None
    values = {EXTERNAL_ID: effect.external_id or "", EFFECT_KEY: effect.effect_key, **(effect.filled or {})}
    found = target_type(effect.undo["kind"])

    def quoted(path: Path, value: str) -> str:
        """A field of the plan, or of an option that is an object, is written as its target says."""
        return found.quoted(path[1], value) if len(path) == 2 else value

    declared = {name: part for name, part in effect.undo.items() if name not in ("kind", MASKED, LITERALS)}
    undo, literals = fill(declared, values, effect.undo.get(LITERALS, ()), quoted)
    options = {name: value for name, value in undo.items() if name != "plan"}
    if literals:
        options[LITERALS] = literals
    return EffectPlan(
        name=PREFIX + effect.name,
        kind=effect.undo["kind"],
        plan=undo["plan"],
        plan_digest=digest([undo["plan"], options, effect.effect_key]),
        shown=undo["plan"],
        undo=options or None,
        after=() if after is None else (after,),
    )


def check_undo(undo: Mapping[str, Any] | None, filled: Mapping[str, str]) -> None:
    """Find out before an effect is sent whether its undo can have what earlier effects have brought.

    :raises CannotFill: it cannot.
    """
    if undo is None:
        return
    found = target_type(undo["kind"])
    for part in ("plan", *(name for name, option in undo.items() if isinstance(option, dict) and name != "plan")):
        rest = within(undo.get(LITERALS, ()), part)
        used = names_in(undo[part], rest) & filled.keys()
        if any(not found.may_name(filled[name]) for name in used):
            raise CannotFill("a value for its undo has a character or a step that a URL must not have")
        fill_in(undo[part], filled, found, rest)


@dataclass(frozen=True)
class UndoStep:
    """What a roll-back does about one applied effect.

    :param plan: the exact request that undoes it; None where there is none.
    :param why_not: why it cannot be undone, as text.
    """

    effect: Effect
    plan: EffectPlan | None
    why_not: str | None


def undo_steps(effects: Sequence[Effect], altered: Mapping[int, str], leave: Collection[str] = ()) -> list[UndoStep]:
    """What rolling a job back would undo, in the order in which it would, before it has begun.

    :param effects: of the current revision, in the order of the plan.
    :param altered: why an undo is not what was approved, by the id of its effect.
    :param leave: names of effects that are to stay as they are.
    """
    steps = []
    for effect in reversed(effects):
        if effect.undoes is None and effect.state is EffectState.APPLIED and effect.name not in leave:
            why = why_not(effect) or altered.get(effect.effect_id)
            steps.append(UndoStep(effect, None if why else undo_plan(effect, None), why))
    return steps


def _mentions(value: Any, text: str) -> bool:
    if isinstance(value, dict):
        return any(_mentions(item, text) for item in value.values())
    if isinstance(value, list):
        return any(_mentions(item, text) for item in value)
    return isinstance(value, str) and text in value
