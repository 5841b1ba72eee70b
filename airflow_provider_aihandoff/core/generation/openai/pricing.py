"""What a response cost, in US dollars, from the price data that `genai-prices` ships."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

log = logging.getLogger(__name__)

#: What OpenAI documents for a completion window, as a part of the standard price.
COMPLETION_WINDOW_FACTORS: Mapping[str, Decimal] = {"2h": Decimal("0.70"), "8h": Decimal("0.60")}


def read_usage(response: Any) -> dict[str, Any] | None:
    """The usage that a response names, as JSON; None where it names none, or something else in its place."""
    usage: Any = getattr(response, "usage", None)
    dumped: Any = usage.model_dump(mode="json") if hasattr(usage, "model_dump") else usage
    return dumped if isinstance(dumped, dict) else None


def price(response: Any, request: Mapping[str, Any]) -> Decimal | None:
    """The price of a response; None where it is unknown: no usage, or a model without a published price.

    :param request: the request that was sent, for the completion window.
    """
    from genai_prices import calc_price, extract_usage

    usage_named = read_usage(response)
    if usage_named is None:
        return None
    model = getattr(response, "model", None)
    body = {"model": model, "usage": usage_named}
    tier = getattr(response, "service_tier", None)
    try:
        usage = extract_usage(body, provider_id="openai", api_flavor="responses").usage
        context = {"service_tier": tier} if tier else None
        total = calc_price(usage, str(model), provider_id="openai", price_context=context).total_price
    except Exception as error:  # noqa: BLE001 - an odd bill must not keep a paid output from being stored
        log.warning("The price of a response of the model %s is unknown: %s", model, error)
        return None
    window = (request.get("background_options") or {}).get("completion_window")
    return total * COMPLETION_WINDOW_FACTORS.get(window or "", Decimal(1))
