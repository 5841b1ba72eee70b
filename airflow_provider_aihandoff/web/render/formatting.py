"""How values of the ledger are put to a person: times, money, requests, and text that could deceive. Pure."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from airflow_provider_aihandoff.core import strict_json
from airflow_provider_aihandoff.core.amounts import dollars
from airflow_provider_aihandoff.core.effects.describe import describe
from airflow_provider_aihandoff.core.effects.filled import names_of
from airflow_provider_aihandoff.core.effects.target import RequestView
from airflow_provider_aihandoff.core.effects.undo import why_not
from airflow_provider_aihandoff.core.error_text import MASK
from airflow_provider_aihandoff.core.json_schema import Document, UnresolvedReference
from airflow_provider_aihandoff.core.models import Effect, EffectPlan, Revision
from airflow_provider_aihandoff.core.states import EffectState, RevisionState
from airflow_provider_aihandoff.hooks.model_provider import facts_for
from airflow_provider_aihandoff.web.render.budget import Budget

#: Nested values beyond this depth are shown as JSON.
MAX_DEPTH = 6

#: A longer text, in characters, gets a box of its own to scroll in, so that what follows it stays near.
LONG_TEXT = 6_000

#: Longer bodies, in characters, are shown only as they are sent.
MAX_PRETTY = 200_000

#: In larger outputs, further fields stand in the ledger's order.
MAX_ORDERED = 20_000

#: What still reads well in a table: its columns, and the characters of a cell.
MAX_COLUMNS = 6
MAX_CELL = 120


def cost(cost_usd: Decimal | None, unpriced: int, without_tools: int = 0) -> str:
    """What was billed, never a guess: an unknown price is named as such.

    :param cost_usd: the sum of the prices that are known.
    :param unpriced: how many responses were billed at a price that is unknown.
    :param without_tools: how many of them called tools, which are in no price.
    """
    if cost_usd is None:
        return "price unknown" if unpriced else "none yet"
    said = f"at least {dollars(cost_usd)}" if unpriced else dollars(cost_usd)
    return f"{said}, without tools" if without_tools else said


def span_of_time(seconds: float) -> str:
    """A span of time, precise enough to tell it from another: ``25 ms``, ``0.25 s``, ``12 s``, ``4.2 min``, ``3 h``."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= 2 * size or (size == 1 and seconds >= 0.1):
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1000:.3g} ms" if seconds > 0 else "0 s"


def job_cost(revisions: Sequence[Revision]) -> str:
    """What these revisions cost together."""
    known = [revision.cost_usd for revision in revisions if revision.cost_usd is not None]
    tools = sum("tool_calls" in (revision.usage or {}) for revision in revisions)
    return cost(sum(known, Decimal(0)) if known else None, sum(map(_is_unpriced, revisions)), tools)


def tool_calls(revision: Revision, name: str = "tool_calls") -> str:
    """How many calls of each of the provider's tools were billed beside the tokens; empty where there were none.

    :param name: of those in the usage: ``tool_calls`` are in no price, ``priced_tool_calls`` are in the cost.
    """
    calls: dict[str, int] = (revision.usage or {}).get(name, {})
    return ", ".join(f"{kind.removesuffix('_call').replace('_', ' ')}: {number}" for kind, number in calls.items())


def _is_unpriced(revision: Revision) -> bool:
    """Whether it was billed at a price that is unknown, as lists of jobs count it."""
    billed = revision.response_id is not None and revision.state is not RevisionState.RUNNING
    return billed and revision.cost_usd is None


def of_this_job(what: str) -> str:
    """The text of an error with "This job" in the place of "it"."""
    return re.sub(r"^its\b", "This job's", re.sub(r"^it\b", "This job", what))


def label(name: str) -> str:
    """The name of a field as a heading: ``suggested_reply`` becomes ``Suggested reply``."""
    words = re.sub(r"[_\s]+", " ", name).strip()
    return words[:1].upper() + words[1:] if words else name


def shape(value: Any, depth: int = 0) -> str:
    """How a JSON value is laid out, by the name of its kind.

    ``nothing``, ``flag``, ``number``, ``text``, ``long text``, ``fields`` (an object), ``table`` (a list of like, flat
    objects), ``items`` (any other list), and ``json`` for what is nested too deeply.
    """
    if value is None or value in ("", [], {}):
        return "nothing"
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, str):
        return "long text" if len(value) > LONG_TEXT else "text"
    if not isinstance(value, (dict, list)):
        return "number"
    if depth >= MAX_DEPTH:
        return "json"
    if isinstance(value, dict):
        return "fields"
    return "table" if _is_table(value) else "items"


def _is_table(rows: list[Any]) -> bool:
    first = rows[0]
    if not isinstance(first, dict) or not 1 < len(first) <= MAX_COLUMNS:
        return False
    return all(
        isinstance(row, dict) and row.keys() == first.keys() and all(map(_fits_cell, row.values())) for row in rows
    )


def _fits_cell(value: Any) -> bool:
    return not isinstance(value, (dict, list)) and not (
        isinstance(value, str) and (len(value) > MAX_CELL or "\n" in value)
    )


def schema_of(revision: Revision) -> Any:
    """The strict JSON schema that the output of a revision was made by; None where it has none."""
    return facts_for(revision.conn_id).output_schema(revision.request)


