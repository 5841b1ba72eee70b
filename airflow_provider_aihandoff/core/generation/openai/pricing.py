"""What a response cost, in US dollars, from the price data that `genai-prices` ships."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from airflow_provider_aihandoff.core.generation.openai.request import BATCH_WINDOW
from airflow_provider_aihandoff.core.generation.openai.tools import ToolPrices, fees
from airflow_provider_aihandoff.core.generation.provider import ModelResponse

log = logging.getLogger(__name__)

#: What OpenAI documents for a completion window, and for a batch, as a part of the standard price.
COMPLETION_WINDOW_FACTORS: Mapping[str, Decimal] = {
    "2h": Decimal("0.70"),
    "8h": Decimal("0.60"),
    BATCH_WINDOW: Decimal("0.50"),
}


def price(response: ModelResponse, request: Mapping[str, Any], tool_prices: ToolPrices | None = None) -> Decimal | None:
    """The price of a response; None where it is unknown: no usage, or a model without a published price.

    :param request: the request that was sent, for the completion window.
    :param tool_prices: those of OpenAI's tools that are known.
    """
    from genai_prices import calc_price, extract_usage

    if response.usage is None:
        return None
    body = {"model": response.model, "usage": response.usage}
    tier = response.service_tier
    try:
        usage = extract_usage(body, provider_id="openai", api_flavor="responses").usage
        context = {"service_tier": tier} if tier else None
        total = calc_price(usage, str(response.model), provider_id="openai", price_context=context).total_price
    except Exception as error:  # noqa: BLE001 - an odd bill must not keep a paid output from being stored
        log.warning("The price of a response of the model %s is unknown: %s", response.model, error)
        return None
    window = (request.get("background_options") or {}).get("completion_window")
    of_tokens = total * COMPLETION_WINDOW_FACTORS.get(window or "", Decimal(1))
    return of_tokens + fees(response.usage, tool_prices or ToolPrices())
