"""Numbers and amounts of money as people read and write them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.amounts import checked_amount, count, dollars
from airflow_provider_aihandoff.core.errors import BudgetRefused


def test_dollars_never_round_something_to_nothing() -> None:
    assert dollars(Decimal("0.000000001")) != dollars(Decimal(0))


@pytest.mark.parametrize(("number", "said"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs")])
def test_a_noun_agrees_with_its_number(number: int, said: str) -> None:
    assert count(number, "job") == said


@pytest.mark.parametrize("amount", ["20", "20.00", " 20 USD", "$20", "20usd", 20, Decimal(20), 20.0])
def test_an_amount_is_us_dollars(amount: Any) -> None:
    assert checked_amount(amount) == 20


@pytest.mark.parametrize(
    ("amount", "why"),
    [
        ("0", "above 0"),
        ("-1", "above 0"),
        ("20 EUR", "kept in US dollars"),
        ("€20", "kept in US dollars"),
        ("GBP", "kept in US dollars"),
        ("a lot", "no amount"),
        ("NaN", "no amount|US dollars"),
        ("Infinity", "no amount|US dollars"),
        ("", "no amount"),
        (True, "no amount"),
        ("1e12", "at most"),
    ],
)
def test_what_is_no_amount_is_refused(amount: Any, why: str) -> None:
    with pytest.raises(BudgetRefused, match=why) as refused:
        checked_amount(amount)
    assert refused.value.field == "amount_usd"
