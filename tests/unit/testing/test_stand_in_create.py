from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import pytest
from openai import AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from pydantic import BaseModel

from airflow_provider_aihandoff.testing import OpenAIStandIn, RunningServer
from airflow_provider_aihandoff.testing.create_request import CreateRequest

from .conftest import Clock, ask

VALID = {"model": "gpt-5.2", "input": "Say hello.", "background": True, "store": True}
CREATE = ("POST", "/v1/responses")


def test_a_background_create_answers_a_queued_response_that_the_sdk_parses_strictly(server: RunningServer) -> None:
    answer = ask(server, *CREATE, VALID | {"metadata": {"job": "publishing/7"}, "instructions": "Be brief."})

    response = Response.model_validate(answer.json)
    assert response.id.startswith("resp_")
    assert (response.object, response.status, response.background) == ("response", "queued", True)
    assert (response.output, response.usage, response.error) == ([], None, None)
    assert (response.model, response.instructions) == ("gpt-5.2", "Be brief.")
    assert response.metadata == {"job": "publishing/7"}
    assert response.created_at == Clock.now


def test_a_create_answers_queued_however_short_the_delay(create: Callable[..., Response]) -> None:
    assert create("[[standin: delay=0]]").status == "queued"


def test_a_completed_response_parses_strictly(server: RunningServer, create: Callable[..., Response]) -> None:
    response_id = create("[[standin: delay=0]]").id
    assert Response.model_validate(ask(server, "GET", f"/v1/responses/{response_id}").json).status == "completed"


def test_the_text_format_is_echoed(create: Callable[..., Response]) -> None:
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    asked = {"type": "json_schema", "name": "nothing", "schema": schema, "strict": True}
    response = create(text={"format": asked})
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.to_dict() == asked


@pytest.mark.parametrize(
    ("asked", "tier"), [(None, "default"), ("auto", "default"), ("fast", "priority"), ("flex", "flex")]
)
def test_the_service_tier_is_the_one_that_serves(create: Callable[..., Response], asked: str | None, tier: str) -> None:
    assert create(service_tier=asked).service_tier == tier


@pytest.mark.parametrize("missing", ["model", "input"])
def test_a_missing_parameter_is_refused_in_openais_words(server: RunningServer, missing: str) -> None:
    body = {name: value for name, value in VALID.items() if name != missing}
    answer = ask(server, *CREATE, body)
    assert answer.status == 400
    assert answer.json == {
        "error": {
            "message": f"Missing required parameter: '{missing}'.",
            "type": "invalid_request_error",
            "param": missing,
            "code": "missing_required_parameter",
        }
    }


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata", "object_above_max_properties"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
        ({"metadata": {"k": 1}}, "metadata.k", "invalid_type"),
        ({"model": 5}, "model", "invalid_type"),
        ({"background": "yes"}, "background", "invalid_type"),
        ({"service_tier": "gold"}, "service_tier", "invalid_value"),
        ({"max_output_tokens": "100"}, "max_output_tokens", "invalid_type"),
        ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
        ({"max_tool_calls": 1.5}, "max_tool_calls", "invalid_type"),
        ({"temperature": "0.5"}, "temperature", "invalid_type"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls", "invalid_type"),
        ({"tools": {}}, "tools", "invalid_type"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
        ({"background_options": {"completion_window": "1h"}}, "background_options.completion_window", "invalid_value"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"text": {"verbosty": "low"}}, "text.verbosty", "unknown_parameter"),
        ({"text": {"format": {"type": "json_schema", "name": "Page[Note]"}}}, "text.format.name", "invalid_value"),
        ({"store": False}, "store", None),
        (
            {"background": False, "background_options": {"completion_window": "2h"}},
            "background_options.completion_window",
            None,
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n"}}},
            "text.format.schema",
            "missing_required_parameter",
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": {"type": "object"}}}},
            "text.format.schema",
            "invalid_json_schema",
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "string", "pattern": "^x$"}}}},
            "text.format.schema",
            "invalid_json_schema",
        ),
    ],
)
def test_what_openai_refuses_is_refused(
    client: OpenAI, stand_in: OpenAIStandIn, change: dict[str, Any], param: str, code: str | None
) -> None:
    with pytest.raises(BadRequestError) as refused:
        client.post("/responses", cast_to=object, body=VALID | change)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert stand_in.responses().responses == []


def test_metadata_at_its_limits_is_accepted(create: Callable[..., Response]) -> None:
    create(metadata={f"k{n}": "v" * 512 for n in range(16)})


