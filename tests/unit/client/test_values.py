"""The values of the client are those that the OpenAPI description has: the same fields, of the same types."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest

from airflow_provider_aihandoff.client import JobRequest, JobType, MadeRecord, State
from airflow_provider_aihandoff.core.job_requests.job_request import Standing
from airflow_provider_aihandoff.web.app import build_app

#: What a value is in the client, by what it is in the description.
TYPES = {
    "string": "str",
    "string uuid": "UUID",
    "string date-time": "datetime",
    "integer": "int",
    "boolean": "bool",
    "object": "Mapping[str, Any]",
    "array MadeRecord": "tuple[MadeRecord, ...]",
    "Standing": "State",
    "": "Any",
}


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    found: dict[str, Any] = build_app().openapi()["components"]["schemas"]
    return found


def described(schema: dict[str, Any]) -> str:
    """A schema in one line, in the words of the client."""
    if "anyOf" in schema:
        first, second = schema["anyOf"]
        assert second == {"type": "null"}
        return f"{described(first)} | None"
    name = schema.get("$ref", schema.get("type", "")).rpartition("/")[2]
    more = schema.get("format") or schema.get("items", {}).get("$ref", "").rpartition("/")[2]
    return TYPES[f"{name} {more}".strip()]


@pytest.mark.parametrize("kind", [JobRequest, JobType, MadeRecord])
def test_each_value_has_the_fields_of_its_description(kind: type[Any], schemas: dict[str, Any]) -> None:
    schema = schemas[kind.__name__]
    assert {field.name: field.type for field in fields(kind)} == {
        name: described(part) for name, part in schema["properties"].items()
    }
    assert set(schema["required"]) == set(schema["properties"])
    assert get_type_hints(kind)
    documented = set(re.findall(r":param (\w+):", kind.__doc__ or ""))
    assert documented <= set(schema["properties"])


def test_a_request_stands_as_the_ledger_says() -> None:
    assert set(get_args(State)) == {each.value for each in Standing}
