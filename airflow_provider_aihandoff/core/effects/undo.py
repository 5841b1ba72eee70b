"""The declared way back of an effect: as it is kept beside its plan, and made exact once the effect is applied. Pure.

An undo is kept as ``{"kind": "http" | "postgres" | "function", "plan": {...}}``, with what its target needs to know
beside it (``idempotent``, ``probe``, ``timeout``). Its plan may name what only the applied effect knows:
``{external_id}``, the id of the record in the target, and ``{effect_key}``, the key of the effect that it takes back.
Its probe may also name ``{undo_key}``, the key that the undo itself is sent with; that one is filled in when it looks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_aihandoff.core.digests import digest

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.models import Effect, EffectPlan

#: What stands in the place of a secret; an undo that has one cannot be sent from the ledger.
MASK = "***"

#: How the name of an effect that takes another one back begins.
PREFIX = "undo:"

#: What stands in the probe of an undo for the key of the undo itself.
UNDO_KEY = "{undo_key}"

#: The parts of a request in which a value is quoted: in a URL, and in the JSON text of a body.
_QUOTED: Mapping[str, Callable[[str], str]] = {
    "url": lambda text: quote(text, safe=""),
    "body": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
}

#: External ids that are steps in a path (RFC 3986, 5.2.4), and would lead a URL to another place.
_DOT_SEGMENTS = frozenset({".", ".."})

#: What an undo may name.
_NAMES = re.compile(r"\{external_id\}|\{effect_key\}")


def why_not(effect: Effect) -> str | None:
    """Why an applied effect cannot be undone, in words; None where it can."""
    if effect.undo is None:
        return "declares no undo"
    if not isinstance(effect.undo.get("kind"), str) or not isinstance(effect.undo.get("plan"), dict):
        return "has an undo that an earlier release kept for people to read, and that cannot be sent"
    if _mentions(effect.undo, MASK):
        return "has an undo with a masked secret, which the ledger does not keep"
    if _mentions(effect.undo, "{external_id}"):
        if not effect.external_id:
            return "has an undo that names {external_id}, and its external id is not known"
        if effect.undo["kind"] == "http" and effect.external_id in _DOT_SEGMENTS:
            return f"has an undo that names {{external_id}}, and its external id is {effect.external_id!r}"
    return None


def undo_plan(effect: Effect, after: str | None) -> EffectPlan:
    """The exact plan that takes an applied effect back. :func:`why_not` must have found nothing.

    :param after: the name of the undo that must come before it.
    """
    from airflow_provider_aihandoff.core.models import EffectPlan

    assert effect.undo is not None
    values = {"{external_id}": effect.external_id or "", "{effect_key}": effect.effect_key}
    quoted = _QUOTED if effect.undo["kind"] == "http" else {}
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


def names_effect(text: str) -> bool:
    """Whether a text names what only the applied effect knows."""
    return _NAMES.search(text) is not None


def _filled_part(part: Any, values: Mapping[str, str], quoted: Mapping[str, Callable[[str], str]]) -> Any:
    """The plan of an undo, its probe, or one of its options, with its values."""
    if not isinstance(part, dict):
        return _filled(part, values)
    return {name: _filled(item, values, quoted.get(name, str)) for name, item in part.items()}


def _filled(value: Any, values: Mapping[str, str], quoting: Callable[[str], str] = str) -> Any:
    if isinstance(value, dict):
        return {name: _filled(item, values) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if isinstance(value, str):
        return _NAMES.sub(lambda match: quoting(values[match[0]]), value)
    return value


def _mentions(value: Any, text: str) -> bool:
    if isinstance(value, dict):
        return any(_mentions(item, text) for item in value.values())
    if isinstance(value, list):
        return any(_mentions(item, text) for item in value)
    return isinstance(value, str) and text in value
