"""Makes a document that follows a JSON schema, bent around a suggestion where there is one.

Covers what Pydantic emits for output types and what Structured Outputs accept. It does not invent strings
for a `pattern`: there, a suggestion, `default` or `examples` must match.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from typing import Any

from airflow_provider_aihandoff.core.json_schema import Document, UnresolvedReference
from airflow_provider_aihandoff.testing.json_scalars import (
    Schema,
    UnsupportedSchemaError,
    is_number,
    sample_number,
    sample_string,
)

NO_SUGGESTION = object()
"""Stands for "nothing suggested", which is not the same as suggesting null."""

# Below this depth a document stops growing: arrays are as short and unions as simple as the schema allows.
_GROWS_TO_DEPTH = 6
_DEEPEST = 40


def sample(schema: Schema, seed: str, suggestion: object = NO_SUGGESTION) -> Any:
    """A JSON value that is valid under `schema`; the same arguments give the same value.

    Args:
        schema: a JSON schema; `$ref` must point inside it.
        seed: any text.
        suggestion: a JSON value to keep as far as the schema allows: what is out of range is clamped or
            cut, what is not allowed is replaced, what is missing is sampled.

    Raises:
        UnsupportedSchemaError: part of the schema cannot be sampled.
    """
    return _Sampler(schema, random.Random(seed)).value(schema, suggestion, 0)  # noqa: S311


def resolve(schema: Any, root: Schema) -> Schema:
    """`schema` with its `$ref` and single `allOf` merged in, so that its keywords can be read.

    Raises:
        UnsupportedSchemaError: the reference leads nowhere, or the schema accepts nothing.
    """
    return _resolve(schema, Document(root))


def _resolve(schema: Any, document: Document) -> Schema:
    for _ in range(_DEEPEST):
        try:
            schema = document.resolve(schema)
        except UnresolvedReference as error:
            raise UnsupportedSchemaError(str(error)) from None
        if schema is True:
            return {}
        if not isinstance(schema, Mapping):
            raise UnsupportedSchemaError(f"{schema!r} is not a schema that accepts anything.")
        if "allOf" not in schema:
            return schema
        if len(schema["allOf"]) != 1:
            raise UnsupportedSchemaError("allOf with several schemas cannot be sampled.")
        schema = {**schema["allOf"][0], **{name: part for name, part in schema.items() if name != "allOf"}}
    raise UnsupportedSchemaError("An allOf is nested too deeply.")


class _Sampler:
    """One walk through one schema."""

    def __init__(self, root: Schema, source: random.Random) -> None:
        self._document = Document(root)
        self._random = source

    def value(self, schema: Any, suggestion: object, depth: int) -> Any:
        schema = _resolve(schema, self._document)
        if depth > _DEEPEST:
            raise UnsupportedSchemaError("The schema has no document of finite depth.")
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            suggested = _is_among(suggestion, schema["enum"])
            return suggestion if suggested else self._random.choice(schema["enum"])
        if branches := schema.get("anyOf") or schema.get("oneOf"):
            return self._union(branches, suggestion, depth)
        match _kind(schema, suggestion):
            case "object":
                return self._object(schema, suggestion, depth)
            case "array":
                return self._array(schema, suggestion, depth)
            case kind:
                return self._scalar(kind, schema, suggestion)

    def _scalar(self, kind: str, schema: Schema, suggestion: object) -> Any:
        match kind:
            case "string":
                return sample_string(schema, suggestion, self._random)
            case "integer" | "number":
                return sample_number(schema, suggestion, self._random, whole=kind == "integer")
            case "boolean":
                return suggestion if isinstance(suggestion, bool) else self._random.random() < 0.5
            case "null":
                return None
        raise UnsupportedSchemaError(f"{kind!r} is not a JSON type.")

    def _union(self, branches: list[Any], suggestion: object, depth: int) -> Any:
        ordered = self._random.sample(branches, len(branches))
        if {"type": "number"} in branches and {"type": "string"} in branches:
            ordered = list(branches)  # how Pydantic writes a Decimal: the number, which is first, is always right
        if depth >= _GROWS_TO_DEPTH:
            ordered.sort(key=lambda branch: "$ref" in json.dumps(_resolve(branch, self._document)))
        if suggestion is not NO_SUGGESTION:
            ordered.sort(key=lambda branch: not self._accepts(branch, suggestion))
        problems = []
        for branch in ordered:
            try:
                return self.value(branch, suggestion, depth + 1)
            except UnsupportedSchemaError as problem:
                problems.append(str(problem))
        raise UnsupportedSchemaError("; ".join(problems))

    def _accepts(self, branch: Any, suggestion: object) -> bool:
        """Whether `suggestion` looks like it was meant for this branch of a union."""
        schema = _resolve(branch, self._document)
        if "const" in schema or "enum" in schema:
            return _is_among(suggestion, schema.get("enum", [schema.get("const")]))
        if isinstance(suggestion, Mapping) and "properties" in schema:
            return set(schema["properties"]) >= set(suggestion)
        return _is_a(suggestion, _kind(schema, suggestion))

    def _object(self, schema: Schema, suggestion: object, depth: int) -> dict[str, Any]:
        hints = suggestion if isinstance(suggestion, Mapping) else {}
        properties = schema.get("properties", {})
        if not properties and schema.get("additionalProperties", True) is not False:
            return self._map(schema, hints, depth)
        required = schema.get("required", ())
        return {
            name: self.value(property_schema, hints.get(name, NO_SUGGESTION), depth + 1)
            for name, property_schema in properties.items()
            if name in required or depth < _GROWS_TO_DEPTH
        }

    def _map(self, schema: Schema, hints: Mapping[str, Any], depth: int) -> dict[str, Any]:
        """An object whose keys are free (a `dict` in Python)."""
        if "propertyNames" in schema or "patternProperties" in schema:
            raise UnsupportedSchemaError("Restricted property names cannot be sampled.")
        fewest, most = schema.get("minProperties", 0), schema.get("maxProperties", math.inf)
        wanted = len(hints) or (0 if depth >= _GROWS_TO_DEPTH else 2)
        wanted = int(max(fewest, min(most, wanted)))
        keys = [*hints, *(f"key_{number}" for number in range(1, wanted + 1))][:wanted]
        values = schema.get("additionalProperties", True)
        return {key: self.value(values, hints.get(key, NO_SUGGESTION), depth + 1) for key in keys}

    def _array(self, schema: Schema, suggestion: object, depth: int) -> list[Any]:
        hints = list(suggestion) if isinstance(suggestion, list | tuple) else []
        first_items = schema.get("prefixItems", [])
        fewest, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        wanted = len(hints) or (0 if depth >= _GROWS_TO_DEPTH else self._random.randint(1, 3))
        wanted = int(max(fewest, min(most, wanted)))
        items: list[Any] = []
        tries = wanted * (20 if schema.get("uniqueItems") else 1)
        for hint in (*hints[:wanted], *[NO_SUGGESTION] * tries):
            if len(items) == wanted:
                break
            position = len(items)
            item_schema = first_items[position] if position < len(first_items) else schema.get("items", True)
            item = self.value(item_schema, hint, depth + 1)
            if not (schema.get("uniqueItems") and _is_among(item, items)):
                items.append(item)
        if len(items) < fewest:
            raise UnsupportedSchemaError("The schema has too few distinct items to fill the array.")
        return items


def _kind(schema: Schema, suggestion: object = NO_SUGGESTION) -> str:
    """The JSON type to make: the schema's, and among several the one that `suggestion` has."""
    match schema.get("type"):
        case str() as kind:
            return kind
        case [*kinds] if kinds:
            return str(next((kind for kind in kinds if _is_a(suggestion, kind)), kinds[0]))
    if "properties" in schema:
        return "object"
    if "items" in schema:
        return "array"
    return next((kind for kind in _KINDS if _is_a(suggestion, kind)), "string")


_KINDS = ("string", "integer", "number", "boolean", "null", "array", "object")


def _is_a(value: object, kind: str) -> bool:
    """Whether `value` is of the JSON type `kind`."""
    match kind:
        case "null":
            return value is None
        case "boolean":
            return isinstance(value, bool)
        case "string":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return is_number(value)
        case "array":
            return isinstance(value, list | tuple)
    return kind == "object" and isinstance(value, Mapping)


def _is_among(value: object, values: list[Any]) -> bool:
    """Whether `value` is one of `values` as JSON compares them: true is not 1."""
    return value is not NO_SUGGESTION and json.dumps(value, sort_keys=True) in {
        json.dumps(other, sort_keys=True) for other in values
    }
