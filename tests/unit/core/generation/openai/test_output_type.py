"""What OpenAI refuses of an output type is refused when the Dag is parsed, and so is what cannot be stored."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, datetime, time, timedelta
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    RootModel,
    SecretStr,
    computed_field,
    create_model,
)

from airflow_provider_aihandoff.core.errors import RequestError
from airflow_provider_aihandoff.core.generation.openai.output_type import as_sent, check_output_type
from airflow_provider_aihandoff.core.generation.openai.request import build_request
from airflow_provider_aihandoff.core.generation.openai.strict_schema import refusal_of
from airflow_provider_aihandoff.core.generation.outcome import read_output
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.states import ResponseStatus

T = TypeVar("T")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    age: int


class Node(BaseModel):
    value: int
    children: list[Node]


class Page(BaseModel, Generic[T]):
    items: list[T]


class Color(Enum):
    RED = "red"


class Computed(BaseModel):
    first: str
    last: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def full(self) -> str:
        return f"{self.first} {self.last}"


def of(kind: Any, default: Any = ...) -> type[BaseModel]:
    """A type with one field."""
    return create_model("Made", field=(kind, default))


def lists(depth: int) -> Any:
    kind: Any = int
    for _ in range(depth):
        kind = list[kind]
    return kind


ACCEPTED: dict[str, type[BaseModel]] = {
    "scalars": create_model("Made", a=(str, ...), b=(int, ...), c=(float, ...), d=(bool, ...), e=(None, ...)),
    "nullable": of(int | None, None),
    "bounds": of(Annotated[int, Field(ge=1, le=5, multiple_of=2)]),
    "pattern": of(Annotated[str, Field(pattern=r"^\(\?=[(?!]$", min_length=1)]),
    "dates": create_model("Made", a=(datetime, ...), b=(date, ...), c=(time, ...), d=(timedelta, ...)),
    "ids": create_model("Made", a=(UUID, ...), b=(IPv4Address, ...)),
    "enum": of(Color),
    "literal": of(Literal["a", "b"]),
    "list": of(Annotated[list[str], Field(min_length=1, max_length=3)]),
    "tuple of one kind": of(tuple[int, ...]),
    "model": of(Cat),
    "described model": of(Annotated[Cat, Field(description="The cat.")]),
    "nullable model": of(Cat | None, None),
    "union": of(Cat | Dog),
    "recursive": Node,
    "alias": of(Annotated[int, Field(alias="a-b")]),
    "computed": Computed,
    "closed": create_model("Made", __config__=ConfigDict(extra="forbid"), a=(int, ...)),
    "ten levels": of(lists(10)),
}
REFUSED: dict[str, tuple[type[BaseModel], str]] = {
    "default": (of(int, 1), "Made: field: 'default' is not permitted"),
    "default of an enum": (of(Color, Color.RED), "'default' is not permitted"),
    "default of a model": (of(Cat, Cat(kind="cat", lives=9)), "'default' is not permitted"),
    "default within": (of(list[of(int, 1)]), "'default' is not permitted"),  # type: ignore[misc]
    "discriminator": (of(Annotated[Cat | Dog, Field(discriminator="kind")]), "field: 'oneOf' is not permitted"),
    "tuple": (of(tuple[int, str]), "field: 'prefixItems' is not permitted"),
    "set": (of(set[int]), "field: 'uniqueItems' is not permitted"),
    "Any": (of(Any), "field: schema must have a 'type' key"),
    "list of Any": (of(list[Any]), "field[]: schema must have a 'type' key"),
    "mixed literal": (of(Literal["a", 1]), "schema must have a 'type' key"),
    "dict": (of(dict[str, int]), "field: 'additionalProperties' is required"),
    "open": (create_model("Made", __config__=ConfigDict(extra="allow"), a=(int, ...)), "'additionalProperties' is"),
    "secret": (of(SecretStr), "field: 'password' is not a valid format"),
    "url": (of(HttpUrl), "field: 'uri' is not a valid format"),
    "bytes": (of(bytes), "'binary' is not a valid format"),
    "look-around": (
        of(Annotated[str, Field(json_schema_extra={"pattern": "^(?!x)y$"})]),
        "field: regex lookaround is not supported",
    ),
    "eleven levels": (of(lists(11)), "11 levels of nesting exceeds limit of 10"),
    "many values": (of(Literal[tuple(f"v{number}" for number in range(1001))]), "1001 enum values exceeds limit"),
    "long values": (of(Literal[tuple(f"{number:0>100}" for number in range(251))]), "25100 characters in one enum"),
    "many fields": (
        create_model("Made", **{f"f{number}": (int, ...) for number in range(5001)}),  # type: ignore[call-overload]
        "5001 parameters exceeds limit of 5000",
    ),
    "long names": (
        create_model("Made", **{f"f{number:0>100}": (int, ...) for number in range(1200)}),  # type: ignore[call-overload]
        "characters of names and values exceeds limit of 120000",
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_openai_takes_is_accepted(case: str) -> None:
    check_output_type(ACCEPTED[case])


@pytest.mark.parametrize("case", REFUSED)
def test_what_openai_refuses_is_refused_with_type_and_field(case: str) -> None:
    output_type, said = REFUSED[case]
    with pytest.raises(RequestError) as refused:
        check_output_type(output_type)
    assert "OpenAI does not accept the output type Made: " in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize("case", [*ACCEPTED, *REFUSED])
def test_what_is_found_without_the_sdk_is_what_holds_for_the_schema_that_the_sdk_sends(case: str) -> None:
    output_type = ACCEPTED.get(case) or REFUSED[case][0]
    sent = build_request({"model": "m", "input": "i"}, output_type)["text"]["format"]["schema"]
    assert (refusal_of(sent) is None) == (refusal_of(as_sent(output_type.model_json_schema())) is None)


@pytest.mark.parametrize("given", [dict, Cat(kind="cat", lives=9), "Cat", list[Cat]])
def test_what_is_no_model_is_refused(given: Any) -> None:
    with pytest.raises(RequestError, match="must be a Pydantic model"):
        check_output_type(str(given) if isinstance(given, BaseModel) else given)


@pytest.mark.parametrize("output_type", [Page[Cat], RootModel[Cat], create_model("N" * 65, a=(int, ...))])
def test_a_name_that_openai_refuses_is_refused(output_type: type[BaseModel]) -> None:
    with pytest.raises(RequestError, match="cannot be sent: its name"):
        check_output_type(output_type)


def test_a_root_that_is_no_object_is_refused() -> None:
    class Names(RootModel[list[str]]):
        pass

    with pytest.raises(RequestError, match="the type itself: schema must be a JSON Schema of 'type: \"object\"'"):
        check_output_type(Names)


@pytest.mark.parametrize(
    "field",
    [
        Field(validation_alias="x"),
        Field(serialization_alias="x"),
        Field(validation_alias=AliasChoices("x", "y")),
        Field(exclude=True),
    ],
)
def test_a_field_that_is_not_written_as_it_is_read_is_refused(field: Any) -> None:
    for output_type in (create_model("Made", a=(int, field)), of(list[create_model("Inner", a=(int, field))])):  # type: ignore[misc]
        with pytest.raises(RequestError, match=r"cannot be stored: .* reads a field as"):
            check_output_type(output_type)


class Aliased(BaseModel):
    title: Annotated[str, Field(alias="post-title")]
    inner: Computed


def test_what_is_stored_has_the_names_that_the_model_was_given_and_nothing_computed() -> None:
    said = '{"post-title": "Kettle", "inner": {"first": "Ada", "last": "L"}}'
    output, why = read_output(ModelResponse("resp_1", ResponseStatus.COMPLETED, said), Aliased, None)
    assert (output.output, why) == ({"post-title": "Kettle", "inner": {"first": "Ada", "last": "L"}}, "")


def test_an_output_that_its_type_does_not_read_again_is_not_stored_and_final() -> None:
    class Once(BaseModel):
        code: Annotated[str, Field(serialization_alias="Code")]

    output, why = read_output(ModelResponse("resp_1", ResponseStatus.COMPLETED, '{"code": "x"}'), Once, None)
    assert output.output is None
    assert output.error is not None
    assert (output.error["kind"], output.error["final"]) == ("output type", True)
    assert why == "Once does not read what it has written: code: Field required"


def test_the_check_needs_no_sdk_and_no_database(tmp_path: Path) -> None:
    code = (
        "import sys; from pydantic import BaseModel\n"
        "from airflow_provider_aihandoff.core.generation.openai.output_type import check_output_type\n"
        "class Note(BaseModel): title: str\n"
        "check_output_type(Note); print(sorted({'openai', 'psycopg', 'airflow'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ran.stdout == "[]\n"
