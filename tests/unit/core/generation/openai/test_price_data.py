"""Price data older or newer than a model, or than that of another process: never free, and said where unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import data_snapshot

from airflow_provider_aihandoff.core.generation.openai.pricing import price
from airflow_provider_aihandoff.core.generation.openai.worst_case import worst_case
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.states import ResponseStatus

REQUEST: dict[str, Any] = {"model": "gpt-5.2", "input": "Write about the kettle.", "max_output_tokens": 1000}
USED = ModelResponse(
    "resp_1",
    ResponseStatus.COMPLETED,
    usage={"input_tokens": 100, "output_tokens": 1000, "total_tokens": 1100},
    model="gpt-5.2-2025-12-11",
)

Use = Callable[[Callable[[list[Any]], None]], None]


@pytest.fixture
def use() -> Iterator[Use]:
    """Let the price data of OpenAI's models be changed, as another release of the package has it."""

    def changed(change: Callable[[list[Any]], None]) -> None:
        providers = deepcopy(data_snapshot.get_snapshot().providers)
        (openai,) = (provider for provider in providers if provider.id == "openai")
        change(openai.models)
        data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot(providers=providers, from_auto_update=False))

    yield changed
    data_snapshot.set_custom_snapshot(None)


def forget(models: list[Any]) -> None:
    models[:] = [model for model in models if not model.id.startswith("gpt-5.2")]


def double(models: list[Any]) -> None:
    for model in models:
        if model.id == "gpt-5.2":
            model.prices.input_mtok *= 2
            model.prices.output_mtok *= 2


def test_data_that_is_older_than_the_model_knows_no_price_and_says_so(use: Use) -> None:
    use(forget)
    found = worst_case(REQUEST)
    assert (found.cost_usd, found.unknown) == (None, "the model 'gpt-5.2' has no published price")
    assert price(USED, REQUEST) is None


def test_data_with_higher_prices_counts_them_from_then_on(use: Use) -> None:
    before = worst_case(REQUEST).cost_usd, price(USED, REQUEST)
    use(double)
    after = worst_case(REQUEST).cost_usd, price(USED, REQUEST)
    assert before[0] is not None
    assert before[1] is not None
    assert after == (2 * before[0], 2 * before[1])


def test_a_response_can_cost_more_than_was_reserved_only_by_what_the_price_has_risen(use: Use) -> None:
    reserved = worst_case(REQUEST).cost_usd
    use(double)
    cost = price(USED, REQUEST)
    assert reserved is not None
    assert cost is not None
    assert Decimal(0) < cost - reserved < reserved
