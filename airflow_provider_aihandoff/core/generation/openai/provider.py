"""OpenAI behind the seam, by its SDK."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from inspect import Signature, signature
from typing import Any

from openai import AsyncOpenAI, OpenAI
from openai.resources.responses.input_tokens import InputTokens

from airflow_provider_aihandoff.core.generation.batch_provider import HasBatches, HasBatchesAsync, ModelBatch
from airflow_provider_aihandoff.core.generation.openai.answers import read_items, read_response, response_id_of
from airflow_provider_aihandoff.core.generation.openai.batches_api import BatchesApi, read_batch
from airflow_provider_aihandoff.core.generation.openai.clients import Clients
from airflow_provider_aihandoff.core.generation.openai.facts import OpenAIFacts
from airflow_provider_aihandoff.core.generation.openai.failures import (
    InvalidArguments,
    asking_failed,
    classify,
    has_no_such_api,
)
from airflow_provider_aihandoff.core.generation.openai.json_answer import json_of
from airflow_provider_aihandoff.core.generation.openai.rate_headers import heard
from airflow_provider_aihandoff.core.generation.openai.request import may_have_conversation, submission
from airflow_provider_aihandoff.core.generation.openai.stream_api import OpenAIResponseStream, read_created
from airflow_provider_aihandoff.core.generation.openai.tools import ToolPrices
from airflow_provider_aihandoff.core.generation.provider import (
    AsyncModelProvider,
    ModelProvider,
    ModelResponse,
    ProviderError,
    Sent,
    SubmitFailure,
)
from airflow_provider_aihandoff.core.generation.response_stream import HasStreams, is_streamed

log = logging.getLogger(__name__)

#: What of a request decides how many tokens its input has.
_COUNTED = frozenset(
    signature(InputTokens.count).parameters.keys() - {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
)

#: Seconds that counting may take.
_COUNT_TIMEOUT = 10.0


class OpenAIProvider(OpenAIFacts, ModelProvider, HasBatches):
    """OpenAI's Responses API in background mode.

    :param client: with its time-outs. Its own retries are switched off here: it would repeat a request that was
        accepted.
    :param conversations: the server has conversations, and each revision gets one as a handle on a lost request.
    :param tool_prices: what calls of OpenAI's tools cost.
    """

    def __init__(self, client: OpenAI, *, conversations: bool = False, tool_prices: ToolPrices | None = None) -> None:
        self.tool_prices = tool_prices or ToolPrices()
        once = client.with_options(max_retries=0)
        self._responses, self._conversations = once.responses, once.conversations
        self._opens_handles = conversations
        self._counts_input = True
        self._client, self._clients = once, Clients(once)

    def close(self) -> None:
        """Close the connections that it has opened beside those of its client."""
        self._clients.close()

    def batches(self) -> BatchesApi:
        """As :meth:`HasBatches.batches`."""
        return BatchesApi(self._client, self.tool_prices)

    def create(
        self, request: Mapping[str, Any], metadata: Mapping[str, str], *, timeout: float, handle: str | None = None
    ) -> ModelResponse | SubmitFailure:
        """As :meth:`ModelProvider.create`."""
        body = submission(request, metadata, handle)
        try:
            _check_arguments(self._responses.create, body)
            with self._clients.responses() as responses:
                raw = responses.with_raw_response.create(**_as_json(body), timeout=timeout)
            answer = read_created(raw) if is_streamed(body) else json_of(raw.http_response.content)
        except Exception as error:  # noqa: BLE001 - every error must be classified and recorded
            return classify(error)
        response_id = response_id_of(answer)
        if response_id is None:
            return SubmitFailure(Sent.UNKNOWN, "the answer was not a response object")
        return replace(read_response(answer, response_id, self.tool_prices), heard=heard(raw.status_code, raw.headers))

    def open_handle(self, request: Mapping[str, Any], metadata: Mapping[str, str]) -> str | None:
        """As :meth:`ModelProvider.open_handle`."""
        if not self._opens_handles or not may_have_conversation(request):
            return None
        try:
            opened = self._conversations.create(metadata=dict(metadata))
        except Exception as error:
            if has_no_such_api(error):
                log.warning("The server has no conversations (%s); going on without.", type(error).__name__)
                return None
            raise asking_failed(error, "a new conversation") from error
        conversation_id = response_id_of(opened)
        if conversation_id is None:
            raise ProviderError("OpenAI's answer was not a conversation.", remedy="Asking again is safe.")
        return conversation_id

    def count_input(self, request: Mapping[str, Any], *, handle: str | None = None) -> int | None:
        """As :meth:`ModelProvider.count_input`, by `POST /v1/responses/input_tokens`.

        A server that has not got it is not asked again.
        """
        if not self._counts_input:
            return None
        body: dict[str, Any] = {name: request[name] for name in _COUNTED if request.get(name) is not None}
        if handle is not None:
            body["conversation"] = handle
        try:
            found = self._responses.input_tokens.count(**body, timeout=_COUNT_TIMEOUT)
        except Exception as error:  # noqa: BLE001 - the bound from its bytes holds
            self._counts_input = not has_no_such_api(error)
            log.info("The tokens of a request were not counted (%s).", type(error).__name__)
            return None
        return found.input_tokens if isinstance(found.input_tokens, int) and found.input_tokens >= 0 else None

    def read_handle(self, handle: str) -> ModelResponse | None:
        """As :meth:`ModelProvider.read_handle`."""
        try:
            return read_items(self._conversations.items.list(handle, order="asc", limit=100), handle)
        except Exception as error:
            raise asking_failed(error, handle) from error

    def retrieve(self, response_id: str) -> ModelResponse:
        """As :meth:`ModelProvider.retrieve`."""
        try:
            with self._clients.responses() as responses:
                raw = responses.with_raw_response.retrieve(response_id)
            return read_response(json_of(raw.http_response.content), response_id, self.tool_prices)
        except Exception as error:  # noqa: BLE001 - not chained: its text quotes headers
            raise asking_failed(error, response_id) from None

    def cancel(self, response_id: str) -> ModelResponse | None:
        """As :meth:`ModelProvider.cancel`. One that has ended may answer 200, 400 or 409: what it is then counts."""
        try:
            raw = self._responses.with_raw_response.cancel(response_id)
            return read_response(json_of(raw.http_response.content), response_id, self.tool_prices)
        except Exception as error:  # noqa: BLE001 - it is asked about instead
            log.info("Cancelling response %s: %s; asking about it.", response_id, type(error).__name__)
        try:
            return self.retrieve(response_id)
        except ProviderError as error:
            log.warning("After cancelling response %s: %s", response_id, error.what)
            return None


class AsyncOpenAIProvider(OpenAIFacts, AsyncModelProvider, HasBatchesAsync, HasStreams):
    """OpenAI's Responses API in background mode, for an event loop.

    :param client: as that of :class:`OpenAIProvider`.
    """

    def __init__(self, client: AsyncOpenAI, *, tool_prices: ToolPrices | None = None) -> None:
        self.tool_prices = tool_prices or ToolPrices()
        once = client.with_options(max_retries=0)
        self._responses, self._conversations = once.responses, once.conversations
        self._batches = once.batches

    def stream(self, response_id: str) -> OpenAIResponseStream:
        """As :meth:`HasStreams.stream`."""
        return OpenAIResponseStream(self._responses, response_id)

    async def retrieve_batch(self, batch_id: str) -> ModelBatch:
        """As :meth:`ModelBatches.retrieve`."""
        try:
            return read_batch(await self._batches.retrieve(batch_id), batch_id)
        except Exception as error:  # noqa: BLE001
            raise asking_failed(error, batch_id) from None

    async def cancel_batch(self, batch_id: str) -> ModelBatch | None:
        """As :meth:`ModelBatches.cancel`."""
        try:
            return read_batch(await self._batches.cancel(batch_id), batch_id)
        except Exception as error:  # noqa: BLE001 - it is asked about instead
            log.info("Cancelling batch %s: %s; asking about it.", batch_id, type(error).__name__)
        try:
            return await self.retrieve_batch(batch_id)
        except ProviderError as error:
            log.warning("After cancelling batch %s: %s", batch_id, error.what)
            return None

    async def read_handle(self, handle: str) -> ModelResponse | None:
        """As :meth:`ModelProvider.read_handle`."""
        try:
            return read_items(await self._conversations.items.list(handle, order="asc", limit=100), handle)
        except Exception as error:
            raise asking_failed(error, handle) from error

    async def retrieve(self, response_id: str) -> ModelResponse:
        """As :meth:`ModelProvider.retrieve`."""
        try:
            raw = await self._responses.with_raw_response.retrieve(response_id)
            return read_response(json_of(raw.http_response.content), response_id, self.tool_prices)
        except Exception as error:  # noqa: BLE001 - not chained: its text quotes headers
            raise asking_failed(error, response_id) from None

    async def cancel(self, response_id: str) -> ModelResponse | None:
        """As :meth:`OpenAIProvider.cancel`."""
        try:
            raw = await self._responses.with_raw_response.cancel(response_id)
            return read_response(json_of(raw.http_response.content), response_id, self.tool_prices)
        except Exception as error:  # noqa: BLE001 - it is asked about instead
            log.info("Cancelling response %s: %s; asking about it.", response_id, type(error).__name__)
        try:
            return await self.retrieve(response_id)
        except ProviderError as error:
            log.warning("After cancelling response %s: %s", response_id, error.what)
            return None


#: What the SDK has to know of a request by itself.
_OF_SDK = frozenset({"extra_headers", "extra_query", "extra_body", "stream"})


def _as_json(body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``create`` with which the request goes as it is. The SDK makes JSON of each argument by its
    annotations, which takes time for each request; and what the ledger keeps is JSON by now."""
    given = {name: body[name] for name in _OF_SDK if name in body}
    more = given.get("extra_body") or {}
    return {**given, "extra_body": {**{name: body[name] for name in body if name not in _OF_SDK}, **more}}


def _check_arguments(create: Callable[..., Any], body: Mapping[str, Any]) -> None:
    """Distinguish a misspelt argument from a ``TypeError`` that comes after the request was sent.

    :raises InvalidArguments: the SDK does not take these arguments.
    """
    try:
        _signature(create).bind(**body)
    except TypeError as error:
        raise InvalidArguments(f"{error}; what this SDK does not know goes into extra_body") from None


@lru_cache(maxsize=8)
def _signature(create: Callable[..., Any]) -> Signature:
    return signature(create)