def model(revision: Revision) -> str:
    """The model that a revision was asked of, in words."""
    return facts_for(revision.conn_id).model(revision.request) or "not set"


def tokens(revision: Revision) -> str:
    """How many tokens the response of a revision was billed for, in words; empty where that is not known."""
    if revision.usage is None:
        return ""
    billed = facts_for(revision.conn_id).tokens(revision.usage)
    parts = ((billed.input, "in"), (billed.output, "out"))
    return ", ".join(f"{number:,} {way}" for number, way in parts if number is not None)


def output_of(revision: Revision) -> Any:
    """The output of a revision, its fields in the order of the output type."""
    try:
        return in_schema_order(revision.output, schema_of(revision))
    except RecursionError:
        return revision.output


def asked(snapshot: Mapping[str, Any]) -> Any:
    """What the model was asked, of the snapshot of an input: its text, where it has one; otherwise all of it."""
    return snapshot.get("input", snapshot)


def in_schema_order(value: Any, schema: Any) -> Any:
    """A value with its fields in the order of its type, which the ledger's canonical JSON does not keep.

    :param schema: the strict JSON schema that the output was made by: its lists of required names keep the order.
    """
    return _in_order(value, schema, Document(schema), itertools.count(1))


def _in_order(value: Any, schema: Any, document: Document, seen: Iterator[int]) -> Any:
    if not isinstance(value, (list, dict)) or next(seen) > MAX_ORDERED:
        return value
    schema = _with_parts(schema, document)
    if isinstance(value, list):
        return [_in_order(item, schema.get("items"), document, seen) for item in value]
    required = schema.get("required")
    first = [name for name in required if name in value] if isinstance(required, list) else []
    properties = schema.get("properties")
    types = properties if isinstance(properties, dict) else {}
    return {name: _in_order(value[name], types.get(name), document, seen) for name in dict.fromkeys([*first, *value])}


def _with_parts(schema: Any, document: Document, depth: int = 0) -> Mapping[str, Any]:
    """The schema that a reference names; of a choice, the first with fields or items."""
    try:
        schema = document.resolve(schema)
    except UnresolvedReference:
        return {}
    if not isinstance(schema, Mapping):
        return {}
    choices = schema.get("anyOf")
    for choice in choices if isinstance(choices, list) and depth < MAX_DEPTH else ():
        found = _with_parts(choice, document, depth + 1)
        if "properties" in found or "items" in found:
            return found
    return schema


def rows_of(text: str) -> int:
    """How many rows a text area needs for a text, so that it is read without scrolling; at most 24."""
    return min(24, sum(1 + len(line) // 90 for line in text.split("\n")))


def pretty_body(body: Any, budget: Budget) -> str:
    """A body as it is read best: JSON indented, where that shows all there is; anything else, and long ones, as is."""
    if not isinstance(body, str):
        return budget.json(body)
    if len(body) > MAX_PRETTY:
        return body
    try:
        return budget.json(_exact_json(body))
    except strict_json.NotJson:
        return body


def written_by(effect: Effect | EffectPlan) -> Any:
    """What a request writes, as its target says; where that is a text, read as JSON where that shows all there is."""
    written = describe(effect.kind, effect.plan).writes
    return exact_value(written) if isinstance(written, str) else written


def exact_value(text: str) -> Any:
    """The value of a text that is JSON, where it shows all there is; any other text as it is."""
    try:
        return _exact_json(text)
    except strict_json.NotJson:
        return text


def _exact_json(text: str) -> Any:
    """A text as JSON, where that shows all there is.

    :raises NotJson: it is not JSON, or would be shown as another.
    """
    return strict_json.loads(text, unique_keys=True, exact_floats=True)


def request_view(effect: Effect | EffectPlan) -> RequestView:
    """One request as it would be sent, every part of it."""
    return describe(effect.kind, effect.plan)


def undo_problem(effect: Effect) -> str | None:
    """Why a roll-back could not undo an effect, as far as that is known before it is applied; None where it could."""
    if effect.state is not EffectState.APPLIED:
        later = dict.fromkeys(names_of(effect), "any")
        effect = replace(effect, external_id=effect.external_id or "any", filled=effect.filled or later)
    return why_not(effect)


def taken_from_earlier(effect: Effect) -> list[tuple[str, str | None]]:
    """The placeholders of an effect that name an earlier one, each with what was filled in; None before that."""
    return [(name, (effect.filled or {}).get(name)) for name in names_of(effect)]


def has_secret(value: Any) -> bool:
    """Whether a secret is masked in a plan."""
    return MASK in json.dumps(value)


_SENT: Mapping[EffectState, str] = {
    EffectState.PLANNED: "Not sent",
    EffectState.CLAIMED: "Sending",
    EffectState.APPLIED: "Applied",
    EffectState.REFUSED: "Refused by the target, nothing was written",
    EffectState.UNKNOWN: "Unknown: it may have been applied",
    EffectState.SKIPPED: "Not part of this plan: nothing is sent",
    EffectState.VOID: "Void: never sent, because its revision was replaced or its job ended",
}


def why_left_out(effect: Effect) -> str:
    """Why an effect is no part of the plan, in words."""
    if "for_each" in effect.plan:
        return f"The list {effect.plan['for_each']} in the output is empty."
    return f"Its condition is false for this output: {effect.plan.get('when')}"


def effect_status(effect: Effect) -> str:
    """Where an effect stands, in words."""
    return _SENT[effect.state]
