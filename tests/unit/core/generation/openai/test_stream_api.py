"""What OpenAI's events say of a response, over real HTTP: taken up after any of them, and once each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from airflow_provider_aihandoff.core.generation.openai.provider import AsyncOpenAIProvider, OpenAIProvider
from airflow_provider_aihandoff.core.generation.openai.stream_api import OpenAIResponseStream
from airflow_provider_aihandoff.core.generation.provider import (
    CredentialsRefused,
    ModelResponse,
    ProviderError,
    ResponseNotFound,
    Sent,
    SubmitFailure,
    own_metadata,
)
from airflow_provider_aihandoff.core.generation.response_stream import (
    NotStreamed,
    PartKind,
    ResponseStream,
    StreamPart,
    is_streamed,
)
from airflow_provider_aihandoff.core.states import ResponseStatus
from airflow_provider_aihandoff.testing import OpenAIStandIn, ServerKind
from tests.waiting import until

REQUEST: dict[str, Any] = {"model": "gpt-5.2", "input": "Write about the kettle.", "stream": True}

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[OpenAIStandIn, str]]:
    stand_in = OpenAIStandIn(delay_seconds=0)
    with stand_in.serve() as running:
        yield stand_in, running.base_url


@pytest.fixture
def stand_in(served: tuple[OpenAIStandIn, str]) -> OpenAIStandIn:
    served[0].reset()
    return served[0]


@pytest.fixture
def provider(served: tuple[OpenAIStandIn, str], stand_in: OpenAIStandIn) -> Iterator[OpenAIProvider]:
    with OpenAI(base_url=served[1], api_key="any", max_retries=5, timeout=5) as client:
        yield OpenAIProvider(client)


@pytest.fixture
async def reader(served: tuple[OpenAIStandIn, str]) -> AsyncIterator[AsyncOpenAIProvider]:
    async with AsyncOpenAI(base_url=served[1], api_key="any", max_retries=5, timeout=5) as client:
        yield AsyncOpenAIProvider(client)


def created(provider: OpenAIProvider, faults: str = "") -> ModelResponse:
    response = provider.create({**REQUEST, "metadata": {"standin": faults}}, own_metadata(7, 2, "L"), timeout=5)
    assert isinstance(response, ModelResponse)
    return response


async def read(stream: ResponseStream) -> list[StreamPart]:
    return [part async for part in stream.parts()]


async def keep(parts: list[StreamPart], stream: ResponseStream) -> None:
    """Read what comes, and keep it, also where the connection is cut off."""
    async for part in stream.parts():
        parts.append(part)  # noqa: PERF401


def text_of(parts: list[StreamPart], kind: PartKind = PartKind.TEXT) -> str:
    return "".join(part.delta for part in parts if part.kind is kind)


class TestCreate:
    def test_a_create_with_a_stream_brings_the_response_by_its_first_event(
        self, provider: OpenAIProvider, stand_in: OpenAIStandIn
    ) -> None:
        response = created(provider, "delay=60")
        assert response.status is ResponseStatus.QUEUED
        assert {**own_metadata(7, 2, "L"), **response.metadata} == response.metadata
        assert stand_in.responses().creates == 1
        until(lambda: stand_in.responses().responses[0].readers == 0)
        assert provider.retrieve(response.id).status is ResponseStatus.QUEUED, "it goes on without the connection"

    @pytest.mark.parametrize(
        ("fault", "sent"),
        [
            ("500", Sent.NO),
            ("400", Sent.NEVER),
            ("429_quota", Sent.SPENT),
            ("html", Sent.UNKNOWN),
            ("drop_after_accept", Sent.UNKNOWN),
        ],
    )
    def test_a_create_with_a_stream_fails_as_any_other_and_is_sent_once(
        self, provider: OpenAIProvider, stand_in: OpenAIStandIn, fault: str, sent: Sent
    ) -> None:
        failure = provider.create({**REQUEST, "metadata": {"standin": f"create={fault} times=9"}}, {}, timeout=5)
        assert isinstance(failure, SubmitFailure)
        assert failure.sent is sent
        assert stand_in.responses().creates == 1

    def test_a_server_that_does_not_stream_answers_with_the_response(self) -> None:
        with (
            OpenAIStandIn(kind=ServerKind(streams=False)).serve() as server,
            OpenAI(base_url=server.base_url, api_key="any") as client,
        ):
            assert created(OpenAIProvider(client)).status is ResponseStatus.QUEUED

    def test_what_can_be_watched_is_known_by_its_request(self) -> None:
        assert is_streamed(REQUEST)
        assert not is_streamed({"model": "gpt-5.2"})


class TestRead:
    async def test_a_stream_has_what_the_model_thinks_and_writes_and_what_is_billed(
        self, provider: OpenAIProvider, reader: AsyncOpenAIProvider
    ) -> None:
        response = created(provider)
        parts = await read(reader.stream(response.id))
        assert text_of(parts) == provider.retrieve(response.id).text
        assert "I check what is asked" in text_of(parts, PartKind.THINKING)
        assert parts[-1].kind is PartKind.ENDED
        assert parts[-1].tokens is not None
        assert parts[-1].tokens.output

    async def test_a_stream_that_is_cut_off_goes_on_after_the_last_part(
        self, provider: OpenAIProvider, reader: AsyncOpenAIProvider
    ) -> None:
        response = created(provider, "stream=drop times=1")
        stream = reader.stream(response.id)
        parts: list[StreamPart] = []
        with pytest.raises(ProviderError):
            await keep(parts, stream)
        assert parts
        rest = await read(stream)
        assert [part.sequence_number for part in parts + rest] == list(range(len(parts + rest)))
        assert text_of(parts + rest) == provider.retrieve(response.id).text

    async def test_what_was_read_before_is_not_read_again_even_if_it_is_sent_again(
        self, provider: OpenAIProvider, reader: AsyncOpenAIProvider
    ) -> None:
        response = created(provider)
        stream = reader.stream(response.id)
        whole = await read(stream)
        stream.after = 5
        assert isinstance(stream, OpenAIResponseStream)
        assert await read(stream) == whole[6:]
        assert stream._read(EVENT.validate_python(REPEATED)) is None

    @pytest.mark.parametrize(
        ("fault", "error"), [("404", ResponseNotFound), ("500", ProviderError), ("503", ProviderError)]
    )
    async def test_a_stream_that_fails_says_how(
        self, provider: OpenAIProvider, reader: AsyncOpenAIProvider, fault: str, error: type[ProviderError]
    ) -> None:
        response = created(provider, f"stream={fault}")
        with pytest.raises(error) as failed:
            await read(reader.stream(response.id))
        assert type(failed.value) is error

    async def test_a_response_without_a_stream_has_none(
        self, provider: OpenAIProvider, reader: AsyncOpenAIProvider
    ) -> None:
        response = provider.create({"model": "gpt-5.2", "input": "x"}, {}, timeout=5)
        assert isinstance(response, ModelResponse)
        with pytest.raises(NotStreamed):
            await read(reader.stream(response.id))

    async def test_refused_credentials_are_an_error_of_the_provider(self, served: tuple[OpenAIStandIn, str]) -> None:
        async with AsyncOpenAI(base_url=served[1], api_key=" ", max_retries=0) as client:
            with pytest.raises((CredentialsRefused, ProviderError)):
                await read(AsyncOpenAIProvider(client).stream("resp_1"))


REPEATED = {
    "type": "response.output_text.delta",
    "sequence_number": 3,
    "delta": "again",
    "item_id": "msg_1",
    "output_index": 0,
    "content_index": 0,
    "logprobs": [],
}


def stream_of_nothing() -> OpenAIResponseStream:
    return OpenAIResponseStream(None, "resp_1")  # type: ignore[arg-type]


def test_a_comment_before_the_answer_is_no_part_of_the_text() -> None:
    stream = stream_of_nothing()
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    added = {"type": "response.output_item.added", "sequence_number": 1, "output_index": 0}
    stream._read(EVENT.validate_python({**added, "item": {**item, "phase": "commentary"}}))
    comment = stream._read(EVENT.validate_python(REPEATED))
    assert comment == StreamPart(3, PartKind.THINKING, "again")
    stream._read(EVENT.validate_python({**added, "sequence_number": 4, "item": {**item, "id": "msg_2"}}))
    text = stream._read(EVENT.validate_python({**REPEATED, "sequence_number": 5, "item_id": "msg_2"}))
    assert text == StreamPart(5, PartKind.TEXT, "again")


def test_an_error_in_the_stream_is_a_failure_of_the_connection_alone() -> None:
    stream = stream_of_nothing()
    error = {"type": "error", "sequence_number": 2, "message": "try again", "code": "server_error", "param": None}
    with pytest.raises(ProviderError, match="said that it failed"):
        stream._read(EVENT.validate_python(error))
    assert stream.after is None


@pytest.mark.parametrize("event", [object(), {"type": "response.novelty"}, None])
def test_what_is_no_event_is_left_out(event: Any) -> None:
    assert stream_of_nothing()._read(event) is None


def test_an_event_that_is_not_known_here_is_a_sign_of_life() -> None:
    class Novelty:
        type, sequence_number = "response.novelty", 7

    assert stream_of_nothing()._read(Novelty()) == StreamPart(7, PartKind.SIGN)
