from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from airflow_provider_aihandoff.core.digests import (
    canonical_json,
    describe_changes,
    digest,
    effect_key,
    input_digest,
    review_components,
    without_plain_input_digest,
)

# Lone surrogates as well: a model can write them, as escapes in JSON.
TEXTS = st.text(st.characters(codec=None, exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


class Note(BaseModel):
    title: str
    price: Decimal


class TestCanonicalJson:
    def test_the_order_of_keys_does_not_matter_at_any_depth(self) -> None:
        assert canonical_json({"b": [{"d": 1, "c": 2}], "a": 0}) == '{"a":0,"b":[{"c":2,"d":1}]}'

    def test_the_order_of_a_list_does(self) -> None:
        assert digest([1, 2]) != digest([2, 1])

    def test_keys_that_are_numbers_are_sorted_as_the_texts_that_they_become(self) -> None:
        assert canonical_json({1: "a", 10: "b", 2: "c"}) == canonical_json({"1": "a", "10": "b", "2": "c"})

    def test_keys_of_several_kinds_can_stand_together(self) -> None:
        assert canonical_json({1: "a", "b": "c", None: "d"}) == '{"1":"a","b":"c","null":"d"}'

    @pytest.mark.parametrize("text", ["\x00", "a\x00b", "\ud800", "x\udfffy", "😀", "\u2028", '"\\'])
    def test_every_text_is_kept_exactly_and_in_ascii(self, text: str) -> None:
        assert canonical_json(text).isascii()
        assert json.loads(canonical_json(text)) == text

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deep": [float("-inf")]}])
    def test_nan_and_infinity_are_refused(self, value: Any) -> None:
        with pytest.raises(ValueError, match="Out of range"):
            canonical_json(value)

    @pytest.mark.parametrize("value", [object(), {"deep": [object()]}, {("a", "tuple"): 1}, b"\xff"])
    def test_a_value_without_a_json_form_is_refused(self, value: Any) -> None:
        with pytest.raises(ValueError, match=r".+"):
            canonical_json(value)

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (Decimal("1.10"), '"1.10"'),
            (date(2026, 1, 2), '"2026-01-02"'),
            (datetime(2026, 1, 2, tzinfo=UTC), '"2026-01-02T00:00:00Z"'),
            (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
            (Note(title="Kettle", price=Decimal("9.90")), '{"price":"9.90","title":"Kettle"}'),
            ((1, 2), "[1,2]"),
        ],
    )
    def test_values_that_dags_use_become_json_as_pydantic_writes_them(self, value: Any, text: str) -> None:
        assert canonical_json(value) == text

    def test_a_set_has_the_same_digest_in_every_process(self) -> None:
        code = "from airflow_provider_aihandoff.core.digests import digest; print(digest(set('abcdefgh')))"
        outputs = {
            subprocess.run(
                [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
            ).stdout
            for seed in ("1", "2")
        }
        assert outputs == {digest(list("abcdefgh")) + "\n"}

    @given(JSON)
    @settings(max_examples=200)
    def test_a_digest_survives_being_stored_and_read(self, value: Any) -> None:
        assert digest(json.loads(canonical_json(value))) == digest(value)

    @given(st.dictionaries(TEXTS | st.integers() | st.none() | st.booleans(), JSON, max_size=4))
    @example({"\ud83d\ude00": 1, "\uffff": 2})
    @settings(max_examples=200)
    def test_keys_are_sorted_as_json_has_read_them(self, value: Any) -> None:
        read = json.loads(json.dumps(value))
        assert canonical_json(value) == json.dumps(read, sort_keys=True, separators=(",", ":"))

    def test_a_value_that_is_nested_deep_has_a_digest(self) -> None:
        value: Any = 1
        for _ in range(200):
            value = {"b": value, "a": 0}
        assert canonical_json(value) == json.dumps(value, sort_keys=True, separators=(",", ":"))

    def test_a_digest_is_64_hexadecimal_digits(self) -> None:
        assert re.fullmatch(r"[0-9a-f]{64}", digest({}))


class TestReviewDigest:
    BEFORE = review_components("out-1", [("store", "p1"), ("post", "p2")], "small@1")

    def changes(self, output: str, plans: list[tuple[str, str]], policy: str | None) -> list[str]:
        return describe_changes(self.BEFORE, review_components(output, plans, policy))

    def test_equal_review_parts_have_no_changes(self) -> None:
        assert self.changes("out-1", [("store", "p1"), ("post", "p2")], "small@1") == []

    def test_each_change_is_described_as_text(self) -> None:
        assert self.changes("out-2", [("post", "p3"), ("mail", "p4")], "small@2") == [
            "the output changed",
            "the effect 'store' was removed",
            "the effect 'mail' was added",
            "the plan of the effect 'post' changed",
            "the policy changed from small@1 to small@2",
        ]

    def test_a_different_order_is_a_change_too(self) -> None:
        assert self.changes("out-1", [("post", "p2"), ("store", "p1")], "small@1") == [
            "the order of the effects changed"
        ]

    @given(st.sampled_from(["o1", "o2"]), st.permutations([("a", "1"), ("b", "2")]), st.sampled_from([None, "p@1"]))
    def test_every_difference_in_the_digest_can_be_described(
        self, output: str, plans: list[tuple[str, str]], policy: str | None
    ) -> None:
        before = review_components("o1", [("a", "1"), ("b", "2")], None)
        after = review_components(output, plans, policy)
        assert (digest(before) != digest(after)) == bool(describe_changes(before, after))

    def test_a_description_reads_what_was_stored_as_json(self) -> None:
        assert describe_changes(json.loads(canonical_json(self.BEFORE)), self.BEFORE) == []


class TestEffectKey:
    ARGUMENTS = ("5f0c", 7, 2, "publish", "p" * 64)

    @given(TEXTS, st.integers(min_value=1), st.integers(min_value=1), TEXTS, TEXTS)
    def test_a_key_can_stand_in_a_header_whatever_the_effect_is_called(
        self, ledger: str, job: int, revision: int, name: str, plan: str
    ) -> None:
        key = effect_key(ledger, job, revision, name, plan)
        assert re.fullmatch(r"aih-[0-9]+-r[0-9]+-[0-9a-f]{32}", key)
        assert key == effect_key(ledger, job, revision, name, plan)

    def test_a_key_is_as_it_was_when_it_was_first_released(self) -> None:
        """Targets remember keys: another one for the same write would write twice after an upgrade."""
        assert effect_key(*self.ARGUMENTS) == "aih-7-r2-2b5ed0bc794346781b4158566c175980"

    @pytest.mark.parametrize(
        "other",
        [
            ("5f0d", 7, 2, "publish", "p" * 64),
            ("5f0c", 8, 2, "publish", "p" * 64),
            ("5f0c", 7, 3, "publish", "p" * 64),
            ("5f0c", 7, 2, "publisher", "p" * 64),
            ("5f0c", 7, 2, "publish", "q" * 64),
        ],
    )
    def test_a_different_ledger_job_revision_effect_or_plan_has_a_different_key(
        self, other: tuple[str, int, int, str, str]
    ) -> None:
        assert effect_key(*other) != effect_key(*self.ARGUMENTS)


class TestInputDigest:
    def test_it_names_content_and_key_and_is_not_the_plain_one(self) -> None:
        one = input_digest({"pin": 1234}, "key")
        assert one == input_digest({"pin": 1234}, "key")
        assert len({one, input_digest({"pin": 1235}, "key"), input_digest({"pin": 1234}, "other")}) == 3
        assert digest({"pin": 1234}) not in one

    def test_a_plain_one_in_the_history_is_left_out_and_everything_else_stays(self) -> None:
        detail = {"revision": 2, "input_digest": digest({"pin": 1234})}
        assert without_plain_input_digest(detail) == {"revision": 2}
        for shown in ({"revision": 2}, {"input_digest": input_digest({"pin": 1234}, "key")}):
            assert without_plain_input_digest(shown) == shown
