"""The form that edits an output: from its schema and value to inputs, and from what was typed back to a value. Pure.

What was typed is a flat mapping of names to texts, as a browser sends it, and is kept as it is through every error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from airflow_provider_aihandoff.core import strict_json
from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.web.render import json_form_layout
from airflow_provider_aihandoff.web.render.budget import Budget
from airflow_provider_aihandoff.web.render.json_form_layout import Kind, Part
from airflow_provider_aihandoff.web.render.linear_validator import LinearValidator

ROOT = "value"

#: A list with more rows is edited as JSON.
MAX_ROWS = 300

#: What an input takes of the budget of its page, beside one part for each of its choices.
PARTS = 10

_INTEGER = re.compile(r"-?\d{1,400}")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")

#: What a text area cannot contain; browsers replace it.
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")

_MISSING = object()


class FormTooLarge(HandoffError):
    """The form has more inputs than a page has room for."""


@dataclass(frozen=True)
class Input:
    """One part of the form, as a page shows it.

    :param name: what the browser calls it; the parts in it have longer ones.
    :param empty: null was chosen, in a box of its own.
    :param rows: the keys of the rows of a list, in their order, one for each part.
    :param error: what is wrong with it.
    """

    name: str
    kind: Kind
    title: str
    help: str
    typed: str
    error: str | None
    optional: bool
    empty: bool
    nullable: bool
    choices: tuple[tuple[str, str], ...]
    parts: tuple[Input, ...] = ()
    rows: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """An id for the page."""
        return quote(self.name, safe="").replace("%", "-")


@dataclass
class Reading:
    """What was typed, as a value.

    :param errors: by the name of the input, what is wrong with it; the value counts only where there is none.
    """

    value: Any = None
    errors: dict[str, str] = field(default_factory=dict)
    #: Where each part of the value stands in the form.
    places: dict[tuple[Any, ...], str] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)


def fill(schema: Any, value: Any) -> dict[str, str]:
    """The form before the user has typed anything."""
    part = json_form_layout.root(schema, value)
    typed: dict[str, str] = {}
    try:
        _fill(part, ROOT, value, typed, Budget())
        layout(schema, typed, value, {})
    except FormTooLarge:
        return {ROOT: _json(value)}
    return typed


def _take_input(budget: Budget, part: Part) -> None:
    """Take an input off the budget.

    :raises FormTooLarge: it has no room.
    """
    budget.parts -= PARTS + len(part.choices)
    if budget.parts < 0:
        raise FormTooLarge(
            "the form has too many inputs to show.",
            written="Nothing was saved. No external write was made.",
            remedy="Open the form again. Edit the whole output as JSON with `airflow aihandoff review edit` or REST.",
        )


def _fill(part: Part, name: str, value: Any, typed: dict[str, str], budget: Budget) -> None:
    _take_input(budget, part)
    if part.optional and value is None:
        typed[_null(name)] = "on"
    elif part.kind == "fields" and isinstance(value, dict) and value.keys() == set(part.names):
        for key in part.names:
            _fill(part.field(key), _under(name, key), value[key], typed, budget)
    elif part.kind == "rows" and isinstance(value, list) and len(value) <= MAX_ROWS:
        typed[_rows(name)] = " ".join(map(str, range(len(value))))
        for place, item in enumerate(value):
            _fill(part.item, _under(name, str(place)), item, typed, budget)
    else:
        typed[name] = _as_typed(part, value)


def _as_typed(part: Part, value: Any) -> str:
    if part.kind == "text" and isinstance(value, str):
        return value
    if value is None and part.nullable and not part.optional:
        return ""
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def read(schema: Any, typed: Mapping[str, str], base: Any) -> Reading:
    """The value that was typed, checked against the schema.

    :param base: the value that the form was filled with. A field that was left alone keeps exactly this value, even
        where a browser cannot send it so.
    :raises FormTooLarge: it has too many inputs.
    """
    reading = Reading()
    reading.value = _read(json_form_layout.root(schema, base), ROOT, (), typed, base, reading)
    if not reading.errors:
        for path, said in check(schema, reading.value):
            reading.errors.setdefault(_place(reading, path), said)
    return reading


def _read(part: Part, name: str, path: tuple[Any, ...], typed: Mapping[str, str], base: Any, reading: Reading) -> Any:
    _take_input(reading.budget, part)
    reading.places[path] = name
    kind = _shown_kind(part, name, typed)
    if part.optional and _null(name) in typed:
        return None
    if kind == "fields":
        known = base if isinstance(base, dict) else {}
        return {
            key: _read(part.field(key), _under(name, key), (*path, key), typed, known.get(key, _MISSING), reading)
            for key in part.names
        }
    if kind == "rows":
        items = dict(enumerate(base)) if isinstance(base, list) else {}
        return [
            _read(part.item, _under(name, row), (*path, place), typed, items.get(int(row), _MISSING), reading)
            for place, row in enumerate(_row_keys(name, typed))
        ]
    text = typed.get(name, "")
    if base is not _MISSING and _as_sent(text) == _as_sent(_as_typed(part, base)) and not (base is None and text):
        return base
    try:
        return _parsed(part, kind, _as_sent(text))
    except ValueError as error:
        reading.errors[name] = str(error)
        return None


def _as_sent(text: str) -> str:
    """A text as a browser sends it, its line ends aside."""
    return _NO_TEXT.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def _parsed(part: Part, kind: Kind, text: str) -> Any:
    """What a text says.

    :raises ValueError: nothing that fits; the message is for the person who typed it.
    """
    if kind == "text":
        return text
    text = text.strip()
    if not text and part.nullable:
        return None
    if kind == "choice":
        if text not in dict(part.choices):
            raise ValueError("Choose one.")
        return json.loads(text)
    if kind == "integer":
        if not _INTEGER.fullmatch(text):
            raise ValueError("Enter a whole number, such as 12.")
        return int(text)
    if kind == "number":
        if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
            raise ValueError("Enter a number, such as 12 or 0.5.")
        return float(text) if re.search(r"[.eE]", text) else int(text)
    return strict_json.loads(text)


def check(schema: Any, value: Any) -> list[tuple[tuple[Any, ...], str]]:
    """What is wrong with a value by its schema: where, and what. References to other documents are not followed."""
    if not isinstance(schema, dict):
        return []
    validator = LinearValidator(schema, registry=Registry())
    try:
        validator.check_schema(schema)
        found = [part for error in validator.iter_errors(value) for part in _innermost(error)]
    except (SchemaError, Unresolvable, RecursionError):  # no schema to check by; the output type checks it again
        return []
    return [(tuple(error.absolute_path), _in_words(error)) for error in found]


def _place(reading: Reading, path: tuple[Any, ...]) -> str:
    """The input that a part of the value stands in."""
    while path not in reading.places:
        path = path[:-1]
    return reading.places[path]


def _innermost(error: ValidationError) -> list[ValidationError]:
    """The errors that one stands for; that a value is not null is none, where it may be something else."""
    parts = [part for part in error.context or () if (part.validator, part.validator_value) != ("type", "null")]
    return [inner for part in parts for inner in _innermost(part)] or [error]


_WORDS: Mapping[str, str] = {
    "minimum": "It must be at least {}.",
    "maximum": "It must be at most {}.",
    "exclusiveMinimum": "It must be more than {}.",
    "exclusiveMaximum": "It must be less than {}.",
    "multipleOf": "It must be a multiple of {}.",
    "minLength": "It must have at least {} characters.",
    "maxLength": "It must have at most {} characters.",
    "pattern": "It must match the pattern {}",
    "minItems": "It must have at least {} items.",
    "maxItems": "It must have at most {} items.",
    "uniqueItems": "Each item must be different.",
    "type": "It must be of type {}.",
    "enum": "It must be one of {}.",
    "const": "It must be {}.",
    "required": "It needs the fields {}.",
    "additionalProperties": "It has unknown fields.",
}


def _in_words(error: ValidationError) -> str:
    said = error.validator_value
    shown = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    words = _WORDS.get(str(error.validator))
    return words.format(shown) if words else f"It does not satisfy the rule “{error.validator}”."


def layout(schema: Any, typed: Mapping[str, str], base: Any, errors: Mapping[str, str]) -> Input:
    """The form as a page shows it: every text as it was typed, with what is wrong with it.

    :raises FormTooLarge: it has too many inputs.
    """
    return _layout(json_form_layout.root(schema, base), ROOT, "", typed, errors, Budget())


def _layout(
    part: Part, name: str, title: str, typed: Mapping[str, str], errors: Mapping[str, str], budget: Budget
) -> Input:
    _take_input(budget, part)
    kind = _shown_kind(part, name, typed)
    parts: tuple[Input, ...] = ()
    rows: tuple[str, ...] = ()
    if kind == "fields":
        parts = tuple(_layout(part.field(key), _under(name, key), key, typed, errors, budget) for key in part.names)
    elif kind == "rows":
        rows = tuple(_row_keys(name, typed))
        parts = tuple(
            _layout(part.item, _under(name, row), str(place), typed, errors, budget)
            for place, row in enumerate(rows, 1)
        )
    return Input(
        name=name,
        kind=kind,
        title=title,
        help=str(part.schema.get("description", "")),
        typed=typed.get(name, ""),
        error=errors.get(name),
        optional=part.optional,
        empty=_null(name) in typed,
        nullable=part.nullable,
        choices=part.choices,
        parts=parts,
        rows=rows,
    )


def wrong(form: Input) -> list[Input]:
    """The inputs that have something wrong with them, from the first to the last."""
    return [*([form] if form.error else ()), *(inner for part in form.parts for inner in wrong(part))]


def _shown_kind(part: Part, name: str, typed: Mapping[str, str]) -> Kind:
    """How a part is edited: what could not be laid out was filled in as JSON."""
    return "json" if part.kind in ("fields", "rows") and name in typed else part.kind


def with_row(typed: Mapping[str, str], name: str) -> dict[str, str]:
    """The form with an empty row at the end of a list."""
    rows = _row_keys(name, typed)
    # Beyond every row that the form was filled with: it must not be taken for one of those.
    new = max([MAX_ROWS, *map(int, rows)]) + 1
    return {**typed, _rows(name): " ".join([*rows, str(new)])}


def without_row(typed: Mapping[str, str], name: str) -> dict[str, str]:
    """The form without a row.

    :param name: that of the row.
    """
    listed, _, key = name.rpartition("/")
    rows = [row for row in _row_keys(listed, typed) if row != key]
    kept = {known: text for known, text in typed.items() if known != name and not known.startswith(f"{name}/")}
    return {**kept, _rows(listed): " ".join(rows)}


def _row_keys(name: str, typed: Mapping[str, str]) -> list[str]:
    keys = re.findall(r"\b\d{1,9}\b", typed.get(_rows(name), ""))
    return list(dict.fromkeys(keys))[: 2 * MAX_ROWS]


def _under(name: str, key: str) -> str:
    """The name of a part, as JSON pointers (RFC 6901) write it."""
    return f"{name}/{key.replace('~', '~0').replace('/', '~1')}"


def _null(name: str) -> str:
    return f"null:{name}"


def _rows(name: str) -> str:
    return f"rows:{name}"
