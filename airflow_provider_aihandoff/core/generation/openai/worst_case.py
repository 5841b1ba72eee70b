"""The most that a request can cost, before it is sent, from its bytes and the data of `genai-prices`. Pure.

A token of text has at least one byte, so that a request has at most as many of them as its JSON has bytes. What the
request only refers to (a file, a picture, a response that it continues) may fill the model's context window.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from airflow_provider_aihandoff.core.generation.openai.pricing import COMPLETION_WINDOW_FACTORS
from airflow_provider_aihandoff.core.generation.openai.tools import ToolPrices
from airflow_provider_aihandoff.core.generation.provider import WorstCase

log = logging.getLogger(__name__)

#: Tokens that OpenAI may add to a request, around its messages and for its tools and its schema.
OVERHEAD = 500

#: Tools that run where the request comes from: what they say comes with another request.
_OWN_TOOLS = frozenset({"function", "custom"})

#: So many bytes of a request are worth one more call, which counts its tokens.
_WORTH_COUNTING = 4000

#: Tiers that cost the published price of a model, or less.
_STANDARD_TIERS = frozenset({"auto", "default", "flex", "scale"})

#: Names under which a request refers to what is not in it.
_REFERENCES = frozenset({"conversation", "file_id", "file_url", "vector_store_ids", "container"})


def worst_case(
    request: Mapping[str, Any],
    *,
    expected_output_tokens: int | None = None,
    context_tokens: int | None = None,
    hidden: bool = False,
    counted: int | None = None,
    tool_prices: ToolPrices | None = None,
) -> WorstCase:
    """As :meth:`ProviderFacts.worst_case`.

    :param tool_prices: what calls of OpenAI's tools cost: each call may be the dearest one.
    """
    body = {**request, **(request.get("extra_body") or {})}
    model = str(body.get("model") or "")
    try:
        window = _context_window(model)
    except Exception as error:  # noqa: BLE001 - odd price data is no reason to lose a job
        log.debug("The model %s: %s", model, error)
        return WorstCase(unknown=f"the model {model!r} has no published price")
    if body.get("prompt"):
        return WorstCase(unknown="its stored prompt can name tools that are billed by call")
    rounds = _rounds(body)
    if rounds is None:
        return WorstCase(unknown="its tools can be called any number of times; max_tool_calls bounds them")
    dearest, unknown = (tool_prices or ToolPrices()).dearest(body.get("tools"))
    if unknown is not None:
        return WorstCase(unknown=unknown)
    size = None if hidden else _size(body, context_tokens)
    loose = rounds == 1 and not hidden and counted is None and (size is None or size > _WORTH_COUNTING)
    input_tokens = _input_tokens(size if counted is None else counted + OVERHEAD, window, rounds)
    # The bound of the request is one on all rounds together.
    unbounded = None if window is None else rounds * window
    output_tokens = body.get("max_output_tokens") or expected_output_tokens or unbounded
    if input_tokens is None or output_tokens is None:
        what = "what it refers to" if input_tokens is None else "its answer; max_output_tokens bounds it"
        return WorstCase(input_tokens, output_tokens, unknown=f"nothing bounds the length of {what}", loose=loose)
    try:
        of_tokens = _price(body, model, input_tokens, int(output_tokens))
        return WorstCase(input_tokens, output_tokens, of_tokens + (rounds - 1) * dearest, loose=loose)
    except _NoPrice as error:
        return WorstCase(input_tokens, output_tokens, unknown=str(error))
    except Exception as error:  # noqa: BLE001 - odd price data is no reason to lose a job
        log.warning("What a request of the model %s can cost is unknown: %s", model, error)
        return WorstCase(input_tokens, output_tokens, unknown=f"the model {model!r} has no published price")


class _NoPrice(ValueError):
    """It is not known what a request costs; the message says why, without a full stop."""


def _size(body: Mapping[str, Any], context_tokens: int | None) -> int | None:
    """The most tokens of a request with what it continues; None where it refers to something of unknown length."""
    continues = bool(body.get("previous_response_id"))
    if _refers(body) or (continues and context_tokens is None):
        return None
    size = len(json.dumps(body, ensure_ascii=False, default=str).encode(errors="surrogatepass")) + OVERHEAD
    return size + (context_tokens or 0) if continues else size


@lru_cache(maxsize=64)
def _context_window(model: str) -> int | None:
    """The most tokens that a model can see and write at once; None where that is not published.

    :raises Exception: the model is unknown.
    """
    from genai_prices import Usage, calc_price

    return calc_price(Usage(input_tokens=1, output_tokens=1), model, provider_id="openai").model.context_window


def _rounds(body: Mapping[str, Any]) -> int | None:
    """How often the model can begin again with what a tool of OpenAI has said; None where nothing bounds that."""
    tools = body.get("tools") or []
    hosted = any(isinstance(each, Mapping) and each.get("type") not in _OWN_TOOLS for each in tools)
    if not hosted:
        return 1
    most = body.get("max_tool_calls")
    return None if not isinstance(most, int) else most + 1


def _input_tokens(size: int | None, window: int | None, rounds: int) -> int | None:
    """The most tokens that all rounds read together."""
    if rounds > 1:  # what tools say is in no byte of the request
        return None if window is None else rounds * window
    if size is None:
        return window
    return size if window is None else min(size, window)


def _refers(value: Any) -> bool:
    """Whether a request refers to something that is not in it."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            if each is not None and (name in _REFERENCES or _is_picture(name, each)) and name != "metadata":
                return True
        return any(_refers(each) for name, each in value.items() if name not in ("metadata", "text"))
    return isinstance(value, list) and any(map(_refers, value))


def _is_picture(name: str, value: Any) -> bool:
    """A picture has as many tokens as pixels, whatever its bytes."""
    return name == "image_url" or (name == "type" and value in ("input_image", "item_reference", "input_file"))


def _price(body: Mapping[str, Any], model: str, input_tokens: int, output_tokens: int) -> Decimal:
    """The price if nothing comes out of a cache, and all of it goes into one.

    :raises _NoPrice: the tier is one that the price data does not have for this model: it may be dearer.
    :raises Exception: it cannot be computed.
    """
    from genai_prices import Usage, calc_price

    tier = str(body.get("service_tier") or "auto")
    context = {"service_tier": tier} if tier != "auto" else None
    prices = []
    for written in ({}, {"cache_write_tokens": input_tokens}):
        usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens, **written)
        found = calc_price(usage, model, provider_id="openai", price_context=context).total_price
        if tier not in _STANDARD_TIERS and found == calc_price(usage, model, provider_id="openai").total_price:
            raise _NoPrice(f"the model {model!r} has no published price in the tier {tier!r}")
        prices.append(found)
    window = (body.get("background_options") or {}).get("completion_window")
    return max(prices) * COMPLETION_WINDOW_FACTORS.get(window or "", Decimal(1))
