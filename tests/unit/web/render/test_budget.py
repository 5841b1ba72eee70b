"""A page has one budget: what does not fit is left out, and the page says how much."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_aihandoff.web.render.budget import SHORT, Budget


def test_what_fits_is_shown_whole() -> None:
    budget = Budget(characters=3_000)
    assert budget.text("a" * 3_000) == "a" * 3_000
    assert budget.left_out == ""


def test_of_what_does_not_fit_the_beginning_is_shown_and_how_much_is_left_out() -> None:
    budget = Budget(characters=1_000)
    shown = budget.text("a" * 3_500)
    assert shown == "a" * 1_000 + "… [2,500 more characters are left out of this page]"
    assert budget.text("b" * 2_000).startswith("b" * SHORT + "… [1,500 more")
    assert budget.left_out == "4,000 characters"


def test_a_short_text_is_never_cut_since_forms_send_it_back() -> None:
    budget = Budget(characters=0)
    assert budget.text("a" * SHORT) == "a" * SHORT


def test_further_parts_are_left_out_and_counted() -> None:
    budget = Budget(parts=3)
    assert list(budget.within([1, 2])) == [1, 2]
    assert list(budget.within(iter([3, 4, 5]))) == [3]
    assert list(budget.within({"a": 1}.items())) == []
    assert budget.left_out == "3 parts"


def test_without_room_for_characters_there_is_none_for_parts() -> None:
    budget = Budget(characters=1)
    budget.text("ab")
    assert list(budget.within([1])) == []


@pytest.mark.parametrize("value", [{"a": [1, "é", None]}, [], "text"])
def test_json_is_indented_where_that_fits(value: Any) -> None:
    assert Budget().json(value) == json.dumps(value, indent=2, ensure_ascii=False)


def test_json_that_does_not_fit_is_made_in_one_line() -> None:
    value = list(range(10_000))
    assert Budget(characters=1_000).json(value) == json.dumps(value)


def test_json_that_nests_too_deeply_to_indent_is_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(*args: Any) -> Any:
        raise RecursionError  # where Python's own stack is shorter than what the JSON parser takes

    monkeypatch.setattr(json.JSONEncoder, "iterencode", too_deep)
    monkeypatch.setattr(json, "dumps", lambda value, **options: "in one line")
    assert Budget().json([["é"]]) == "in one line"
