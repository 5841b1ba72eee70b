"""Strings and numbers that follow the keywords of a JSON schema; the scalar half of `json_schema_sampler`."""

from __future__ import annotations

import math
import random
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, TypeGuard

Schema = Mapping[str, Any]

# fmt: off
_WORDS = (
    "account", "agreed", "amount", "balance", "change", "clear", "customer", "delivery", "draft", "figure",
    "final", "forecast", "growth", "invoice", "launch", "market", "monthly", "order", "partner", "plan",
    "price", "quarter", "region", "release", "report", "review", "season", "service", "steady", "summary",
    "supply", "team", "trend", "update", "value", "weekly",
)
# fmt: on

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

# How far a number may go on a side where the schema sets no bound.
_REACH = 1000


class UnsupportedSchemaError(ValueError):
    """The schema asks for something that cannot be sampled; the message says what."""


def sample_string(schema: Schema, suggestion: object, source: random.Random) -> str:
    """A string of the wanted length and format; a suggestion is cut or padded, and a number is written out.

    Raises:
        UnsupportedSchemaError: nothing is known that matches `pattern`, or has the length and the format.
    """
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength")
    if "pattern" in schema:
        text = _matching(schema, suggestion)
    elif make := _FORMATS.get(schema.get("format", "")):
        text = make(source)
    else:
        text = _as_text(suggestion) or _phrase(source, source.randint(2, 7))
        while len(text) < shortest:
            text += " " + _phrase(source, 4).lower()
        text = text[:longest]
    if len(text) < shortest or len(text[:longest]) < len(text):
        raise UnsupportedSchemaError(f"No string of the right length is known for {dict(schema)}.")
    return text


def sample_number(schema: Schema, suggestion: object, source: random.Random, *, whole: bool) -> int | float:
    """A number between the bounds, a multiple of `multipleOf`; the one nearest to a suggestion.

    Raises:
        UnsupportedSchemaError: no such number exists.
    """
    step = _exact(schema["multipleOf"]) if "multipleOf" in schema else None
    if whole:
        step = Fraction(step.numerator) if step else Fraction(1)
    for size in (step,) if step else (Fraction(1, 10**digits) for digits in range(2, 20)):
        lowest, highest = _multiples_between_bounds(schema, size)
        if lowest is None or highest is None or lowest <= highest:
            break
    else:
        raise UnsupportedSchemaError(f"No number lies between the bounds of the schema: {dict(schema)}.")
    if is_number(suggestion):
        wanted = _exact(suggestion)
        if step is None and _is_within(schema, wanted):
            return suggestion
        multiple = round(wanted / size)
        multiple = multiple if lowest is None else max(multiple, lowest)
        multiple = multiple if highest is None else min(multiple, highest)
    else:
        multiple = _draw(lowest, highest, max(1, int(_REACH / size)), source)
    return int(multiple * size) if whole else float(multiple * size)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether `value` is a finite JSON number (booleans are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _matching(schema: Schema, suggestion: object) -> str:
    for candidate in (suggestion, schema.get("default"), *schema.get("examples", ())):
        if isinstance(candidate, str) and re.search(schema["pattern"], candidate):
            return candidate
    raise UnsupportedSchemaError(
        f"No string is known that matches the pattern {schema['pattern']!r}: "
        "register a responder, or give the field examples."
    )


def _as_text(suggestion: object) -> str:
    if is_number(suggestion):
        return f"{suggestion:,}"
    return suggestion if isinstance(suggestion, str) else ""


def _phrase(source: random.Random, words: int) -> str:
    return " ".join(source.choices(_WORDS, k=words)).capitalize()


def _multiples_between_bounds(schema: Schema, size: Fraction) -> tuple[int | None, int | None]:
    """The lowest and the highest multiple of `size` that the bounds allow; None where there is no bound."""
    lows = [math.ceil(_exact(schema["minimum"]) / size)] if "minimum" in schema else []
    if "exclusiveMinimum" in schema:
        lows.append(math.floor(_exact(schema["exclusiveMinimum"]) / size) + 1)
    highs = [math.floor(_exact(schema["maximum"]) / size)] if "maximum" in schema else []
    if "exclusiveMaximum" in schema:
        highs.append(math.ceil(_exact(schema["exclusiveMaximum"]) / size) - 1)
    return max(lows, default=None), min(highs, default=None)


def _is_within(schema: Schema, number: Fraction) -> bool:
    return (
        ("minimum" not in schema or number >= _exact(schema["minimum"]))
        and ("exclusiveMinimum" not in schema or number > _exact(schema["exclusiveMinimum"]))
        and ("maximum" not in schema or number <= _exact(schema["maximum"]))
        and ("exclusiveMaximum" not in schema or number < _exact(schema["exclusiveMaximum"]))
    )


def _draw(lowest: int | None, highest: int | None, reach: int, source: random.Random) -> int:
    if lowest is None:
        lowest = 0 if highest is None or highest > 0 else highest - reach
    return source.randint(lowest, lowest + reach if highest is None else highest)


def _exact(number: float) -> Fraction:
    return Fraction(str(number))


def _moment(source: random.Random) -> datetime:
    return _EPOCH + timedelta(seconds=source.randrange(365 * 24 * 3600))


_FORMATS: dict[str, Callable[[random.Random], str]] = {
    "date": lambda source: _moment(source).date().isoformat(),
    "date-time": lambda source: _moment(source).isoformat().replace("+00:00", "Z"),
    "time": lambda source: _moment(source).time().isoformat() + "Z",
    "duration": lambda source: f"PT{source.randint(1, 48)}H",
    "uuid": lambda source: str(uuid.UUID(int=source.getrandbits(128), version=4)),
    "email": lambda source: f"{source.choice(_WORDS)}.{source.choice(_WORDS)}@example.com",
    "hostname": lambda source: f"{source.choice(_WORDS)}.example.com",
    "ipv4": lambda source: f"192.0.2.{source.randint(1, 254)}",
    "ipv6": lambda source: f"2001:db8::{source.randint(1, 0xFFFF):x}",
    "uri": lambda source: f"https://example.com/{source.choice(_WORDS)}",
}
