"""An output becomes a form and comes back as it was; what was typed is checked field by field, and never lost."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import pytest
from openai.lib._parsing._responses import type_to_text_format_param
from pydantic import BaseModel, Field

from airflow_provider_aihandoff.web.render import json_form
from airflow_provider_aihandoff.web.render.json_form import Input, fill, layout, read, with_row, without_row


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    name: str
    quantity: int = Field(ge=1)
    price: float | None


class Address(BaseModel):
    street: str
    lines: list[Line]


class Tree(BaseModel):
    name: str
    children: list[Tree]


class Order(BaseModel):
    title: str = Field(description="As the customer reads it", min_length=2)
    colour: Colour
    size: Literal["small", "large"] | None
    note: str | None
    address: Address
    invoice: Address | None
    tags: list[str] = Field(max_length=3)
    paid: bool
    gift: bool | None
    code: int | str
    confidence: float = Field(ge=0, le=1)
    tree: Tree


SCHEMA: Any = type_to_text_format_param(Order)["schema"]  # type: ignore[typeddict-item]

VALUE: dict[str, Any] = {
    "title": "Tea\r\nand more",
    "colour": "red",
    "size": None,
    "note": None,
    "address": {
        "street": "Main <b>",
        "lines": [{"name": "pot", "quantity": 1, "price": None}, {"name": "cup", "quantity": 2, "price": 1.5}],
    },
    "invoice": None,
    "tags": ["a", "b"],
    "paid": True,
    "gift": None,
    "code": 3,
    "confidence": 1.0,
    "tree": {"name": "root", "children": [{"name": "leaf", "children": []}]},
}


def sent(typed: dict[str, str]) -> dict[str, str]:
    """A form as a browser sends it."""
    return {
        name: text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n").replace("\x00", "\ufffd")
        for name, text in typed.items()
    }


def edited(changes: dict[str, str | None], value: Any = VALUE, schema: Any = SCHEMA) -> json_form.Reading:
    typed = {**sent(fill(schema, value)), **changes}
    return read(schema, {name: text for name, text in typed.items() if text is not None}, value)


def test_untouched_fields_stay_as_they_were() -> None:
    reading = edited({})
    assert reading.errors == {}
    assert repr(reading.value) == repr(VALUE)


@pytest.mark.parametrize("text", ["\n\nfirst line empty", "a\rb", "nul \x00", "\ud800 lone", "null", " ", "\u202e"])
def test_an_untouched_text_that_a_browser_cannot_send_is_kept(text: str) -> None:
    value = {**VALUE, "title": text, "note": text}
    reading = edited({}, value)
    assert reading.value["note"] == text
    assert reading.value["title"] == text


@pytest.mark.parametrize(
    ("changes", "field", "becomes"),
    [
        ({"value/title": "New\r\ntitle"}, "title", "New\ntitle"),
        ({"value/colour": '"blue"'}, "colour", "blue"),
        ({"value/size": '"large"'}, "size", "large"),
        ({"null:value/note": None, "value/note": ""}, "note", ""),
        ({"null:value/note": None, "value/note": "null"}, "note", "null"),
        ({"value/paid": "false"}, "paid", False),
        ({"value/gift": "true"}, "gift", True),
        ({"value/code": '"x"'}, "code", "x"),
        ({"value/confidence": " 0.25 "}, "confidence", 0.25),
        ({"value/address/lines/1/price": ""}, "address", {**VALUE["address"], "lines": [*VALUE["address"]["lines"][:1], {"name": "cup", "quantity": 2, "price": None}]}),  # noqa: E501
        ({"null:value/invoice": None, "value/invoice/street": "S", "rows:value/invoice/lines": ""}, "invoice", {"street": "S", "lines": []}),  # noqa: E501
        ({"rows:value/tags": "1"}, "tags", ["b"]),
    ],
)  # fmt: skip
def test_typed_text_becomes_the_value(changes: dict[str, str | None], field: str, becomes: Any) -> None:
    reading = edited(changes)
    assert reading.errors == {}
    assert reading.value == {**VALUE, field: becomes}
    assert Order.model_validate(reading.value)


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"value/title": "x"}, "value/title", "at least 2 characters"),
        ({"value/confidence": "1.5"}, "value/confidence", "at most 1"),
        ({"value/confidence": "much"}, "value/confidence", "Enter a number"),
        ({"value/confidence": "1e999"}, "value/confidence", "Enter a number"),
        ({"value/confidence": "NaN"}, "value/confidence", "Enter a number"),
        ({"value/address/lines/0/quantity": "1.5"}, "value/address/lines/0/quantity", "whole number"),
        ({"value/address/lines/0/quantity": "0"}, "value/address/lines/0/quantity", "at least 1"),
        ({"value/address/lines/0/quantity": "9" * 5000}, "value/address/lines/0/quantity", "whole number"),
        ({"value/colour": '"green"'}, "value/colour", "Choose one"),
        ({"value/colour": None}, "value/colour", "Choose one"),
        ({"value/code": "{"}, "value/code", "Not valid JSON"),
        ({"value/code": "NaN"}, "value/code", "Not valid JSON"),
        ({"value/code": "[" * 100_000}, "value/code", "nested more than 64 levels deep"),
        ({"value/code": "1.5"}, "value/code", "It must be"),
        ({"rows:value/tags": "0 1 301 302"}, "value/tags", "at most 3"),
    ],
)
def test_an_invalid_value_is_reported_at_its_field(changes: dict[str, str | None], name: str, said: str) -> None:
    reading = edited(changes)
    assert list(reading.errors) == [name]
    assert said in reading.errors[name]


def test_adding_and_removing_rows_leaves_the_others_alone() -> None:
    typed = with_row(sent(fill(SCHEMA, VALUE)), "value/address/lines")
    typed = without_row(typed, "value/address/lines/0")
    assert typed["rows:value/address/lines"] == "1 301"
    typed |= {"value/address/lines/301/name": "jug", "value/address/lines/301/quantity": "4"}
    reading = read(SCHEMA, typed, VALUE)
    assert reading.errors == {}
    assert reading.value["address"]["lines"] == [
        {"name": "cup", "quantity": 2, "price": 1.5},
        {"name": "jug", "quantity": 4, "price": None},
    ]


def test_a_new_row_is_not_taken_for_one_that_was_there() -> None:
    typed = without_row(without_row(sent(fill(SCHEMA, VALUE)), "value/tags/0"), "value/tags/1")
    typed = with_row(with_row(typed, "value/tags"), "value/tags")
    assert read(SCHEMA, typed, VALUE).value["tags"] == ["", ""]


def _inputs(part: Input) -> list[Input]:
    return [part, *(inner for piece in part.parts for inner in _inputs(piece))]


def test_the_form_shows_the_typed_text_with_its_errors() -> None:
    typed = {**sent(fill(SCHEMA, VALUE)), "value/confidence": "much", "value/title": "<script>"}
    shown = {part.name: part for part in _inputs(layout(SCHEMA, typed, VALUE, {"value/confidence": "No number."}))}
    assert (shown["value/confidence"].typed, shown["value/confidence"].error) == ("much", "No number.")
    assert shown["value/title"].typed == "<script>"
    assert shown["value/title"].help == "As the customer reads it"
    assert shown["value/colour"].choices == (('"red"', "red"), ('"blue"', "blue"))
    assert shown["value/note"].empty
    assert shown["value/address/lines"].rows == ("0", "1")
    assert [part.title for part in shown["value"].parts] == list(Order.model_fields)


@pytest.mark.parametrize(
    ("schema", "value", "kind"),
    [
        (None, "A text", "text"),
        (None, {"a": 1}, "json"),
        ({"type": "object"}, {"a": 1}, "json"),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, {"a": 1}, "json"),
        ({"type": "array"}, [1], "json"),
        ({"$ref": "#/$defs/Gone"}, {"a": 1}, "json"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, {"a": 1}, "json"),
        ({"type": "array", "items": {"type": "string"}}, ["x"] * (json_form.MAX_ROWS + 1), "json"),
        ({"type": ["string", "null"]}, "x", "text"),
    ],
)
def test_a_value_without_a_layout_is_edited_as_json(schema: Any, value: Any, kind: str) -> None:
    typed = fill(schema, value)
    assert layout(schema, typed, value, {}).kind == kind
    reading = read(schema, sent(typed), value)
    assert (reading.value, reading.errors) == (value, {})


def test_a_value_that_breaks_its_schema_can_be_edited() -> None:
    value = {"title": 5, "else": True}
    typed = fill(SCHEMA, value)
    assert layout(SCHEMA, typed, value, {}).kind == "json"
    assert read(SCHEMA, typed, value).errors


def test_a_recursive_model_ends_in_json() -> None:
    value: dict[str, Any] = {"name": "leaf", "children": []}
    for depth in range(20):
        value = {"name": f"n{depth}", "children": [value]}
    reading = edited({}, {**VALUE, "tree": value})
    assert reading.errors == {}
    assert reading.value["tree"] == value


def test_references_to_other_documents_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **kwargs: pytest.fail("it was followed"))
    schema = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}, "required": ["a"], "additionalProperties": False}  # noqa: E501  # fmt: skip
    assert read(schema, {"value/a": "1"}, {"a": 2}).value == {"a": 1}


@pytest.mark.parametrize("rows", ["", "x", "-1", "0 0 0", "99999999999", "0;1", " ".join(map(str, range(5000)))])
def test_unknown_row_keys_do_no_harm(rows: str) -> None:
    typed = {**sent(fill(SCHEMA, VALUE)), "rows:value/tags": rows}
    assert len(read(SCHEMA, typed, VALUE).places) < 2000


class TestBudget:
    """A form has room for so many inputs and choices."""

    CHOICES: Any = {"enum": [f"choice {number}" for number in range(500)]}  # noqa: RUF012  read only

    def test_an_output_with_too_many_choices_is_edited_as_json(self) -> None:
        names = [f"field_{number}" for number in range(604)]
        schema = {
            "type": "object",
            "properties": dict.fromkeys(names, self.CHOICES),
            "required": names,
            "additionalProperties": False,
        }
        value = dict.fromkeys(names, "choice 1")
        typed = fill(schema, value)
        assert list(typed) == ["value"]
        assert layout(schema, typed, value, {}).kind == "json"
        assert read(schema, typed, None).value == value

    def test_an_object_that_is_null_is_counted_with_all_its_fields(self) -> None:
        names = [f"field_{number}" for number in range(3_000)]
        large = {
            "type": "object",
            "properties": {name: {"type": "string"} for name in names},
            "required": names,
            "additionalProperties": False,
        }
        schema = {"anyOf": [large, {"type": "null"}]}
        assert fill(schema, None) == {"value": "null"}

    def test_rows_that_were_sent_are_counted(self) -> None:
        rows = " ".join(map(str, range(600)))
        item = {"type": "array", "items": {"type": "string"}}
        schema = {"type": "array", "items": item}
        typed = {"rows:value": rows} | {f"rows:value/{row}": rows for row in range(600)}
        for use in (lambda: read(schema, typed, []), lambda: layout(schema, typed, [], {})):
            with pytest.raises(json_form.FormTooLarge, match=r"too many inputs to show\. Nothing was saved"):
                use()
