"""What a request can cost at most: never less than what it then costs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.generation.openai.pricing import price
from airflow_provider_aihandoff.core.generation.openai.tools import ToolPrices
from airflow_provider_aihandoff.core.generation.openai.worst_case import OVERHEAD, worst_case
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.states import ResponseStatus

SHORT: dict[str, Any] = {"model": "gpt-5.2", "input": "Write about the kettle.", "max_output_tokens": 1000}


def cost(request: dict[str, Any], **more: Any) -> Decimal:
    found = worst_case(request, **more).cost_usd
    assert found is not None
    return found


def test_a_text_has_at_most_as_many_tokens_as_bytes() -> None:
    found = worst_case({**SHORT, "input": "ä" * 1000})
    assert found.input_tokens is not None
    assert 2000 + OVERHEAD < found.input_tokens < 2200 + OVERHEAD
    assert found.output_tokens == 1000


@given(
    text=st.text(max_size=200),
    written=st.integers(0, 1000),
    tier=st.sampled_from([None, "default", "flex", "priority"]),
    window=st.sampled_from([None, "2h", "8h"]),
    model=st.sampled_from(["gpt-5.2", "gpt-6-sol", "gpt-5-mini"]),
)
def test_it_is_never_less_than_what_the_response_costs(
    text: str, written: int, tier: str | None, window: str | None, model: str
) -> None:
    request: dict[str, Any] = {**SHORT, "model": model, "input": text}
    if tier:
        request["service_tier"] = tier
    if window:
        request["background_options"] = {"completion_window": window}
    usage = {"input_tokens": len(text.encode()) + 20, "output_tokens": written}
    response = ModelResponse("resp", ResponseStatus.COMPLETED, usage=usage, model=model, service_tier=tier)
    assert cost(request) >= (price(response, request) or 0)


def test_without_a_bound_the_model_can_write_until_its_window_is_full() -> None:
    request = {"model": "gpt-5.2", "input": "x"}
    assert worst_case(request).output_tokens == 400_000
    assert worst_case(request, expected_output_tokens=500).output_tokens == 500
    assert worst_case(SHORT, expected_output_tokens=5).output_tokens == 1000


@pytest.mark.parametrize(
    "more",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.org/a.png"}]}]},
        {"extra_body": {"previous_response_id": "resp_1"}},
    ],
    ids=str,
)
def test_what_it_only_refers_to_may_fill_the_window(more: dict[str, Any]) -> None:
    assert worst_case({**SHORT, **more}).input_tokens == 400_000


def test_what_was_counted_takes_the_place_of_the_bound_from_the_bytes() -> None:
    long = {**SHORT, "input": "word " * 10_000}
    assert worst_case(long).loose
    counted = worst_case(long, counted=10_000)
    assert (counted.input_tokens, counted.loose) == (10_000 + OVERHEAD, False)
    picture = [{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.org/a.png"}]}]
    assert worst_case({**SHORT, "input": picture}).loose
    assert cost(long, counted=10_000) < cost(long)


def test_counting_is_of_no_use_where_little_is_read_or_tools_say_how_much() -> None:
    assert not worst_case(SHORT).loose
    tools = {"tools": [{"type": "web_search"}], "max_tool_calls": 2, "input": "word " * 10_000}
    prices = ToolPrices.of_text('{"web_search": 0.01}')
    assert not worst_case({**SHORT, **tools}, tool_prices=prices).loose
    assert not worst_case({**SHORT, "input": "word " * 10_000}, hidden=True).loose


def test_a_stored_prompt_can_name_tools_so_that_its_cost_is_not_known() -> None:
    found = worst_case({**SHORT, "prompt": {"id": "pmpt_1"}})
    assert (found.cost_usd, found.unknown) == (None, "its stored prompt can name tools that are billed by call")


@pytest.mark.parametrize(("model", "tier"), [("gpt-5-pro", "priority"), ("gpt-5.2", "faster")])
def test_a_tier_that_the_price_data_does_not_have_may_be_dearer(model: str, tier: str) -> None:
    found = worst_case({**SHORT, "model": model, "service_tier": tier})
    assert found.cost_usd is None
    assert found.unknown == f"the model {model!r} has no published price in the tier {tier!r}"


def test_a_response_that_it_continues_counts_where_its_length_is_known() -> None:
    found = worst_case({**SHORT, "previous_response_id": "resp_1"}, context_tokens=3000).input_tokens
    assert found is not None
    assert 3000 < found < 4000 + OVERHEAD


def test_each_round_of_a_tool_of_openai_may_fill_the_window() -> None:
    search = {**SHORT, "tools": [{"type": "web_search"}]}
    assert "max_tool_calls" in str(worst_case(search).unknown)
    prices = ToolPrices.of_text('{"web_search": 0.01}')
    bounded = worst_case({**search, "max_tool_calls": 2}, tool_prices=prices)
    assert bounded.input_tokens == 3 * 400_000
    free = worst_case({**search, "max_tool_calls": 2}, tool_prices=ToolPrices.of_text('{"web_search": 0}'))
    assert bounded.cost_usd is not None
    assert free.cost_usd is not None
    assert bounded.cost_usd - free.cost_usd == Decimal("0.02")
    assert worst_case({**SHORT, "tools": [{"type": "function", "name": "f"}]}).cost_usd is not None


def test_each_call_may_be_that_of_the_dearest_tool() -> None:
    tools = [{"type": "file_search"}, {"type": "web_search_preview_2025_03_11"}, {"type": "mcp"}]
    prices = ToolPrices.of_text('{"web_search": 0.01, "file_search": "0.0025"}')
    request = {**SHORT, "tools": tools, "max_tool_calls": 10}
    free = worst_case(request, tool_prices=ToolPrices.of_text('{"web_search": 0, "file_search": 0}')).cost_usd
    found = worst_case(request, tool_prices=prices).cost_usd
    assert found is not None
    assert free is not None
    assert found - free == Decimal("0.1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'web_search' has no price"),
        ('{"file_search": 0.01}', "'web_search' has no price"),
        ("web_search: 0.01", "tool_prices is not valid: it is not valid JSON"),
        ("[0.01]", "tool_prices is not valid: it is not a JSON object"),
        ('{"web_search": -1}', "an amount must be above 0"),
        ('{"web_search": "free"}', "the price of 'web_search'"),
        ('{"web_search": NaN}', "the price of 'web_search'"),
        ('{"web_search": "1 EUR"}', "US dollars"),
    ],
)
def test_a_tool_whose_price_is_not_known_is_never_free(text: str, said: str) -> None:
    request = {**SHORT, "tools": [{"type": "web_search"}], "max_tool_calls": 2}
    found = worst_case(request, tool_prices=ToolPrices.of_text(text))
    assert found.cost_usd is None
    assert said in str(found.unknown)


@pytest.mark.parametrize("model", ["no-such-model", "", None, "ada"])
def test_a_model_without_a_price_or_a_window_has_no_worst_case_and_never_0(model: str | None) -> None:
    found = worst_case({"model": model, "input": "x"})
    assert found.cost_usd is None
    assert found.unknown


def test_text_that_cannot_be_sent_is_no_reason_to_raise() -> None:
    assert worst_case({"model": "gpt-5.2", "input": "half of a pair \ud800", "max_output_tokens": 10}).cost_usd