def test_a_strict_schema_with_an_optional_property_is_refused_wherever_it_stands(server: RunningServer) -> None:
    inner = {"type": "object", "additionalProperties": False, "properties": {"a": {"type": "string"}}, "required": []}
    schema = {"type": "object", "additionalProperties": False, "properties": {"b": inner}, "required": ["b"]}
    text = {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": schema}}
    answer = ask(server, *CREATE, VALID | {"text": text})
    assert answer.status == 400
    assert "Missing 'a'" in answer.json["error"]["message"]


def test_a_body_that_is_not_json_is_refused(server: RunningServer) -> None:
    answer = ask(server, *CREATE, b"{not json")
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("path", ["/v1/responses/resp_1", "/v1/responses/resp_1/cancel"])
def test_every_route_of_the_api_needs_a_key(server: RunningServer, path: str) -> None:
    method = "POST" if path.endswith("cancel") else "GET"
    assert ask(server, method, path, key=None).status == 401


def test_a_create_without_a_key_is_refused_before_anything_else(server: RunningServer, stand_in: OpenAIStandIn) -> None:
    answer = ask(server, *CREATE, b"{not json", key=None)
    assert answer.status == 401
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    assert stand_in.responses().responses == []


def test_another_scheme_than_bearer_is_an_authentication_error(create: Callable[..., Response]) -> None:
    with pytest.raises(AuthenticationError):
        create(extra_headers={"Authorization": "Basic YTpi"})


def test_an_idempotency_key_is_not_honoured(create: Callable[..., Response]) -> None:
    same = {"Idempotency-Key": "one"}
    assert create(extra_headers=same).id != create(extra_headers=same).id


def test_a_create_that_is_not_in_the_background_answers_the_completed_response(client: OpenAI) -> None:
    response = client.responses.create(model="gpt-5.2", input="Say hello.")
    assert (response.status, response.background) == ("completed", False)
    assert response.output_text


def test_a_response_that_was_not_stored_cannot_be_retrieved(client: OpenAI) -> None:
    response = client.responses.create(model="gpt-5.2", input="Say hello.", store=False)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(response.id)


def test_responses_cannot_be_listed(server: RunningServer) -> None:
    answer = ask(server, "GET", "/v1/responses")
    assert answer.status == 405
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}


def test_an_unknown_route_answers_openais_error_body(server: RunningServer) -> None:
    answer = ask(server, "GET", "/v1/models")
    assert answer.status == 404
    assert "/v1/models" in answer.json["error"]["message"]


def test_parse_in_the_background_sends_the_schema_and_parses_nothing(client: OpenAI, clock: Clock) -> None:
    class City(BaseModel):
        name: str
        people: int

    created = client.responses.parse(model="gpt-5.2", input="A city.", background=True, store=True, text_format=City)
    assert created.output_parsed is None
    clock.advance(10)
    City.model_validate_json(client.responses.retrieve(created.id).output_text)


def test_input_items_are_read_as_well_as_text(create: Callable[..., Response], finish: Callable[..., Response]) -> None:
    items = [
        {"role": "system", "content": "You write about [[standin: delay=0]] nothing."},
        {"role": "user", "content": [{"type": "input_text", "text": "Say hello."}]},
    ]
    assert finish(items).output_text == finish("Say hello.").output_text


async def test_the_asynchronous_client_works_alike(server: RunningServer, clock: Clock) -> None:
    async with AsyncOpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        created = await client.responses.create(model="gpt-5.2", input="Say hello.", background=True, store=True)
        assert created.status == "queued"
        clock.advance(10)
        retrieved = await client.responses.retrieve(created.id)
        assert (retrieved.status, retrieved.id) == ("completed", created.id)
        other = await client.responses.create(model="gpt-5.2", input="Say bye.", background=True, store=True)
        assert (await client.responses.cancel(other.id)).status == "cancelled"


def test_every_parameter_of_the_sdk_is_known() -> None:
    known = set(get_type_hints(ResponseCreateParamsBase)) | {"stream"}
    assert known == set(CreateRequest.model_fields)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"type": "integer", "default": 1}, "In context=('properties', 'a'), 'default' is not permitted."),
        ({}, "In context=('properties', 'a'), schema must have a 'type' key."),
        ({"type": "array"}, "In context=('properties', 'a'), array schema missing items."),
        ({"oneOf": [{"type": "string"}]}, "In context=('properties', 'a'), 'oneOf' is not permitted."),
    ],
)
def test_a_strict_schema_is_refused_in_openais_words(server: RunningServer, field: dict[str, Any], said: str) -> None:
    schema = {"type": "object", "additionalProperties": False, "properties": {"a": field}, "required": ["a"]}
    text_format = {"type": "json_schema", "name": "n", "strict": True, "schema": schema}
    answer = ask(server, *CREATE, VALID | {"text": {"format": text_format}})
    assert answer.status == 400
    assert answer.json["error"] == {
        "message": f"Invalid schema for response_format 'n': {said}",
        "type": "invalid_request_error",
        "param": "text.format.schema",
        "code": "invalid_json_schema",
    }
