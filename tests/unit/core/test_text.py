from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.core.text import first_problem, unstorable, unwritable


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a\x00", "a NUL character in it"),
        ({"sql": "x", "parameters": {"title": ["a", "b\x00"]}}, "a NUL character in parameters.title.1"),
        ({"a": ({"b": "\ud83d"},)}, "half of a surrogate pair in a.0.b"),
        ({"a": {"b\x00": 1}}, "a NUL character in a name in a"),
        ({"a\udc00": 1}, "half of a surrogate pair in a name in it"),
        ({"a": ["\U0001f600", 1, None, True, 1.5]}, None),
    ],
)
def test_the_first_text_that_cannot_be_stored_is_named_by_its_place(value: Any, said: str | None) -> None:
    assert first_problem(value, unstorable) == said


def test_a_text_with_nul_can_be_written_in_utf_8() -> None:
    assert unwritable("a\x00") is None
