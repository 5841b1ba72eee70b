"""A budget that is not valid is refused, with the part that is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.budgets.budget_spec import (
    OnFull,
    Scope,
    Use,
    checked_spec,
    checked_why,
    usd,
)
from airflow_provider_aihandoff.core.budgets.period import Period
from airflow_provider_aihandoff.core.errors import BudgetRefused


def test_what_is_not_named_has_a_default() -> None:
    spec = checked_spec("all", "20", owner="alice")
    assert (spec.scope, spec.amount_usd, spec.period, spec.time_zone) == (Scope(), Decimal(20), Period.MONTH, "UTC")
    assert (spec.thresholds, spec.on_full) == ((50, 80, 100), OnFull.HOLD)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scope": {"country": "DE"}}, "scope"),
        ({"scope": {"tag": ""}}, "tag"),
        ({"scope": {"dag_id": "a\nb"}}, "dag_id"),
        ({"period": "year"}, "period"),
        ({"time_zone": "Europe/Atlantis"}, "time_zone"),
        ({"on_full": "explode"}, "on_full"),
        ({"thresholds": [0]}, "thresholds"),
        ({"thresholds": ["half"]}, "thresholds"),
        ({"owner": " "}, "owner"),
    ],
    ids=str,
)
def test_what_is_not_valid_is_refused_with_the_part_that_is_wrong(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(BudgetRefused) as refused:
        checked_spec("all", 20, **{"owner": "alice", **changes})
    assert refused.value.field == field


def test_a_step_without_a_reason_is_refused() -> None:
    with pytest.raises(BudgetRefused, match="say why"):
        checked_why("  ")


def test_a_scope_says_what_it_is_about() -> None:
    assert str(Scope()) == "everything"
    assert str(Scope(dag_id="nightly", tag="eu")) == "Dag nightly, tag eu"


@pytest.mark.parametrize(
    ("amount", "text"),
    [("20", "20.00 USD"), ("0.0123", "0.0123 USD"), ("1234.5", "1,234.50 USD"), ("0.00000123", "0.000001 USD")],
)
def test_an_amount_is_said_so_that_its_first_digit_is_seen(amount: str, text: str) -> None:
    assert usd(Decimal(amount)) == text


def test_the_forecast_goes_on_as_until_now() -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    use: Any = Use(start, start + timedelta(days=10), Decimal(100), Decimal(0), Decimal(20), Decimal(5), Decimal(0))
    assert use.forecast_usd(start + timedelta(days=5)) == 45
    assert use.forecast_usd(start + timedelta(hours=1)) is None
    assert (use.percent, use.room_usd) == (25, 75)
