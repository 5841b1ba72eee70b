"""JSON from outside is read exactly, or refused with a sentence for the person who wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core import strict_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def nested(lists: int) -> str:
    """A number within so many lists."""
    return "[" * lists + "1" + "]" * lists


@given(VALUES)
def test_every_json_value_is_read_as_it_is(value: Any) -> None:
    text = json.dumps(value)
    assert strict_json.loads(text, unique_keys=True, exact_floats=True) == value
    assert strict_json.loads(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("NaN", {}, "Not valid JSON: NaN is not allowed."),
        ("[-Infinity]", {}, "Not valid JSON: -Infinity is not allowed."),
        ("1e400", {}, "Not valid JSON: a number is too large."),
        ("9" * 5000, {}, "Not valid JSON: a number has too many digits."),
        ("[1,", {}, "Not valid JSON: Expecting value in line 1, column 4."),
        (b"\xff", {}, "Not valid JSON: it is not UTF-8."),
        ("[" * 100_000, {}, "Not valid JSON: it is nested more than 64 levels deep."),
        (nested(900), {}, "Not valid JSON: it is nested more than 64 levels deep."),
        (nested(strict_json.MAX_DEPTH), {}, "Not valid JSON: it is nested more than 64 levels deep."),
        ('{"a":1,"a":1}', {"unique_keys": True}, "Not valid JSON: an object has the same key twice."),
        ("1.10", {"exact_floats": True}, "Not valid JSON: a number cannot be kept exactly as it is written."),
    ],
)
def test_a_refusal_is_a_sentence(text: str | bytes, options: dict[str, Any], said: str) -> None:
    with pytest.raises(strict_json.NotJson) as refused:
        strict_json.loads(text, **options)
    assert str(refused.value) == said


@pytest.mark.parametrize(("text", "value"), [('{"a":1,"a":2}', {"a": 2}), ("1.10", 1.1), ("[[1]]", [[1]])])
def test_without_options_only_json_itself_counts(text: str, value: Any) -> None:
    assert strict_json.loads(text) == value


def test_a_value_may_have_as_many_levels_as_the_bound_says() -> None:
    assert strict_json.is_shallow(strict_json.loads(nested(strict_json.MAX_DEPTH - 1)))
    assert not strict_json.is_shallow([{"a": (json.loads(nested(strict_json.MAX_DEPTH - 2)),)}])
