"""Reads the fields of an output that the shipped rules check. A missing field is an objection, never skipped."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from airflow_provider_aihandoff.core.json_path import check_json_path, find_values

#: An amount as a text: digits, and a point. Thirty on each side are more than money needs.
_AMOUNT = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")
#: How much of a value is quoted, in characters.
_QUOTED = 60


class Objection(Exception):
    """Why a rule cannot approve, in words."""


def check_path(path: str) -> None:
    """Find out when the Dag is parsed whether this is a path.

    :raises ValueError: it is none.
    """
    if not path.startswith("$"):
        if not all(path.split(".")):
            raise ValueError(f"{path!r} is not a path to a field of the output, such as 'total' or 'lines.amount'.")
        return
    try:
        check_json_path(path)
    except ValueError as error:
        raise ValueError(f"{path!r} is not a JSONPath: {error}.") from error


def values_at(output: Any, path: str) -> list[Any]:
    """Every value that an output has at a path; one at least.

    :param path: names with dots between them, where a list stands for each of its items: ``lines.amount`` is the
        amount of every line, and all must have one. Or a JSONPath (RFC 9535), which passes over what it does not
        match: ``$.lines[?@.kind == 'fee'].amount``.
    :raises Objection: there is nothing.
    """
    plain = _plain(output)
    values = find_values(plain, path) if path.startswith("$") else _walk(plain, path.split("."), path)
    if not values:
        raise Objection(f"the output has no {path}")
    return values


def quoted(value: Any) -> str:
    """A value as a reason quotes it: as JSON, and not all of a long one."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED - 1]}…"


def fraction(value: Any, path: str) -> float:
    """A number from 0 to 1.

    :raises Objection: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise Objection(f"{path} is {quoted(value)}, not a number from 0 to 1")
    return value


def amount(value: Any, path: str) -> Decimal:
    """An amount, exactly as it is written: a JSON number, or a text of digits such as ``1250.00``. Never negative.

    :raises Objection: it is none.
    """
    if isinstance(value, str) and _AMOUNT.fullmatch(value):
        exact = Decimal(value)
    elif isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        exact = Decimal(str(value))
    else:
        raise Objection(f"{path} is {quoted(value)}, not an amount")
    if not exact.is_finite() or exact < 0:
        raise Objection(f"{path} is {quoted(value)}, not an amount of 0 or more")
    return exact


def _walk(value: Any, names: Sequence[str], path: str) -> list[Any]:
    if isinstance(value, list):
        return [found for item in value for found in _walk(item, names, path)]
    if not names:
        return [value]
    if not isinstance(value, dict) or names[0] not in value:
        raise Objection(f"the output has no {path}")
    return _walk(value[names[0]], names[1:], path)


def _plain(value: Any) -> Any:
    """Without what templates can do with an output (:class:`~.jobview.Fields`), which a field's name can disturb."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in dict.items(value)}
    return [_plain(item) for item in value] if isinstance(value, list) else value
