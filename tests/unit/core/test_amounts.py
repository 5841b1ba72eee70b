"""Numbers and amounts of money as people read them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from airflow_provider_aihandoff.core.amounts import count, dollars


def test_dollars_never_round_something_to_nothing() -> None:
    assert dollars(Decimal("0.000000001")) != dollars(Decimal(0))


@pytest.mark.parametrize(("number", "said"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs")])
def test_a_noun_agrees_with_its_number(number: int, said: str) -> None:
    assert count(number, "job") == said
