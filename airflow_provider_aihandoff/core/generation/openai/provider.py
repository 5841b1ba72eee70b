"""OpenAI behind the seam, by its SDK."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from openai import AsyncOpenAI, OpenAI

from airflow_provider_aihandoff.core.generation.openai.answers import read_response, response_id_of
from airflow_provider_aihandoff.core.generation.openai.facts import OpenAIFacts
from airflow_provider_aihandoff.core.generation.openai.failures import InvalidArguments, asking_failed, classify
from airflow_provider_aihandoff.core.generation.openai.request import submission
from airflow_provider_aihandoff.core.generation.provider import (
    AsyncModelProvider,
    ModelProvider,
    ModelResponse,
    ProviderError,
    Sent,
    SubmitFailure,
)

log = logging.getLogger(__name__)


class OpenAIProvider(OpenAIFacts, ModelProvider):
    """OpenAI's Responses API in background mode.

    :param client: with its time-outs. Its own retries are switched off here: it would repeat a request that was
        accepted.
    """

    def __init__(self, client: OpenAI) -> None:
        self._responses = client.with_options(max_retries=0).responses

    def create(
        self, request: Mapping[str, Any], metadata: Mapping[str, str], *, timeout: float
    ) -> ModelResponse | SubmitFailure:
        """As :meth:`ModelProvider.create`."""
        body = submission(request, metadata)
        try:
            _check_arguments(self._responses.create, body)
            answer = self._responses.create(**body, timeout=timeout)
        except Exception as error:  # noqa: BLE001 - every error must be classified and recorded
            return classify(error)
        response_id = response_id_of(answer)
        if response_id is None:
            return SubmitFailure(Sent.UNKNOWN, "the answer was not a response object")
        return read_response(answer, response_id)

    def retrieve(self, response_id: str) -> ModelResponse:
        """As :meth:`ModelProvider.retrieve`."""
        try:
            return read_response(self._responses.retrieve(response_id), response_id)
        except Exception as error:  # noqa: BLE001 - not chained: its text quotes headers
            raise asking_failed(error, response_id) from None

    def cancel(self, response_id: str) -> ModelResponse | None:
        """As :meth:`ModelProvider.cancel`. One that has ended may answer 200, 400 or 409: what it is then counts."""
        try:
            return read_response(self._responses.cancel(response_id), response_id)
        except Exception as error:  # noqa: BLE001 - it is asked about instead
            log.info("Cancelling response %s: %s; asking about it.", response_id, type(error).__name__)
        try:
            return self.retrieve(response_id)
        except ProviderError as error:
            log.warning("After cancelling response %s: %s", response_id, error.what)
            return None


class AsyncOpenAIProvider(OpenAIFacts, AsyncModelProvider):
    """OpenAI's Responses API in background mode, for an event loop.

    :param client: as that of :class:`OpenAIProvider`.
    """

    def __init__(self, client: AsyncOpenAI) -> None:
        self._responses = client.with_options(max_retries=0).responses

    async def retrieve(self, response_id: str) -> ModelResponse:
        """As :meth:`ModelProvider.retrieve`."""
        try:
            return read_response(await self._responses.retrieve(response_id), response_id)
        except Exception as error:  # noqa: BLE001 - not chained: its text quotes headers
            raise asking_failed(error, response_id) from None

    async def cancel(self, response_id: str) -> ModelResponse | None:
        """As :meth:`OpenAIProvider.cancel`."""
        try:
            return read_response(await self._responses.cancel(response_id), response_id)
        except Exception as error:  # noqa: BLE001 - it is asked about instead
            log.info("Cancelling response %s: %s; asking about it.", response_id, type(error).__name__)
        try:
            return await self.retrieve(response_id)
        except ProviderError as error:
            log.warning("After cancelling response %s: %s", response_id, error.what)
            return None


def _check_arguments(create: Callable[..., Any], body: Mapping[str, Any]) -> None:
    """Distinguish a misspelt argument from a ``TypeError`` that comes after the request was sent.

    :raises InvalidArguments: the SDK does not take these arguments.
    """
    try:
        signature(create).bind(**body)
    except TypeError as error:
        raise InvalidArguments(f"{error}; what this SDK does not know goes into extra_body") from None
