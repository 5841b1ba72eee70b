from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field, TypeAdapter, create_model

from airflow_provider_aihandoff.testing import UnsupportedSchemaError, sample


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Address(BaseModel):
    street: str = Field(min_length=3, max_length=12, description="A street.")
    country: Literal["DE", "FR"]


class Person(BaseModel):
    id: UUID
    born: date
    seen: datetime | None
    wakes_at: time
    shift: timedelta
    email: str = Field(json_schema_extra={"format": "email"})
    address: Address = Field(description="Where to write to.")
    colours: list[Colour] = Field(min_length=1, max_length=2)
    level: Level
    active: bool
    nothing: None


class Node(BaseModel):
    name: str
    next: Node | None
    children: list[Node]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    weight: float = Field(gt=0.5, lt=0.75)


class Zoo(BaseModel):
    animals: list[Cat | Dog] = Field(min_length=2)
    favourite: Annotated[Cat | Dog, Field(discriminator="kind")]
    even: int = Field(multiple_of=2, gt=6, lt=10)
    quarter: float = Field(multiple_of=0.25, ge=0, le=1)
    names: set[Literal["a", "b", "c"]] = Field(min_length=3)
    pair: tuple[int, str]
    counts: dict[str, int] = Field(min_length=3)
    anything: dict[str, Any]
    version: str = Field(pattern=r"^v\d+$", examples=["v1"])
    optional: int | str | None = None


class Number(BaseModel):
    value: int


class Sum(BaseModel):
    left: Number | Sum
    right: Number | Sum


MODELS = [Sum, Address, Person, Node, Cat, Dog, Zoo]

seeds = st.text(max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


FORMATS = FormatChecker(["date", "email", "uuid"])  # the rest is for Pydantic to judge


def assert_valid(model: type[BaseModel], schema: dict[str, Any], document: object) -> None:
    Draft202012Validator(schema, format_checker=FORMATS).validate(document)
    model.model_validate_json(json.dumps(document))


@pytest.mark.parametrize("model", MODELS)
@given(seed=seeds)
def test_a_sampled_document_is_valid(model: type[BaseModel], seed: str) -> None:
    schema = model.model_json_schema()
    assert_valid(model, schema, sample(schema, seed))


@pytest.mark.parametrize("model", [Sum, Address, Person, Node, Cat, Dog])
@given(seed=seeds)
def test_a_document_for_structured_outputs_is_valid(model: type[BaseModel], seed: str) -> None:
    schema = to_strict_json_schema(model)
    assert_valid(model, schema, sample(schema, seed))


@pytest.mark.parametrize("model", MODELS)
@given(seed=seeds, suggestion=json_values, data=st.data())
def test_a_document_is_valid_whatever_is_suggested(
    model: type[BaseModel], seed: str, suggestion: Any, data: st.DataObject
) -> None:
    schema = model.model_json_schema()
    half_right = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(model.model_fields, json_values)))
    assert_valid(model, schema, sample(schema, seed, suggestion))
    assert_valid(model, schema, sample(schema, seed, half_right))


@given(
    seed=seeds,
    low=st.integers(-(10**6), 10**6),
    room=st.integers(0, 50),
    shortest=st.integers(0, 20),
    longer=st.integers(0, 20),
)
def test_bounds_of_every_size_are_kept(seed: str, low: int, room: int, shortest: int, longer: int) -> None:
    fields: dict[str, Any] = {
        "whole": (int, Field(ge=low, le=low + room)),
        "half_open": (float, Field(gt=low)),
        "below": (float, Field(lt=low)),
        "narrow": (float, Field(gt=low, lt=low + 0.001)),
        "text": (str, Field(min_length=shortest, max_length=shortest + longer)),
        "items": (list[bool], Field(min_length=shortest, max_length=shortest + longer)),
    }
    model = create_model("Bounds", **fields)
    assert_valid(model, model.model_json_schema(), sample(model.model_json_schema(), seed))


@given(choices=st.lists(json_values, min_size=1, max_size=4), seed=seeds)
def test_an_enum_gives_one_of_its_values(choices: list[Any], seed: str) -> None:
    assert sample({"enum": choices}, seed) in choices


