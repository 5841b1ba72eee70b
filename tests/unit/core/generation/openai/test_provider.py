"""OpenAI behind the seam, over real HTTP: it answers as the provider in memory does, and repeats nothing by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from openai import AsyncOpenAI, OpenAI

from airflow_provider_aihandoff.core.generation.openai.provider import AsyncOpenAIProvider, OpenAIProvider
from airflow_provider_aihandoff.core.generation.provider import (
    AsyncModelProvider,
    ModelProvider,
    ModelResponse,
    ProviderError,
    ProviderUnreachable,
    ResponseNotFound,
    Sent,
    SubmitFailure,
    own_metadata,
)
from airflow_provider_aihandoff.core.states import ResponseStatus
from airflow_provider_aihandoff.testing import OpenAIStandIn, ServerKind
from tests.fake_provider import AsyncFakeProvider, FakeProvider
from tests.target import Answer, serve

REQUEST = {"model": "gpt-5.2", "input": "Write about the kettle."}

#: Ask about a response, and stop it.
Ask = Callable[[str], ModelResponse]
Stop = Callable[[str], ModelResponse | None]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[OpenAIStandIn, str]]:
    stand_in = OpenAIStandIn(delay_seconds=60)
    with stand_in.serve() as running:
        yield stand_in, running.base_url


@pytest.fixture
def stand_in(served: tuple[OpenAIStandIn, str]) -> OpenAIStandIn:
    served[0].reset()
    return served[0]


@pytest.fixture
def openai(served: tuple[OpenAIStandIn, str], stand_in: OpenAIStandIn) -> Iterator[OpenAIProvider]:
    """On a client with the SDK's retries on, as Airflow's hook makes it."""
    with OpenAI(base_url=served[1], api_key="any", max_retries=5, timeout=5) as client:
        yield OpenAIProvider(client)


@pytest.fixture(params=["openai", "fake"])
def provider(request: pytest.FixtureRequest) -> ModelProvider:
    if request.param == "fake":
        return FakeProvider()
    opened: ModelProvider = request.getfixturevalue("openai")
    return opened


@pytest.fixture(params=["sync", "async"])
def asking(
    request: pytest.FixtureRequest, provider: ModelProvider, served: tuple[OpenAIStandIn, str]
) -> tuple[Ask, Stop]:
    """Both halves of the seam, by what they have in common."""
    if request.param == "sync":
        return provider.retrieve, provider.cancel

    async def opened(work: str, response_id: str) -> ModelResponse | None:
        if isinstance(provider, FakeProvider):
            half: AsyncModelProvider = AsyncFakeProvider(provider)
            return await getattr(half, work)(response_id)  # type: ignore[no-any-return]
        async with AsyncOpenAI(base_url=served[1], api_key="any", max_retries=5, timeout=5) as client:
            half = AsyncOpenAIProvider(client)
            return await getattr(half, work)(response_id)  # type: ignore[no-any-return]

    def ask(response_id: str) -> ModelResponse:
        response = asyncio.run(opened("retrieve", response_id))
        assert response is not None
        return response

    return ask, lambda response_id: asyncio.run(opened("cancel", response_id))


def created(provider: ModelProvider, faults: str = "") -> ModelResponse:
    response = provider.create({**REQUEST, "metadata": {"standin": faults}}, own_metadata(7, 2, "L"), timeout=5)
    assert isinstance(response, ModelResponse)
    return response


class TestBoth:
    def test_a_request_brings_a_response_that_runs_and_names_its_revision(
        self, provider: ModelProvider, asking: tuple[Ask, Stop]
    ) -> None:
        response = created(provider)
        seen = asking[0](response.id)
        assert (seen.id, seen.ended) == (response.id, False)
        assert {**own_metadata(7, 2, "L"), **seen.metadata} == seen.metadata

    def test_a_response_that_runs_is_stopped(self, provider: ModelProvider, asking: tuple[Ask, Stop]) -> None:
        ask, stop = asking
        response = created(provider)
        stopped = stop(response.id)
        assert stopped is not None
        assert (stopped.status, stopped.ended_by_itself) == (ResponseStatus.CANCELLED, False)
        assert ask(response.id).status is ResponseStatus.CANCELLED

    def test_a_response_that_has_ended_stays_as_it_is(self, provider: ModelProvider, asking: tuple[Ask, Stop]) -> None:
        response = created(provider, "delay=0")
        if isinstance(provider, FakeProvider):
            provider.end(response.id)
        stopped = asking[1](response.id)
        assert stopped is not None
        assert (stopped.status, bool(stopped.text)) == (ResponseStatus.COMPLETED, True)
        assert provider.price(stopped, REQUEST)

    def test_a_response_that_does_not_exist_is_not_found_and_a_stop_returns_nothing(
        self, provider: ModelProvider, asking: tuple[Ask, Stop]
    ) -> None:
        ask, stop = asking
        with pytest.raises(ResponseNotFound):
            ask("resp_nowhere")
        assert stop("resp_nowhere") is None


class TestOpenAI:
    def test_a_create_that_fails_is_sent_once(self, openai: OpenAIProvider, stand_in: OpenAIStandIn) -> None:
        request = {**REQUEST, "metadata": {"standin": "create=500 times=9"}}
        failure = openai.create(request, {}, timeout=5)
        assert isinstance(failure, SubmitFailure)
        assert failure.sent is Sent.NO
        assert stand_in.responses().creates == 1

    def test_a_create_takes_no_longer_than_it_may(self, openai: OpenAIProvider) -> None:
        request = {**REQUEST, "metadata": {"standin": "create=timeout_after_accept"}}
        failure = openai.create(request, {}, timeout=1.0)
        assert isinstance(failure, SubmitFailure)
        assert (failure.sent, "APITimeoutError" in failure.reason) == (Sent.UNKNOWN, True)

    def test_the_input_of_a_request_is_counted_before_it_is_sent(
        self, openai: OpenAIProvider, stand_in: OpenAIStandIn
    ) -> None:
        request = {**REQUEST, "max_output_tokens": 10, "metadata": {"a": "b"}, "service_tier": "flex"}
        assert openai.count_input(request) == 6
        assert stand_in.responses().creates == 0

    def test_a_server_that_cannot_count_is_asked_once(self) -> None:
        stand_in = OpenAIStandIn(kind=ServerKind(counts=False))
        with stand_in.serve() as running, OpenAI(base_url=running.base_url, api_key="any", timeout=5) as client:
            openai = OpenAIProvider(client)
            assert [openai.count_input(REQUEST) for _ in range(2)] == [None, None]
        assert [each.path for each in stand_in.requests()] == ["/v1/responses/input_tokens"]

    def test_an_answer_that_is_no_response_leaves_it_unknown_whether_there_is_one(self, openai: OpenAIProvider) -> None:
        failure = openai.create({**REQUEST, "metadata": {"standin": "create=html"}}, {}, timeout=5)
        assert failure == SubmitFailure(Sent.UNKNOWN, "the answer was not a response object")

    def test_what_is_sent_is_the_request_as_it_is(self) -> None:
        request = {
            **REQUEST,
            "text": {"format": {"type": "text"}, "verbosity": None},
            "tools": [{"type": "web_search", "unknown": 1}],
            "extra_body": {"novelty": {"level": 1}},
            "extra_headers": {"X-Of-Request": "yes"},
            "extra_query": {"of": "query"},
        }
        with serve() as target, OpenAI(base_url=f"http://127.0.0.1:{target.port}/v1", api_key="any") as client:
            target.answers = [Answer(200, {"id": "resp_1", "status": "queued"})]
            response = OpenAIProvider(client).create(request, {"job": "7"}, timeout=5)

        assert isinstance(response, ModelResponse)
        (sent,) = target.received
        headers = {name.lower(): value for name, value in sent.headers.items()}
        assert (sent.method, sent.path, headers["x-of-request"]) == ("POST", "/v1/responses?of=query", "yes")
        assert sent.json == {
            **REQUEST,
            "text": {"format": {"type": "text"}, "verbosity": None},
            "tools": [{"type": "web_search", "unknown": 1}],
            "novelty": {"level": 1},
            "background": True,
            "store": True,
            "metadata": {"job": "7"},
        }

    def test_an_argument_that_the_sdk_does_not_know_is_never_sent(
        self, openai: OpenAIProvider, stand_in: OpenAIStandIn
    ) -> None:
        failure = openai.create({**REQUEST, "temprature": 1}, {}, timeout=5)
        assert isinstance(failure, SubmitFailure)
        assert (failure.sent, "extra_body" in failure.reason) == (Sent.NEVER, True)
        assert stand_in.responses().creates == 0

    @pytest.mark.parametrize("fault", ["500", "html", "wrong_id", "drop"])
    def test_an_answer_that_says_nothing_is_an_error_and_asked_for_once(
        self, openai: OpenAIProvider, stand_in: OpenAIStandIn, fault: str
    ) -> None:
        response = created(openai, f"retrieve={fault} times=1")
        with pytest.raises(ProviderError) as raised:
            openai.retrieve(response.id)
        assert isinstance(raised.value, ProviderUnreachable) == (fault == "drop")
        assert stand_in.responses().retrieves == 1
        assert openai.retrieve(response.id).id == response.id

    async def test_an_event_loop_asks_once_too(
        self, openai: OpenAIProvider, stand_in: OpenAIStandIn, served: tuple[OpenAIStandIn, str]
    ) -> None:
        response = created(openai, "retrieve=500 times=1")
        async with AsyncOpenAI(base_url=served[1], api_key="any", max_retries=5, timeout=5) as client:
            with pytest.raises(ProviderError, match="OpenAI answered 500"):
                await AsyncOpenAIProvider(client).retrieve(response.id)
        assert stand_in.responses().retrieves == 1

    def test_after_a_failed_stop_the_status_of_the_response_counts(self, openai: OpenAIProvider) -> None:
        response = created(openai, "delay=0")
        stopped = openai.cancel(response.id)
        assert stopped is not None
        assert stopped.ended_by_itself

    def test_the_provider_has_the_prices_and_the_continuation_of_openai(self, openai: OpenAIProvider) -> None:
        usage = {"input_tokens": 1_000_000, "output_tokens": 0, "total_tokens": 1_000_000}
        response = ModelResponse("resp_1", ResponseStatus.COMPLETED, usage=usage, model="gpt-5.2")
        whole = openai.price(response, {})
        half = openai.price(response, {"background_options": {"completion_window": "8h"}})
        assert whole is not None
        assert half is not None
        assert half < whole
