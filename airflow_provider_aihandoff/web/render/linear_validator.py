"""Checks a value by a JSON schema in time that does not explode, whatever was typed. Pure.

A pattern is the author's, and the text is a reviewer's or a model's: a backtracking engine can be held by the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from pydantic_core import SchemaError, SchemaValidator, core_schema
from pydantic_core import ValidationError as CoreValidationError


def _pattern(validator: Any, pattern: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    """Whether a text matches, in time linear in its length: what a reviewer types must not hold a processor.

    A pattern that such an engine does not know, with look-around or references back, is left to the output type.
    """
    if isinstance(pattern, str) and isinstance(value, str) and not _matches(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _matches(pattern: str, text: str) -> bool:
    try:
        _engine(pattern).validate_python(text)
    except (SchemaError, UnicodeEncodeError):
        return True
    except CoreValidationError as error:
        return all(item["type"] != "string_pattern_mismatch" for item in error.errors(include_url=False))
    return True


@lru_cache(maxsize=256)
def _engine(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _unique(validator: Any, unique: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    """Whether the items of a list differ, without comparing each with each."""
    if unique and isinstance(value, list) and len({json.dumps(item, sort_keys=True) for item in value}) < len(value):
        yield ValidationError("It has the same item twice")


def _unchecked(validator: Any, keyword: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    """A keyword that is left to the output type."""
    yield from ()


def _additional(validator: Any, allowed: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    """Whether an object has only fields that the schema names; not where patterns name some."""
    if "patternProperties" not in schema:
        yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, allowed, value, schema)


#: Without the keywords that run patterns over names, which no strict schema has; the output type checks them.
LinearValidator: Any = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        "pattern": _pattern,
        "uniqueItems": _unique,
        **dict.fromkeys(("patternProperties", "unevaluatedProperties", "propertyNames"), _unchecked),
        "additionalProperties": _additional,
    },
)
