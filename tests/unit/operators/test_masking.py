from __future__ import annotations

import pytest
from airflow.sdk.log import mask_secret

from airflow_provider_aihandoff.operators.masking import MASK, masked


@pytest.mark.parametrize(
    "name", ["Authorization", "proxy-authorization", "Cookie", "X-Api-Key", "api_key", "client_secret", "access_token"]
)
def test_the_value_of_a_secret_name_is_masked_at_any_depth(name: str) -> None:
    assert masked({"tools": [{"headers": {name: "value"}}]}) == {"tools": [{"headers": {name: MASK}}]}


@pytest.mark.parametrize("name", ["max_output_tokens", "prompt_cache_key", "Idempotency-Key", "title"])
def test_other_names_keep_their_value(name: str) -> None:
    assert masked({name: "value"}) == {name: "value"}


def test_a_text_that_airflow_knows_as_a_secret_is_masked_wherever_it_stands() -> None:
    mask_secret("correct horse battery staple")
    assert masked({"body": "say: correct horse battery staple!"}) == {"body": f"say: {MASK}!"}


def test_the_value_itself_is_left_alone() -> None:
    plan = {"headers": {"Authorization": "value"}, "count": 3, "flag": None}
    masked(plan)
    assert plan == {"headers": {"Authorization": "value"}, "count": 3, "flag": None}
