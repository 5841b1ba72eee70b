"""A placeholder is where an author's template has it, whatever the texts that are rendered into it say."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.effects.placeholders import (
    EFFECT_KEY,
    EXTERNAL_ID,
    UNDO_KEY,
    Earlier,
    Marks,
    declared_in,
    earlier,
    fill,
    malformed_in,
    names_in,
    within,
)

#: What a model may write, to be taken for a placeholder or to become one beside something else.
PIECES = ["{external_id}", "{effect_key}", "{undo_key}", "{", "}", "{exter", "nal_id}", "\\", '"', "text", "***", ""]
content = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)


def rendered(marks: Marks, before: str, after: str) -> str:
    """A template in which a text stands, then a placeholder, then a text."""
    return before + marks.mark("{external_id}") + after


class TestSettle:
    def test_a_name_in_the_template_is_a_placeholder_and_one_in_a_text_is_none(self) -> None:
        marks = Marks()
        plan = {"url": rendered(marks, "{external_id}/", ""), "list": ["{effect_key}"], "rest": "{external_ids}"}
        value, literals = marks.settle(plan)
        assert value == {"url": "{external_id}/{external_id}", "list": ["{effect_key}"], "rest": "{external_ids}"}
        assert literals == [["url", 0], ["list", 0, 0]]
        assert names_in(value, literals) == {EXTERNAL_ID}

    def test_a_template_without_texts_that_read_like_names_has_no_literals(self) -> None:
        marks = Marks()
        assert marks.settle({"a": marks.mark("/{effect_key}/{undo_key}"), "b": 1}) == (
            {"a": "/{effect_key}/{undo_key}", "b": 1},
            [],
        )

    def test_what_is_settled_is_the_same_for_every_rendering(self) -> None:
        def once() -> Any:
            marks = Marks()
            return marks.settle([rendered(marks, "{undo_key}", "{external_id}")])

        assert once() == once()

    def test_a_mark_cannot_be_known_from_an_earlier_rendering(self) -> None:
        earlier, marks = Marks(), Marks()
        assert marks.settle(earlier.mark("{external_id}"))[0] != "{external_id}"

    def test_a_mark_passes_quoting_and_json_unchanged(self) -> None:
        mark = Marks().mark("{external_id}")
        assert quote(mark, safe="") == mark
        assert json.dumps(mark) == f'"{mark}"'

    @pytest.mark.parametrize("value", ["text", 1, None, ["a", {"b": ("c",)}], {"a": [1]}])
    def test_a_value_without_marks_stays_the_same_object(self, value: Any) -> None:
        assert Marks().plain(value) is value

    def test_the_marks_of_a_value_can_be_shown_as_names(self) -> None:
        marks = Marks()
        value = {marks.mark("{undo_key}"): [marks.mark("a{effect_key}")], "b": (marks.mark("{external_id}"),)}
        assert marks.plain(value) == {"{undo_key}": ["a{effect_key}"], "b": ("{external_id}",)}


class TestFill:
    @given(before=content, after=content, external_id=content)
    def test_each_placeholder_gets_its_value_and_texts_stay(self, before: str, after: str, external_id: str) -> None:
        marks = Marks()
        value, literals = marks.settle({"body": [rendered(marks, before, after)]})
        filled, left = fill(json.loads(json.dumps(value)), {EXTERNAL_ID: external_id}, json.loads(json.dumps(literals)))
        assert filled == {"body": [before + external_id + after]}
        assert names_in(filled, left) == set()
        assert fill(filled, {EXTERNAL_ID: "A", EFFECT_KEY: "B", UNDO_KEY: "C"}, left)[0] == filled

    def test_a_name_without_a_value_yet_stays_a_placeholder(self) -> None:
        filled, left = fill({"probe": "{undo_key} {external_id}"}, {EXTERNAL_ID: "{undo_key}"})
        assert filled == {"probe": "{undo_key} {undo_key}"}
        assert fill(filled["probe"], {UNDO_KEY: "k"}, within(left, "probe"))[0] == "k {undo_key}"

    def test_names_of_an_object_are_filled_too(self) -> None:
        marks = Marks()
        plan = {marks.mark("$.{effect_key}"): {"{effect_key}": 1}}
        value, literals = marks.settle(plan)
        assert fill(value, {EFFECT_KEY: "k"}, literals)[0] == {"$.k": {"{effect_key}": 1}}

    def test_a_value_is_written_as_its_place_needs_it(self) -> None:
        plan = {"plan": {"url": "/{external_id}"}, "name": "{external_id}"}
        filled, _ = fill(
            plan, {EXTERNAL_ID: "a/b"}, quoted=lambda path, text: text.replace("/", "%2F"[: len(path) + 1])
        )
        assert filled == {"plan": {"url": "/a%2Fb"}, "name": "a%2b"}


class TestEarlierEffects:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("{effects.create.external_id}", Earlier("create", None)),
            ("{effects.desk.create-it.external_id}", Earlier("desk.create-it", None)),
            ("{effects.create.answer.url}", Earlier("create", ".url")),
            ("{effects.create.answer.data.items[0].my-id}", Earlier("create", ".data.items[0].my-id")),
            ("{effects.create.answer[0]}", Earlier("create", "[0]")),
            ("{effects.create.answer}", None),
            ("{effects.create.id}", None),
            ("{effects.create.answer.a b}", None),
            ("{effect_key}", None),
        ],
    )
    def test_a_name_says_which_effect_and_what_of_it(self, name: str, meant: Earlier | None) -> None:
        assert earlier(name) == meant
        assert bool(declared_in(f"a{name}b")) == (meant is not None or name == "{effect_key}")

    def test_what_reads_almost_like_one_is_found(self) -> None:
        template = "{effects.create.id} {effects.create.external_id} {current.} {current.a} {current} {x}"
        assert malformed_in(template) == {"{effects.create.id}", "{current.}"}

    def test_two_braces_are_those_of_jinja(self) -> None:
        template = "{{effects.create.external_id}} {{current.title}} {%current%}"
        assert (declared_in(template), malformed_in(template)) == (set(), set())

    def test_what_a_value_brings_is_no_placeholder(self) -> None:
        marks = Marks()
        name = "{effects.create.external_id}"
        plan, literals = marks.settle({"a": f"{name} {marks.mark(name)}"})
        filled, left = fill(plan, {name: "{effect_key}"}, literals)
        assert filled == {"a": f"{name} {{effect_key}}"}
        assert fill(filled, {EFFECT_KEY: "k", name: "x"}, left)[0] == filled

    def test_a_text_that_ends_like_a_mark_begins_does_not_hide_one(self) -> None:
        marks = Marks()
        name = "{effects.create.external_id}"
        for length in range(33):
            text = "mark" + "0" * length
            assert marks.settle(text + marks.mark(name))[0] == text + name
