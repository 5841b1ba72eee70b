"""What kind of input a part of a strict JSON schema is laid out as. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from airflow_provider_aihandoff.core.json_schema import Document, UnresolvedReference

Kind = Literal["text", "integer", "number", "choice", "fields", "rows", "json"]

#: Schemas that are nested more deeply, or into themselves, end in a text area with JSON.
MAX_DEPTH = 8

_SIMPLE: Mapping[str, Kind] = {"string": "text", "integer": "integer", "number": "number"}


@dataclass(frozen=True)
class Part:
    """A part of a schema.

    :param schema: what it says, references followed.
    :param document: the whole schema.
    :param nullable: whether it may also be null.
    :param choices: what one can choose from: the JSON of each value, and its name for a person.
    """

    kind: Kind
    schema: Mapping[str, Any]
    document: Document
    nullable: bool = False
    choices: tuple[tuple[str, str], ...] = ()
    depth: int = 0

    @property
    def names(self) -> list[str]:
        """The fields of an object, in the order of the model: the ledger's canonical JSON keeps that of lists alone."""
        return list(self.schema["required"])

    def field(self, name: str) -> Part:
        """The part of one field."""
        return _part(self.schema["properties"][name], self.document, self.depth + 1)

    @property
    def item(self) -> Part:
        """The part of each item of a list."""
        return _part(self.schema["items"], self.document, self.depth + 1)

    @property
    def optional(self) -> bool:
        """Whether null has a box of its own, since nothing that can be typed says it."""
        return self.nullable and self.kind not in ("integer", "number", "choice")


def root(schema: Any, value: Any) -> Part:
    """The part of a whole output.

    :param schema: its strict JSON schema; None where it has none.
    :param value: the output; what has no schema is a text where it is one, and JSON otherwise.
    """
    document = Document(schema)
    if isinstance(schema, dict):
        return _part(schema, document, 0)
    return Part("text" if isinstance(value, str) else "json", {}, document)


def _part(schema: Any, document: Document, depth: int) -> Part:
    schema, nullable = _resolved(schema, document)
    if depth > MAX_DEPTH:
        return Part("json", schema, document, nullable, depth=depth)
    if choices := _choices(schema):
        return Part("choice", schema, document, nullable or ("null", "null") in choices, _named(choices), depth)
    return Part(_kind(schema), schema, document, nullable, depth=depth)


def _resolved(schema: Any, document: Document) -> tuple[Mapping[str, Any], bool]:
    """A schema without references and without the choice of null, and whether there was one."""
    nullable = False
    outer: dict[str, Any] = {}
    for _ in range(MAX_DEPTH):
        try:
            schema = document.resolve(schema)
        except UnresolvedReference:
            return {}, nullable
        if not isinstance(schema, dict):
            return {}, nullable
        outer = {**schema, **outer}
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
    said = {name: outer[name] for name in ("title", "description") if name in outer}
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
