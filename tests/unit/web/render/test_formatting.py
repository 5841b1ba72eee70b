"""How values of the ledger are put to a person."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.jobs.state_words import EFFECTS_TITLE
from airflow_provider_aihandoff.core.models import Effect, EffectPlan
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.web.render.budget import Budget
from airflow_provider_aihandoff.web.render.formatting import (
    cost,
    has_secret,
    in_schema_order,
    label,
    of_this_job,
    pretty_body,
    shape,
    span_of_time,
    undo_problem,
    written_by,
)

NOW = datetime(2026, 7, 20, 12, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


@pytest.mark.parametrize(
    ("amount", "unpriced", "said"),
    [
        (None, 0, "none yet"),
        (None, 1, "price unknown"),
        ("0", 0, "$0.0000"),
        ("0.00004", 0, "under $0.0001"),
        ("0.0123", 0, "$0.0123"),
        ("0.0123", 2, "at least $0.0123"),
        ("1234.5", 0, "$1,234.50"),
    ],
)
def test_a_cost_is_never_a_guess(amount: str | None, unpriced: int, said: str) -> None:
    assert cost(None if amount is None else Decimal(amount), unpriced) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.0004, "0.4 ms"),
        (0.025, "25 ms"),
        (0.0999, "99.9 ms"),
        (0.1, "0.1 s"),
        (0.25, "0.25 s"),
        (5, "5 s"),
        (47.4, "47 s"),
        (119, "119 s"),
        (250, "4.2 min"),
        (3600, "60 min"),
        (7200, "2 h"),
        (5 * 86400, "5 days"),
    ],
)
def test_a_short_span_of_time_does_not_read_as_none(seconds: float, said: str) -> None:
    assert span_of_time(seconds) == said


@pytest.mark.parametrize(
    ("name", "shown"), [("suggested_reply", "Suggested reply"), ("URL", "URL"), ("_", "_"), ("", "")]
)
def test_a_field_is_headed_by_its_name(name: str, shown: str) -> None:
    assert label(name) == shown


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "nothing"),
        ("", "nothing"),
        ([], "nothing"),
        ({}, "nothing"),
        (0, "number"),
        (0.5, "number"),
        (False, "flag"),
        ("a", "text"),
        ("a" * 10_000, "long text"),
        ({"a": 1}, "fields"),
        ([1], "items"),
        ([{"a": 1, "b": "x"}, {"a": 2, "b": None}], "table"),
        ([{"a": 1, "b": "x"}, {"a": 2}], "items"),
        ([{"a": 1, "b": [1]}], "items"),
        ([{"a": 1, "b": "x\ny"}], "items"),
        ([{"a": 1}], "items"),
    ],
)
def test_each_value_is_laid_out_as_what_it_is(value: Any, kind: str) -> None:
    assert shape(value) == kind


SCHEMA = {
    "type": "object",
    "required": ["title", "sections", "note"],
    "properties": {
        "title": {"type": "string"},
        "sections": {"type": "array", "items": {"$ref": "#/$defs/Section"}},
        "note": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Section"}]},
    },
    "$defs": {"Section": {"type": "object", "required": ["heading", "body"], "properties": {}}},
}


def test_fields_stand_in_the_order_of_the_output_type() -> None:
    section = {"body": "b", "heading": "h"}
    value = {"further": 1, "note": section, "sections": [section], "title": "t"}
    ordered = in_schema_order(value, SCHEMA)
    assert ordered == value
    assert list(ordered) == ["title", "sections", "note", "further"]
    assert list(ordered["sections"][0]) == list(ordered["note"]) == ["heading", "body"]


@given(JSON, st.one_of(st.just(SCHEMA), JSON))
def test_ordering_never_changes_a_value(value: Any, schema: Any) -> None:
    assert in_schema_order(value, schema) == value


@given(JSON)
def test_a_body_reads_as_the_same_json(value: Any) -> None:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert json.loads(pretty_body(body, Budget())) == value


@pytest.mark.parametrize("body", ['{"a":1,"a":2}', "[1e400]", "[1.10]", "[NaN]", "{", "text", "", "[" * 100_000])
def test_a_body_that_cannot_be_shown_exactly_is_not_reformatted(body: str) -> None:
    assert pretty_body(body, Budget()) == body


def test_what_a_request_writes_is_read_as_json_where_that_shows_all_there_is() -> None:
    def plan(body: str) -> EffectPlan:
        return EffectPlan("publish", "http", {"method": "PUT", "body": body}, "", {})

    assert written_by(plan('{"title": "Kettle"}')) == {"title": "Kettle"}
    assert written_by(plan('{"a": 1, "a": 2}')) == '{"a": 1, "a": 2}'
    assert written_by(plan("title=Kettle")) == "title=Kettle"
    assert written_by(_effect(1, EffectState.PLANNED, kind="postgres", plan={"parameters": {"a": 1}})) == {"a": 1}
    assert written_by(_effect(1, EffectState.PLANNED, kind="of an author", plan={"note": "x"})) == {"note": "x"}


@pytest.mark.parametrize(
    ("what", "said"),
    [("it changed.", "This job changed."), ("its plan changed.", "This job's plan changed."), ("item", "item")],
)
def test_an_error_speaks_of_this_job(what: str, said: str) -> None:
    assert of_this_job(what) == said


def test_every_job_state_has_a_title_for_its_effects() -> None:
    assert EFFECTS_TITLE.keys() == set(JobState)


def _effect(number: int, state: EffectState, **changes: Any) -> Effect:
    fields: dict[str, Any] = dict.fromkeys(Effect.__dataclass_fields__)
    return Effect(**{**fields, "effect_id": number, "name": f"e{number}", "state": state, **changes})


def test_an_effect_that_is_not_applied_needs_no_external_id_for_its_undo() -> None:
    undo = {"kind": "http", "plan": {"url": "http://cms/{external_id}"}}
    assert undo_problem(_effect(1, EffectState.PLANNED, undo=undo)) is None
    assert "external id is not known" in str(undo_problem(_effect(1, EffectState.APPLIED, undo=undo)))


@pytest.mark.parametrize(("plan", "secret"), [({"headers": {"X": "***"}}, True), ({"headers": {"X": "*"}}, False)])
def test_a_masked_secret_is_found(plan: dict[str, Any], secret: bool) -> None:
    assert has_secret(plan) is secret
