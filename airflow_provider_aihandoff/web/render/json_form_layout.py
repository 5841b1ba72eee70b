"""What kind of input a part of a strict JSON schema is laid out as. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "integer", "number", "choice", "fields", "rows", "json"]

#: Schemas that are nested more deeply, or into themselves, end in a text area with JSON.
MAX_DEPTH = 8

_SIMPLE: Mapping[str, Kind] = {"string": "text", "integer": "integer", "number": "number"}


@dataclass(frozen=True)
class Part:
    """A part of a schema.

    :param schema: what it says, references followed.
    :param nullable: whether it may also be null.
    :param choices: what one can choose from: the JSON of each value, and its name for a person.
    """

    kind: Kind
    schema: Mapping[str, Any]
    definitions: Mapping[str, Any]
    nullable: bool = False
    choices: tuple[tuple[str, str], ...] = ()
    depth: int = 0

    @property
    def names(self) -> list[str]:
        """The fields of an object, in the order of the model: the ledger's canonical JSON keeps that of lists alone."""
        return list(self.schema["required"])

    def field(self, name: str) -> Part:
        """The part of one field."""
        return _part(self.schema["properties"][name], self.definitions, self.depth + 1)

    @property
    def item(self) -> Part:
        """The part of each item of a list."""
        return _part(self.schema["items"], self.definitions, self.depth + 1)

    @property
    def optional(self) -> bool:
        """Whether null has a box of its own, since nothing that can be typed says it."""
        return self.nullable and self.kind not in ("integer", "number", "choice")


def root(schema: Any, value: Any) -> Part:
    """The part of a whole output.

    :param schema: its strict JSON schema; None where it has none.
    :param value: the output; what has no schema is a text where it is one, and JSON otherwise.
    """
    if isinstance(schema, dict):
        definitions = schema.get("$defs")
        return _part(schema, definitions if isinstance(definitions, dict) else {}, 0)
    return Part("text" if isinstance(value, str) else "json", {}, {})


def _part(schema: Any, definitions: Mapping[str, Any], depth: int) -> Part:
    schema, nullable = _resolved(schema, definitions)
    if depth > MAX_DEPTH:
        return Part("json", schema, definitions, nullable, depth=depth)
    if choices := _choices(schema):
        return Part("choice", schema, definitions, nullable or ("null", "null") in choices, _named(choices), depth)
    return Part(_kind(schema), schema, definitions, nullable, depth=depth)


def _resolved(schema: Any, definitions: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """A schema without references and without the choice of null, and whether there was one."""
    nullable = False
    beside: dict[str, Any] = {}
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, dict):
            return {}, nullable
        beside = {**schema, **beside}
        if "$ref" in schema:
            schema = definitions.get(str(schema["$ref"]).rpartition("/")[2])
            continue
        choices = schema.get("anyOf")
        others = [choice for choice in choices if choice != {"type": "null"}] if isinstance(choices, list) else []
        if not choices or len(others) != 1:
            break
        nullable = nullable or len(others) < len(choices)
        schema = others[0]
    else:
        return {}, nullable
    types = schema.get("type")
    if isinstance(types, list) and "null" in types:
        nullable = True
        types = [name for name in types if name != "null"]
    said = {name: beside[name] for name in ("title", "description") if name in beside}
    return {**schema, **said, **({"type": types[0]} if isinstance(types, list) and len(types) == 1 else {})}, nullable


def _kind(schema: Mapping[str, Any]) -> Kind:
    kind = schema.get("type")
    if kind == "object" and _is_laid_out(schema):
        return "fields"
    if kind == "array" and isinstance(schema.get("items"), dict) and "prefixItems" not in schema:
        return "rows"
    return _SIMPLE.get(kind, "json") if isinstance(kind, str) else "json"


def _is_laid_out(schema: Mapping[str, Any]) -> bool:
    """Whether an object has exactly the fields that its schema names, as strict ones have."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return False
    return set(required) == properties.keys() and schema.get("additionalProperties") is False


def _choices(schema: Mapping[str, Any]) -> list[tuple[str, str]]:
    if schema.get("type") == "boolean":
        return [("true", "Yes"), ("false", "No")]
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if not isinstance(values, list):
        return []
    return [(json.dumps(value), value if isinstance(value, str) else json.dumps(value)) for value in values]


def _named(choices: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The choices without null, which is chosen by choosing nothing."""
    return tuple(choice for choice in choices if choice != ("null", "null"))
