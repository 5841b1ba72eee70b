"""What OpenAI refuses in the JSON schema of a strict output format. Pure, and without the SDK.

From OpenAI's guide "Structured model outputs", and from the words with which its API refuses a schema
(``invalid_json_schema``). What is not known to be refused is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str, ...]

MAX_LEVELS = 10
MAX_PROPERTIES = 5_000
MAX_NAME_CHARACTERS = 120_000
MAX_ENUM_VALUES = 1_000

#: An enum of more values than this may have only so many characters in them.
LARGE_ENUM_VALUES, MAX_LARGE_ENUM_CHARACTERS = 250, 15_000

#: The name of a format.
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_FORMATS = frozenset({"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uuid"})
_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})

_REFUSED_KEYWORDS = (
    "oneOf",
    "allOf",
    "not",
    "if",
    "then",
    "else",
    "default",
    "prefixItems",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "unevaluatedItems",
    "propertyNames",
    "patternProperties",
    "minProperties",
    "maxProperties",
    "unevaluatedProperties",
    "dependentRequired",
    "dependentSchemas",
)

_ESCAPED = re.compile(r"\\.", re.DOTALL)
_CHARACTER_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")
_LOOK_AROUND = re.compile(r"\(\?<?[=!]")

Refusal = tuple[Path, str]


def refusal_of(schema: Any) -> Refusal | None:
    """Where OpenAI refuses a schema, as the keywords and names that lead there, and why; None where it does not.

    :param schema: as it is sent.
    """
    root_type = schema.get("type") if isinstance(schema, Mapping) else None
    if root_type != "object":
        return (), f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{root_type}\"'"
    if "anyOf" in schema:
        return (), "'anyOf' is not permitted"
    for path, node in _nodes(schema, ()):
        if why := _node_problem(node):
            return path, why
    return _size_problem(schema)


def _nodes(schema: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Each schema within a schema, itself first, with the path that leads to it."""
    yield path, schema
    if not isinstance(schema, Mapping):
        return
    for keyword in ("properties", "$defs", "definitions"):
        for name, part in _mapping(schema.get(keyword)).items():
            yield from _nodes(part, (*path, keyword, str(name)))
    if "items" in schema:
        yield from _nodes(schema["items"], (*path, "items"))
    choices = schema.get("anyOf")
    for number, choice in enumerate(choices if isinstance(choices, list) else ()):
        yield from _nodes(choice, (*path, "anyOf", str(number)))


def _node_problem(node: Any) -> str | None:
    """What is wrong with one schema, without those within it."""
    if not isinstance(node, Mapping):
        return f"{node!r} is not a schema"
    for keyword in _REFUSED_KEYWORDS:
        if keyword in node:
            return f"'{keyword}' is not permitted"
    if "$ref" in node:
        beside = sorted(node.keys() - {"$ref"})
        return f"$ref cannot have keywords {beside}" if beside else None
    if "anyOf" in node:
        return None
    if "type" not in node:
        return "schema must have a 'type' key"
    return _problem_with_types(node)


def _problem_with_types(node: Mapping[str, Any]) -> str | None:
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    if unknown := [each for each in types if each not in _TYPES]:
        return f"{unknown[0]!r} is not a valid type"
    if "object" in types and (problem := _problem_with_object(node)):
        return problem
    if "array" in types and "items" not in node:
        return "array schema missing items"
    if "format" in node and node["format"] not in _FORMATS:
        return f"{node['format']!r} is not a valid format"
    pattern = node.get("pattern")
    if isinstance(pattern, str) and _has_look_around(pattern):
        return "regex lookaround is not supported"
    return None


def _problem_with_object(node: Mapping[str, Any]) -> str | None:
    if node.get("additionalProperties") is not False:
        return "'additionalProperties' is required to be supplied and to be false"
    missing = sorted(set(_mapping(node.get("properties"))) - set(node.get("required") or ()))
    if missing:
        return (
            "'required' is required to be supplied and to be an array including every key in properties. "
            f"Missing {missing[0]!r}"
        )
    return None


def _has_look_around(pattern: str) -> bool:
    bare = _CHARACTER_CLASS.sub("", _ESCAPED.sub("", pattern))
    return _LOOK_AROUND.search(bare) is not None


def _size_problem(schema: Mapping[str, Any]) -> Refusal | None:
    """What is too large in a schema as a whole."""
    properties, characters, values = 0, 0, 0
    for path, node in _nodes(schema, ()):
        enum = [str(value) for value in [*node.get("enum", ()), *([node["const"]] if "const" in node else [])]]
        length = sum(map(len, enum))
        if len(enum) > LARGE_ENUM_VALUES and length > MAX_LARGE_ENUM_CHARACTERS:
            return path, f"{length} characters in one enum exceeds limit of {MAX_LARGE_ENUM_CHARACTERS}"
        names = [*_mapping(node.get("properties")), *_mapping(node.get("$defs"))]
        properties += len(_mapping(node.get("properties")))
        characters += length + sum(map(len, names))
        values += len(enum)
    for count, most, what in (
        (properties, MAX_PROPERTIES, "parameters"),
        (values, MAX_ENUM_VALUES, "enum values"),
        (characters, MAX_NAME_CHARACTERS, "characters of names and values"),
        (_levels(schema, schema, frozenset()), MAX_LEVELS, "levels of nesting"),
    ):
        if count > most:
            return (), f"{count} {what} exceeds limit of {most}"
    return None


def _levels(node: Any, root: Mapping[str, Any], seen: frozenset[str]) -> int:
    """How many objects and lists are within each other below a schema. One that leads back to itself counts once."""
    if not isinstance(node, Mapping):
        return 0
    reference = node.get("$ref")
    if isinstance(reference, str):
        name = reference.removeprefix("#/$defs/")
        target = _mapping(root.get("$defs")).get(name)
        return 0 if name in seen or target is None else _levels(target, root, seen | {name})
    choices = node.get("anyOf")
    beside = [_levels(choice, root, seen) for choice in choices] if isinstance(choices, list) else []
    within = [*_mapping(node.get("properties")).values(), *([node["items"]] if "items" in node else [])]
    below = [_levels(part, root, seen) + int(_is_nested(part, root)) for part in within]
    return max([0, *beside, *below])


def _is_nested(node: Any, root: Mapping[str, Any]) -> bool:
    """Whether a schema is one of an object or a list, or may be."""
    if not isinstance(node, Mapping):
        return False
    if isinstance(node.get("$ref"), str):
        target = _mapping(root.get("$defs")).get(node["$ref"].removeprefix("#/$defs/"))
        return isinstance(target, Mapping) and "$ref" not in target and _is_nested(target, root)
    if isinstance(node.get("anyOf"), list):
        return any(_is_nested(choice, root) for choice in node["anyOf"])
    types = node.get("type")
    return bool({"object", "array"} & set(types if isinstance(types, list) else [types]))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
