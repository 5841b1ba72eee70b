"""Reads JSON from outside, and refuses what JSON parsers disagree about. Pure."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

#: Levels of objects and lists that a value may have, the innermost value included, wherever it comes from: an answer, a
#: webhook, an edit, an input, a plan. What is deeper could be stored, but not be read by everything that shows it.
MAX_DEPTH = 64

#: What is wrong with a value that has more.
TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"


class NotJson(ValueError):
    """A text is not JSON that can be kept exactly. The message is a sentence for the person who wrote it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"Not valid JSON: {why}.")


def loads(text: str | bytes, *, unique_keys: bool = False, exact_floats: bool = False) -> Any:
    """The value that a text says.

    NaN, infinity, numbers beyond the range of a float, and more than :data:`MAX_DEPTH` levels are always refused.

    :param unique_keys: refuse an object that has a key twice, since readers differ on which one counts.
    :param exact_floats: refuse a float that Python would write in another way, such as 1.10.
    :raises NotJson: the text is not JSON, or is refused.
    """
    try:
        value = _decoder(unique_keys, exact_floats).decode(text.decode() if isinstance(text, bytes) else text)
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} in line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError:
        raise NotJson("it is not UTF-8") from None
    except RecursionError:
        raise NotJson(TOO_DEEP) from None
    if not is_shallow(value):
        raise NotJson(TOO_DEEP)
    return value


@cache
def _decoder(unique_keys: bool, exact_floats: bool) -> json.JSONDecoder:
    """Made once: every webhook and every answer is read with it."""
    return json.JSONDecoder(
        parse_constant=_refuse_constant,
        parse_int=_whole,
        parse_float=_exact if exact_floats else _finite,
        object_pairs_hook=_unique if unique_keys else None,
    )


def is_shallow(value: object) -> bool:
    """Whether a value has no more than :data:`MAX_DEPTH` levels."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return True
    return False


def _refuse_constant(name: str) -> Any:
    raise NotJson(f"{name} is not allowed")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise NotJson("a number has too many digits") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotJson("a number is too large")
    return value


def _exact(text: str) -> float:
    value = _finite(text)
    if repr(value) != text:
        raise NotJson("a number cannot be kept exactly as it is written")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotJson("an object has the same key twice")
    return found


def _children(item: object) -> list[Any]:
    if isinstance(item, dict):
        return list(item.values())
    return list(item) if isinstance(item, (list, tuple)) else []
