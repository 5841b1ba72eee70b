"""What is known of OpenAI without asking it. Does not import its SDK. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_aihandoff.core.generation.openai.continuation import continued
from airflow_provider_aihandoff.core.generation.openai.messages import prompt_of
from airflow_provider_aihandoff.core.generation.openai.output_type import check_output_type
from airflow_provider_aihandoff.core.generation.openai.pricing import price
from airflow_provider_aihandoff.core.generation.openai.request import (
    build_request,
    in_batch,
    input_snapshot,
    output_schema,
)
from airflow_provider_aihandoff.core.generation.openai.tools import ToolPrices
from airflow_provider_aihandoff.core.generation.openai.worst_case import worst_case
from airflow_provider_aihandoff.core.generation.provider import ModelResponse, Prompt, ProviderFacts, Tokens, WorstCase

if TYPE_CHECKING:
    from pydantic import BaseModel

    from airflow_provider_aihandoff.core.models import Revision

#: What of a request the model reads.
_READ_BY_MODEL = ("input", "instructions", "tools", "text")

#: In English, on average.
_CHARACTERS_A_TOKEN = 4


class OpenAIFacts(ProviderFacts):
    """The requests, the prices and the conversation of OpenAI's Responses API."""

    name = "openai"

    #: What calls of OpenAI's tools cost: none is known unless the one who makes the facts says so.
    tool_prices = ToolPrices()

    @classmethod
    def with_prices(cls, tool_prices: ToolPrices) -> Self:
        """Facts that know what calls of tools cost."""
        facts = cls()
        facts.tool_prices = tool_prices
        return facts

    def price(self, response: ModelResponse, request: Mapping[str, Any]) -> Decimal | None:
        """As :meth:`ProviderFacts.price`."""
        return price(response, request, self.tool_prices)

    def worst_case(
        self,
        request: Mapping[str, Any],
        *,
        expected_output_tokens: int | None = None,
        context_tokens: int | None = None,
        hidden: bool = False,
        counted: int | None = None,
    ) -> WorstCase:
        """As :meth:`ProviderFacts.worst_case`."""
        return worst_case(
            request,
            expected_output_tokens=expected_output_tokens,
            context_tokens=context_tokens,
            hidden=hidden,
            counted=counted,
            tool_prices=self.tool_prices,
        )

    def in_batch(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """As :meth:`ProviderFacts.in_batch`."""
        return in_batch(request)

    def continued(
        self, request: Mapping[str, Any], *, changes: str, before: Revision, response_id: str | None
    ) -> dict[str, Any]:
        """As :meth:`ProviderFacts.continued`."""
        return continued(request, changes=changes, before=before, response_id=response_id)

    def check_output_type(self, output_type: Any) -> None:
        """As :meth:`ProviderFacts.check_output_type`."""
        check_output_type(output_type)

    def build_request(
        self, arguments: Mapping[str, Any], output_type: type[BaseModel] | None, *, stream: bool = False
    ) -> dict[str, Any]:
        """As :meth:`ProviderFacts.build_request`."""
        return build_request(arguments, output_type, stream=stream)

    def input_snapshot(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """As :meth:`ProviderFacts.input_snapshot`."""
        return input_snapshot(request)

    def output_schema(self, request: Mapping[str, Any]) -> Any:
        """As :meth:`ProviderFacts.output_schema`."""
        return output_schema(request)

    def prompt(self, request: Mapping[str, Any]) -> Prompt:
        """As :meth:`ProviderFacts.prompt`."""
        return prompt_of(request)

    def model(self, request: Mapping[str, Any]) -> str | None:
        """As :meth:`ProviderFacts.model`."""
        model = request.get("model")
        return model if isinstance(model, str) and model else None

    def counted_tokens(self, request: Mapping[str, Any]) -> int:
        """As :meth:`ProviderFacts.counted_tokens`. OpenAI's limits also count characters before a request runs."""
        parts = [request[name] for name in _READ_BY_MODEL if request.get(name) is not None]
        most = request.get("max_output_tokens")
        characters = sum(len(json.dumps(part, ensure_ascii=False, default=str)) for part in parts)
        return -(-characters // _CHARACTERS_A_TOKEN) + (most if isinstance(most, int) else 0)

    def tokens(self, usage: Mapping[str, Any]) -> Tokens:
        """As :meth:`ProviderFacts.tokens`."""
        return Tokens(_count(usage.get("input_tokens")), _count(usage.get("output_tokens")))


def _count(number: Any) -> int | None:
    return number if isinstance(number, int) and not isinstance(number, bool) else None
