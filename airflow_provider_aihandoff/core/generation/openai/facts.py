"""What is known of OpenAI without asking it. Does not import its SDK. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from airflow_provider_aihandoff.core.generation.openai.answers import ended_status
from airflow_provider_aihandoff.core.generation.openai.continuation import continued
from airflow_provider_aihandoff.core.generation.openai.pricing import price
from airflow_provider_aihandoff.core.generation.provider import ModelResponse, ProviderFacts
from airflow_provider_aihandoff.core.models import Revision
from airflow_provider_aihandoff.core.states import ResponseStatus


class OpenAIFacts(ProviderFacts):
    """The prices, the conversation and the webhooks of OpenAI's Responses API."""

    def price(self, response: ModelResponse, request: Mapping[str, Any]) -> Decimal | None:
        """As :meth:`ProviderFacts.price`."""
        return price(response, request)

    def continued(
        self, request: Mapping[str, Any], *, changes: str, before: Revision, response_id: str | None
    ) -> dict[str, Any]:
        """As :meth:`ProviderFacts.continued`."""
        return continued(request, changes=changes, before=before, response_id=response_id)

    def ended_status(self, event_type: str) -> ResponseStatus | None:
        """As :meth:`ProviderFacts.ended_status`."""
        return ended_status(event_type)
