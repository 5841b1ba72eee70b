"""The stand-in sends what it writes as it comes, and again from any event on."""

from __future__ import annotations

from typing import Any

import pytest
from openai import APIConnectionError, APIStatusError, BadRequestError, OpenAI

from airflow_provider_aihandoff.testing import OpenAIStandIn, RunningServer, ServerKind
from airflow_provider_aihandoff.testing.streamed_events import events_of
from tests.waiting import until

from .conftest import Clock, ask


def begin(client: OpenAI, input: str = "Say hello.", **parameters: Any) -> str:
    """Create a response that streams, and drop the connection after the first event."""
    parameters = {"model": "gpt-5.2", "background": True, "stream": True, **parameters}
    with client.responses.create(input=input, **parameters) as stream:
        first = next(stream)
    assert first.type == "response.created"
    return str(first.response.id)


def read(client: OpenAI, response_id: str, starting_after: int = -1) -> list[Any]:
    with client.responses.retrieve(response_id, stream=True, starting_after=starting_after) as stream:
        return list(stream)


def keep(events: list[Any], client: OpenAI, response_id: str) -> None:
    """Read what comes after these events, and keep it, also where the connection is cut off."""
    after = events[-1].sequence_number if events else -1
    with client.responses.retrieve(response_id, stream=True, starting_after=after) as stream:
        for event in stream:
            events.append(event)  # noqa: PERF402


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def test_a_stream_has_reasoning_text_and_the_end(client: OpenAI, clock: Clock) -> None:
    response_id = begin(client)
    clock.advance(10)
    events = read(client, response_id)
    kinds = [event.type for event in events]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds.index("response.reasoning_summary_text.delta") < kinds.index("response.output_text.delta")
    assert kinds[-1] == "response.completed"
    ended = client.responses.retrieve(response_id)
    assert text_of(events) == ended.output_text == events[-1].response.output_text
    assert events[-1].response.usage == ended.usage


def test_a_stream_goes_on_after_any_event_and_has_what_is_due_alone(
    client: OpenAI, clock: Clock, stand_in: OpenAIStandIn, server: RunningServer
) -> None:
    response_id = begin(client)
    clock.advance(5)
    with client.responses.retrieve(response_id, stream=True) as stream:
        begun = [next(stream)]
        while begun[-1].type != "response.output_text.delta":
            begun.append(next(stream))
    clock.advance(5)
    rest = read(client, response_id, starting_after=begun[-1].sequence_number)
    assert rest[0].sequence_number == begun[-1].sequence_number + 1
    assert text_of(begun + rest) == client.responses.retrieve(response_id).output_text
    (report,) = stand_in.responses().responses
    assert (report.streams, report.retrieves) == (2, 1)
    until(lambda: stand_in.responses().responses[0].readers == 0)
    logged = ask(server, "GET", "/standin/requests").json
    assert [each["after"] for each in logged if each["after"] is not None] == [-1, begun[-1].sequence_number]


def test_a_stream_is_cut_off_as_often_as_asked_for(client: OpenAI, clock: Clock) -> None:
    response_id = begin(client, "Say hello. [[standin: stream=drop times=2]]")
    clock.advance(10)
    events: list[Any] = []
    for _ in range(2):
        with pytest.raises(APIConnectionError):
            keep(events, client, response_id)
    rest = read(client, response_id, starting_after=events[-1].sequence_number)
    assert [event.sequence_number for event in events + rest] == list(range(len(events + rest)))
    assert rest[-1].type == "response.completed"


@pytest.mark.parametrize("fault", ["404", "500"])
def test_reading_a_stream_can_fail(client: OpenAI, clock: Clock, fault: str) -> None:
    response_id = begin(client, f"Say hello. [[standin: stream={fault}]]")
    with pytest.raises(APIStatusError) as refused:
        read(client, response_id)
    assert refused.value.status_code == int(fault)
    clock.advance(10)
    assert read(client, response_id)[-1].type == "response.completed"


def test_a_response_that_was_not_created_with_a_stream_has_none(client: OpenAI) -> None:
    response = client.responses.create(model="gpt-5.2", input="Say hello.", background=True)
    with pytest.raises(BadRequestError):
        read(client, response.id)


@pytest.mark.parametrize("parameters", [{"background": False}, {"background_options": {"completion_window": "2h"}}])
def test_what_openai_streams_not_is_refused(client: OpenAI, parameters: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError) as refused:
        begin(client, **parameters)
    assert refused.value.param == "stream"


@pytest.mark.parametrize(("status", "last"), [("failed", "response.failed"), ("incomplete", "response.incomplete")])
def test_a_stream_says_how_the_response_ended(client: OpenAI, clock: Clock, status: str, last: str) -> None:
    response_id = begin(client, f"Say hello. [[standin: status={status}]]")
    clock.advance(10)
    assert read(client, response_id)[-1].type == last


def test_the_stream_of_a_cancelled_response_ends_without_a_word(
    client: OpenAI, clock: Clock, stand_in: OpenAIStandIn
) -> None:
    response_id = begin(client)
    clock.advance(5)
    client.responses.cancel(response_id)
    clock.advance(5)
    events = read(client, response_id)
    assert events
    assert all(not event.type.startswith("response.com") for event in events)
    stored = stand_in._state.find(response_id)
    assert stored is not None
    assert len(events_of(stored)) == len(events)


def test_a_server_without_streams_answers_as_ever() -> None:
    with OpenAIStandIn(kind=ServerKind(streams=False)).serve() as server:
        body = {"model": "gpt-5.2", "input": "Say hello.", "background": True, "stream": True}
        answer = ask(server, "POST", "/v1/responses", body)
        assert (answer.status, answer.json["status"]) == (200, "queued")
