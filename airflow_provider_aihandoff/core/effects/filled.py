"""What a later effect takes of earlier ones: what is kept of their answers, and how it is filled in. Pure.

A plan that names an earlier effect is approved with the placeholder in it. When it is claimed, the values are taken
from the ledger and recorded with the claim; every later attempt, probe and undo of that effect uses the recorded ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow_provider_aihandoff.core.effects.placeholders import (
    LITERALS,
    Earlier,
    Literals,
    Path,
    earlier,
    fill,
    names_in,
)
from airflow_provider_aihandoff.core.effects.target import Applied, Target
from airflow_provider_aihandoff.core.effects.target_registry import find_target_type, target_type
from airflow_provider_aihandoff.core.json_path import find_values, text_of
from airflow_provider_aihandoff.core.models import Effect
from airflow_provider_aihandoff.core.states import EffectState
from airflow_provider_aihandoff.core.text import first_problem, unwritable

#: How long a field of an answer may be, in characters, so that it is kept.
FIELD_LIMIT = 2000

#: Under which the result of an effect has the fields of its answer, and why others are missing.
ANSWER, NOT_KEPT = "answer", "not kept"

_STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]")


class CannotFill(ValueError):
    """A value cannot be written where its placeholder stands; why, as a clause."""


def earlier_names(plan: Any, literals: Literals = ()) -> set[str]:
    """The placeholders of a plan that name an earlier effect."""
    return {name for name in names_in(plan, literals) if earlier(name) is not None}


def names_of(effect: Effect) -> list[str]:
    """The placeholders of an effect that name an earlier one, as far as the ledger has them before it is sent."""
    found = {*(effect.filled or {})}
    for kind, plan in ((effect.kind, effect.plan), ((effect.undo or {}).get("kind"), effect.undo or {})):
        if kind and find_target_type(kind):  # an operator of an author's own may fill in nothing
            found |= earlier_names(plan, plan.get(LITERALS, ()))
    return sorted(found)


def value_at(record: Any, field: str) -> Any:
    """The value at a path of a placeholder, such as ``.data.items[0].id``.

    :raises KeyError: there is none.
    """
    steps = (f"[{index}]" if index else f"['{name}']" for name, index in _STEP.findall(field))
    found = find_values(record, "$" + "".join(steps))
    if not found:
        raise KeyError(field)
    return found[0]


def with_kept_answer(
    applied: Applied, fields: Iterable[str], is_secret: Callable[[str, Any], bool] = lambda name, value: False
) -> Applied:
    """A confirmed write whose result has those fields of the target's answer that later effects name.

    :param fields: as paths, such as ``.data.id``.
    :param is_secret: whether a value under a name is one, which the ledger does not keep.
    """
    kept: dict[str, str] = {}
    missing: dict[str, str] = {}
    for field in sorted(fields) if applied.answer is not None else ():
        try:
            value = value_at(applied.answer, field)
            why = _unusable(field, value, is_secret)
        except (KeyError, ValueError):
            why = "it is not there"
        if why is None:
            kept[_shown(field)] = text_of(value)
        else:
            missing[_shown(field)] = why
    if not kept and not missing:
        return applied
    result = {**(applied.result or {}), ANSWER: kept, **({NOT_KEPT: missing} if missing else {})}
    return replace(applied, result=result, answer=None)


def _unusable(field: str, value: Any, is_secret: Callable[[str, Any], bool]) -> str | None:
    """Why a field of an answer is not kept, as a clause."""
    if not isinstance(value, (str, int, float)):
        return "it is neither a text nor a number"
    if len(text_of(value)) > FIELD_LIMIT:
        return f"it has more than {FIELD_LIMIT} characters"
    if found := first_problem(value, unwritable):
        return f"it has {found}"
    return "it is a secret" if is_secret(_STEP.findall(field)[-1][0], value) else None


def _shown(field: str) -> str:
    """A path without the dot that it begins with."""
    return field.removeprefix(".")


def values_of(names: Collection[str], effects: Sequence[Effect]) -> tuple[dict[str, str], list[str]]:
    """The values of placeholders, and why others have none, each as a clause.

    :param effects: of the current revision.
    """
    by_name = {effect.name: effect for effect in effects if effect.undoes is None}
    values: dict[str, str] = {}
    missing: list[str] = []
    for name in sorted(names):
        meant = earlier(name)
        assert meant is not None
        value, why = _value_of(meant, by_name.get(meant.effect))
        if value is None:
            missing.append(f"{name} has no value, since {why}")
        else:
            values[name] = value
    return values, missing


def _value_of(meant: Earlier, effect: Effect | None) -> tuple[str | None, str]:
    """The value, or why there is none."""
    if effect is None:
        return None, f"the effect {meant.effect!r} is not planned"
    if effect.state is not EffectState.APPLIED:
        return None, f"the effect {meant.effect!r} is {effect.state.value}"
    if meant.field is None:
        return effect.external_id, f"the target gave no external id of the effect {meant.effect!r}"
    result, field = effect.result or {}, _shown(meant.field)
    if field in result.get(ANSWER, {}):
        return str(result[ANSWER][field]), ""
    if field in result.get(NOT_KEPT, {}):
        return None, f"{field!r} of the answer to the effect {meant.effect!r} cannot be used: {result[NOT_KEPT][field]}"
    return None, f"no {field!r} is known of the answer to the effect {meant.effect!r}: it was lost, or is not JSON"


def fill_in(
    plan: Mapping[str, Any], values: Mapping[str, str], target: type[Target], literals: Literals = ()
) -> tuple[dict[str, Any], list[list[Any]]]:
    """A plan, or a probe, with the values of its placeholders, and its literals.

    :param target: the class that says how each value is written.
    :raises CannotFill: a value cannot be written where its placeholder stands.
    """

    def written(path: Path, value: str) -> str:
        field = str(path[0])
        if why := target.refuses(field, value):
            raise CannotFill(f"the value for its {field} {why}")
        return target.quoted(field, value) if len(path) == 1 else value

    return fill(plan, values, literals, written)


def filled_plan(plan: Mapping[str, Any], values: Mapping[str, str], target: type[Target]) -> dict[str, Any]:
    """A plan as it is sent, with what earlier effects have brought.

    :raises CannotFill: a value cannot be written where its placeholder stands.
    """
    if not values:
        return dict(plan)
    rest = {name: part for name, part in plan.items() if name != LITERALS}
    filled, literals = fill_in(rest, values, target, plan.get(LITERALS, ()))
    return {**filled, LITERALS: literals} if literals else filled


def sent_plan(effect: Effect) -> dict[str, Any]:
    """The request of an applied effect as it was sent, its secrets masked.

    :raises UnknownTargetKind: no target of its kind is installed here.
    """
    return filled_plan(effect.plan, effect.filled or {}, target_type(effect.kind))
