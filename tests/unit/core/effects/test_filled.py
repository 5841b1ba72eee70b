"""What is kept of an answer for later effects, and how it is filled in."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects.filled import (
    CannotFill,
    filled_plan,
    names_of,
    sent_plan,
    values_of,
    with_kept_answer,
)
from airflow_provider_aihandoff.core.effects.target import Applied
from airflow_provider_aihandoff.core.models import Effect
from airflow_provider_aihandoff.core.states import EffectState
from airflow_provider_aihandoff.targets.email import EmailTarget
from airflow_provider_aihandoff.targets.http import HttpTarget

ID = "{effects.create.external_id}"
URL = "{effects.create.answer.url}"


def effect(**changes: Any) -> Effect:
    values: dict[str, Any] = {field.name: None for field in fields(Effect)}
    return Effect(**{**values, "name": "create", "kind": "http", "state": EffectState.APPLIED, "plan": {}, **changes})


class TestKept:
    def test_only_what_is_named_is_kept_as_text(self) -> None:
        applied = with_kept_answer(
            Applied("7", {"status": 201}, answer={"a": 1, "b": [True], "c": "x"}), [".a", ".b[0]"]
        )
        assert (applied.external_id, applied.answer) == ("7", None)
        assert applied.result == {"status": 201, "answer": {"a": "1", "b[0]": "true"}}

    def test_what_is_no_number_does_not_keep_a_write_from_being_recorded(self) -> None:
        applied = with_kept_answer(Applied(answer={"a": float("nan"), "b": "\ud800"}), [".a", ".b"])
        assert applied.result == {"answer": {"a": "NaN"}, "not kept": {"b": "it has half of a surrogate pair in it"}}

    def test_an_answer_that_is_a_list_of_lists_without_end_is_not_read(self) -> None:
        answer: Any = []
        for _ in range(5000):
            answer = [answer]
        applied = with_kept_answer(Applied(answer={"a": answer}), [".a" + "[0]" * 40])
        assert applied.result == {"answer": {}, "not kept": {"a" + "[0]" * 40: "it is neither a text nor a number"}}

    def test_where_nothing_is_named_or_no_answer_is_known_nothing_changes(self) -> None:
        for applied, named in ((Applied("7", answer={"a": 1}), []), (Applied("7"), [".a"])):
            assert with_kept_answer(applied, named) is applied


class TestValues:
    @pytest.mark.parametrize(
        ("state", "why"),
        [(state, state.value) for state in EffectState if state is not EffectState.APPLIED],
    )
    def test_an_effect_that_is_not_applied_brings_nothing(self, state: EffectState, why: str) -> None:
        values, missing = values_of({ID}, [effect(state=state, external_id="7")])
        assert (values, missing) == ({}, [f"{ID} has no value, since the effect 'create' is {why}"])

    def test_an_effect_that_is_not_planned_brings_nothing(self) -> None:
        assert "is not planned" in values_of({ID}, [effect(name="other")])[1][0]

    def test_an_undo_is_not_taken_for_the_effect(self) -> None:
        assert "is not planned" in values_of({ID}, [effect(undoes=3, external_id="7")])[1][0]

    def test_an_answer_that_is_not_known_is_not_guessed(self) -> None:
        values, missing = values_of({ID, URL}, [effect(external_id="7", result={"url": "x"})])
        assert values == {ID: "7"}
        assert "it was lost, or is not JSON" in missing[0]


class TestFilledIn:
    @pytest.mark.parametrize("value", ["", ".", "..", "a/b", "a%2Fb", "%252e%252e", "a\\b", "a\x00b", "%5c"])
    def test_a_value_that_changes_the_path_is_refused(self, value: str) -> None:
        with pytest.raises(CannotFill, match="its url would change its path"):
            filled_plan({"url": f"http://x/{ID}"}, {ID: value}, HttpTarget)

    def test_a_value_is_quoted_for_its_place(self) -> None:
        plan = {
            "url": f"http://x/{ID}",
            "body": f'{{"a":"{ID}"}}',
            "text": ID,
            "query": {"q": ID},
            "headers": {"H": ID},
        }
        assert filled_plan(plan, {ID: 'a "?&'}, HttpTarget) == {
            "url": "http://x/a%20%22%3F%26",
            "body": '{"a":"a \\"?&"}',
            "text": 'a "?&',
            "query": {"q": 'a "?&'},
            "headers": {"H": 'a "?&'},
        }

    @pytest.mark.parametrize("value", ["a\r\nb", "a\u20ac", " a", "a\x00"])
    def test_a_value_that_is_no_header_is_refused(self, value: str) -> None:
        with pytest.raises(CannotFill, match="its headers is not one line"):
            filled_plan({"headers": {"H": ID}}, {ID: value}, HttpTarget)

    def test_a_mail_has_the_value_escaped_in_html_and_on_one_line_in_its_subject(self) -> None:
        plan = {"subject": ID, "html": f"<p>{ID}</p>", "text": ID}
        filled = filled_plan(plan, {ID: "<b>&"}, EmailTarget)
        assert filled == {"subject": "<b>&", "html": "<p>&lt;b&gt;&amp;</p>", "text": "<b>&"}
        with pytest.raises(CannotFill, match="its subject has a line break"):
            filled_plan(plan, {ID: "a\nBcc: x@example.com"}, EmailTarget)

    def test_a_text_that_reads_like_a_placeholder_stays(self) -> None:
        plan = {"text": f"{ID} {ID}", "literals": [["text", 0]]}
        assert filled_plan(plan, {ID: "7"}, HttpTarget) == {"text": f"{ID} 7", "literals": [["text", 0]]}

    def test_what_was_sent_is_the_plan_with_what_was_filled_in(self) -> None:
        sent = effect(plan={"url": f"http://x/{ID}"}, filled={ID: "7"}, undo={"plan": {"url": URL}, "kind": "http"})
        assert sent_plan(sent) == {"url": "http://x/7"}
        assert names_of(sent) == [URL, ID]
