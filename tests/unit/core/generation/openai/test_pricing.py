from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.generation.openai.pricing import price
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.states import ResponseStatus

#: A million tokens in, a million out: the price list reads off in dollars.
USAGE = {
    "input_tokens": 1_000_000,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 1_000_000,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 2_000_000,
}


def price_of(model: Any = "gpt-5.2", usage: Any = USAGE, tier: str | None = None, **request: Any) -> Decimal | None:
    response = ModelResponse("resp_1", ResponseStatus.COMPLETED, model=model, usage=usage, service_tier=tier)
    return price(response, request)


def test_a_known_model_has_the_price_that_openai_publishes() -> None:
    assert price_of() == Decimal("15.75")


def test_a_dated_model_has_the_price_of_its_name() -> None:
    assert price_of("gpt-5.2-2025-12-11") == price_of()


def test_cached_tokens_cost_a_tenth() -> None:
    cached = {**USAGE, "output_tokens": 0, "input_tokens_details": {"cached_tokens": 1_000_000}}
    assert price_of(usage=cached) == Decimal("0.175")


@pytest.mark.parametrize("model", ["nope-1", "", None])
def test_the_price_of_an_unknown_model_is_unknown_and_never_0(model: Any) -> None:
    assert price_of(model) is None


def test_the_price_of_a_response_without_usage_is_unknown_and_never_0() -> None:
    assert price_of(usage=None) is None


@pytest.mark.parametrize("usage", [{}, {"input_tokens": "many"}, {"input_tokens": None}])
def test_a_bill_that_cannot_be_read_is_no_error(usage: Any) -> None:
    assert price_of(usage=usage) is None


def test_a_bill_of_nothing_costs_nothing() -> None:
    nothing = {**USAGE, "input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    assert price_of(usage=nothing) == 0


@pytest.mark.parametrize(("tier", "factor"), [("default", 1), ("flex", Decimal("0.5")), ("priority", 2)])
def test_the_service_tier_that_the_response_names_decides(tier: str, factor: Decimal) -> None:
    assert price_of(tier=tier) == Decimal("15.75") * factor


@pytest.mark.parametrize(("window", "factor"), [("2h", "0.70"), ("8h", "0.60"), ("24h", "1"), (None, "1")])
def test_a_completion_window_lowers_the_price(window: str | None, factor: str) -> None:
    assert price_of(background_options={"completion_window": window}) == Decimal("15.75") * Decimal(factor)


def test_no_background_options_are_the_standard_price() -> None:
    assert price_of(background_options=None) == price_of()
