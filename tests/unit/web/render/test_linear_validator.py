"""What was typed is checked in time that does not explode."""

from __future__ import annotations

import time
from typing import Any

import pytest

from airflow_provider_aihandoff.web.render.json_form import check


def test_a_pattern_is_checked_in_linear_time() -> None:
    started = time.monotonic()
    assert check({"type": "string", "pattern": "^(a+)+$"}, "a" * 50_000 + "b")
    assert time.monotonic() - started < 30  # milliseconds; backtracking takes longer than the universe is old


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("^[a-z]+$", "abc", True),
        ("^[a-z]+$", "ABC", False),
        ("b", "abc", True),  # anywhere, as JSON Schema says
        (r"^\d{4}-\d{2}$", "2026-02", True),
        ("^é+$", "éé", True),
        ("^(?!no)", "no", True),  # the engine has no look-around: the output type decides
        ("(", "x", True),
        ("^a$", "\ud800", True),
    ],
)
def test_a_pattern_says_whether_a_text_fits(pattern: str, text: str, fits: bool) -> None:
    assert (check({"pattern": pattern}, text) == []) is fits


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "patternProperties": {"^(a+)+$": {}}, "additionalProperties": False},
        {"type": "object", "propertyNames": {"pattern": "^(a+)+$"}},
        {"type": "object", "unevaluatedProperties": False, "patternProperties": {"^(a+)+$": {}}},
    ],
)
def test_no_pattern_is_run_over_names(schema: dict[str, Any]) -> None:
    assert check(schema, {"a" * 100 + "b": 1}) == []


def test_unknown_fields_are_still_refused() -> None:
    schema = {"type": "object", "properties": {"a": {}}, "additionalProperties": False}
    assert check(schema, {"a": 1}) == []
    assert check(schema, {"b": 1}) == [((), "It has unknown fields.")]


def test_items_are_compared_without_comparing_each_with_each() -> None:
    schema = {"type": "array", "uniqueItems": True}
    items = [{"a": number} for number in range(20_000)]
    started = time.monotonic()
    assert check(schema, items) == []
    assert time.monotonic() - started < 30  # less than a second; each with each, minutes
    assert check(schema, [*items, {"a": 3}])