def test_the_same_seed_gives_the_same_document() -> None:
    schema = Person.model_json_schema()
    assert sample(schema, "a") == sample(schema, "a") != sample(schema, "b")


def test_a_recursive_document_stays_small() -> None:
    schema = Sum.model_json_schema()
    assert max(len(json.dumps(sample(schema, str(seed)))) for seed in range(300)) < 2000


@given(seed=seeds, suggestion=json_values)
def test_the_schema_itself_is_left_as_it_was(seed: str, suggestion: Any) -> None:
    schema = {"type": "array", "items": TypeAdapter(Decimal).json_schema()}
    sample(schema, seed, [suggestion])
    assert schema == {"type": "array", "items": TypeAdapter(Decimal).json_schema()}


def test_a_suggestion_that_fits_is_kept() -> None:
    zoo: dict[str, Any] = {
        "animals": [{"kind": "dog", "weight": 0.6}, {"kind": "cat", "lives": 7}],
        "favourite": {"kind": "cat", "lives": 3},
        "even": 8,
        "quarter": 0.75,
        "names": ["c", "a", "b"],
        "pair": [1234567, "x"],
        "counts": {"x": 1, "y": 2, "z": 3},
        "anything": {"deep": "kept"},
        "version": "v42",
        "optional": "text",
    }
    assert sample(Zoo.model_json_schema(), "seed", zoo) == zoo


@pytest.mark.parametrize(
    ("schema", "suggestion", "fitted"),
    [
        ({"type": "number", "minimum": 0, "maximum": 1}, 1.7, 1),
        ({"type": "integer"}, 1234567.4, 1234567),
        ({"type": "integer", "multipleOf": 5}, 13, 15),
        ({"type": "string", "maxLength": 3}, "abcdef", "abc"),
        ({"type": "string"}, 1234567, "1,234,567"),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 2}, [1, 2, 3], [1, 2]),
        ({"type": ["string", "null"]}, None, None),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None, None),
        ({"const": 4}, 5, 4),
        ({"enum": [True]}, 1, True),
        ({"type": "object", "properties": {}, "additionalProperties": False}, {"extra": 1}, {}),
    ],
)
def test_a_suggestion_is_moved_no_further_than_it_must(
    schema: dict[str, Any], suggestion: object, fitted: object
) -> None:
    found = sample(schema, "seed", suggestion)
    assert (found, type(found) is bool) == (fitted, type(fitted) is bool)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^x+$"},
        {"type": "string", "format": "uuid", "maxLength": 3},
        {"type": "number", "minimum": 2, "maximum": 1},
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"type": "array", "items": {"enum": [1]}, "minItems": 2, "uniqueItems": True},
        {"type": "object", "additionalProperties": {}, "propertyNames": {"pattern": "^x$"}},
        {"$ref": "#/$defs/Missing"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
        {"$ref": "#/$defs/A", "$defs": {"A": {"required": ["a"], "properties": {"a": {"$ref": "#/$defs/A"}}}}},
        {"allOf": [{"type": "string"}, {"maxLength": 3}]},
        {"type": "decimal"},
        {"anyOf": [False, {"type": "string", "pattern": "x"}]},
    ],
)
def test_what_cannot_be_sampled_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedSchemaError):
        sample(schema, "seed")


@given(seed=seeds)
def test_a_decimal_is_a_number(seed: str) -> None:
    assert isinstance(sample(TypeAdapter(Decimal).json_schema(), seed), float)


def test_a_union_takes_a_branch_that_can_be_sampled() -> None:
    schema = {"anyOf": [{"type": "string", "pattern": "^x$"}, {"type": "integer"}]}
    assert all(isinstance(sample(schema, str(seed)), int) for seed in range(10))


def test_a_union_takes_each_of_its_branches_now_and_then() -> None:
    schema = TypeAdapter(int | None).json_schema()
    assert {type(sample(schema, str(seed))) for seed in range(20)} == {int, type(None)}
