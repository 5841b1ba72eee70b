"""Two outputs are compared field by field and word by word; nothing is lost, and the work is bounded."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_aihandoff.web.render.budget import Budget
from airflow_provider_aihandoff.web.render.diff import FieldDifference, Piece
from airflow_provider_aihandoff.web.render.diff import compare as compared

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab c.\n", max_size=12),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.sampled_from("abcd"), part, max_size=3),
    max_leaves=10,
)


def compare(old: Any, new: Any) -> list[FieldDifference]:
    """The difference on a page of its own."""
    return compared(old, new, Budget())


def changes(old: Any, new: Any) -> dict[str, str]:
    return {"/".join(part.path): part.change for part in compare(old, new)}


def marked(difference: FieldDifference) -> str:
    marks = {"same": "{}", "removed": "[-{}-]", "added": "[+{}+]", "left out": "<{}>"}
    return "".join(marks[piece.op].format(piece.text) for piece in difference.pieces)


def test_words_that_changed_are_named_within_their_sentence() -> None:
    [difference] = compare("It boils. It is blue.\nGood.", "It boils fast. It is blue.\nGood!")
    assert marked(difference) == "It boils[+ fast+]. It is blue.\nGood[-.-][+!+]"


def test_fields_are_in_the_order_of_the_new_value() -> None:
    old = {"gone": 1, "title": "A", "same": [1, 2]}
    new = {"title": "B", "same": [1, 2], "more": None}
    assert list(changes(old, new).items()) == [
        ("title", "changed"),
        ("same/1", "same"),
        ("same/2", "same"),
        ("more", "added"),
        ("gone", "removed"),
    ]


def test_an_item_put_into_a_list_leaves_the_others_alone() -> None:
    assert changes(["a", "b", "c"], ["a", "new", "b", "c"]) == {"1": "same", "2": "added", "3": "same", "4": "same"}


@pytest.mark.parametrize(
    ("old", "new"), [(1, True), (1, "1"), (None, "null"), ([], {}), ({}, {"a": 1}), (1, 1.0), ("a", ["a"])]
)
def test_values_of_different_types_are_never_the_same(old: Any, new: Any) -> None:
    assert "same" not in changes(old, new).values()


@given(JSON, JSON)
@example([None, [], None], [None, None])  # an item that is gone, and the one now in its place
def test_values_are_the_same_exactly_when_no_field_changed(old: Any, new: Any) -> None:
    same = {part.change for part in compare(old, new)} <= {"same"}
    assert same == (json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True) and type(old) is type(new))


@given(st.text("ab .\nx", max_size=60), st.text("ab .\nx", max_size=60))
def test_the_pieces_make_up_both_texts(old: str, new: str) -> None:
    pieces = [piece for part in compare(old, new) for piece in part.pieces]
    assert "".join(piece.text for piece in pieces if piece.op in ("same", "removed")) == old
    assert "".join(piece.text for piece in pieces if piece.op in ("same", "added")) == new


def test_long_unchanged_stretches_are_shortened() -> None:
    same = "word " * 1000
    [difference] = compare(f"old {same}", f"new {same}")
    assert [piece.op for piece in difference.pieces] == ["removed", "added", "same", "left out"]
    assert "unchanged characters" in difference.pieces[-1].text


def _large(kind: str) -> tuple[Any, Any]:
    chance = random.Random(7)  # noqa: S311
    words = [f"w{chance.randrange(3000)}" for _ in range(34_000)]
    other = [word if chance.random() > 0.01 else "changed" for word in words]
    if kind == "one line":
        return " ".join(words), " ".join(other)
    if kind == "two kinds of lines":
        return tuple("\n".join(chance.choice("ab") for _ in range(100_000)) for _ in range(2))  # type: ignore[return-value]
    if kind == "shuffled":
        return tuple("\n".join(map(str, chance.sample(range(30_000), 30_000))) for _ in range(2))  # type: ignore[return-value]
    return {str(n): "a b c d " * 5 for n in range(5000)}, {str(n): "a b d c " * 5 for n in range(5000)}


@pytest.mark.parametrize("kind", ["one line", "two kinds of lines", "shuffled", "many fields"])
def test_large_values_are_compared_quickly(kind: str) -> None:
    old, new = _large(kind)
    started = time.monotonic()
    assert compare(old, new)
    assert time.monotonic() - started < 30  # about a second; without a bound it is hours


def test_values_that_are_too_different_are_shown_whole_and_marked() -> None:
    [first, second] = compared({"a": "c a b", "b": 1}, {"a": "b a d", "b": 2}, Budget(pairs=5))
    assert first.coarse
    assert [piece.op for piece in first.pieces] == ["removed", "added"]
    assert not second.coarse


def test_all_comparisons_of_a_page_share_one_budget() -> None:
    budget = Budget(pairs=200)
    coarse = [compared("a b c d e f g h", "b a d c f e h g", budget)[0].coarse for _ in range(12)]
    assert coarse == sorted(coarse)
    assert not coarse[0]
    assert coarse[-1]


def test_deeply_nested_values_are_compared() -> None:
    deep: Any = "bottom"
    for _ in range(900):
        deep = [deep]
    assert compare(deep, [deep])


def test_a_piece_of_a_text_is_that_text() -> None:
    assert compare("", "a") == [FieldDifference((), "changed", [Piece("added", "a")])]
