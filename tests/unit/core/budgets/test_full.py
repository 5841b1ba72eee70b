"""Why a request waits for a budget, or is not sent at all: from figures alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.admission.hold import Hold, Refusal
from airflow_provider_aihandoff.core.budgets.budget_spec import Budget, OnFull
from airflow_provider_aihandoff.core.budgets.period import Period
from airflow_provider_aihandoff.core.budgets.reserve import ASKS_AGAIN, STATE_A_PRICE, _full, _unpriced
from airflow_provider_aihandoff.core.budgets.stripes import Stripe
from airflow_provider_aihandoff.core.generation.provider import WorstCase

AT = datetime(2026, 2, 2, 9, 17, tzinfo=UTC)
TONIGHT = datetime(2026, 2, 3, tzinfo=UTC)
NOTHING = Decimal(0)
BUDGET = Budget(
    budget_id=3,
    name="labels",
    conn_id=None,
    job_type="ticket",
    dag_id=None,
    requested_by=None,
    tag=None,
    amount_usd=Decimal(10),
    period=Period.DAY,
    time_zone="UTC",
    thresholds=[50],
    on_full=OnFull.HOLD,
    owner="alice",
    created_at=AT,
    ended_at=None,
)


def full(need: str, used: str = "0", beyond: str = "0", ahead: str = "0", **changes: Any) -> Hold | Refusal | None:
    """What a budget of 10 USD says, of two stripes."""
    ends_at = changes.pop("ends_at", TONIGHT)
    stripes = [
        Stripe(0, Decimal(4), NOTHING, NOTHING, Decimal(beyond)),
        Stripe(1, Decimal(6), Decimal(used), NOTHING, NOTHING),
    ]
    waiting = {"jobs": int(Decimal(ahead) > 0), "need": Decimal(ahead)}
    window = {"amount": Decimal(10), "ends_at": ends_at}
    return _full(replace(BUDGET, **changes), Decimal(need), stripes, window, waiting, AT)


@pytest.mark.parametrize(
    ("need", "used", "ahead"), [("10", "0", "0"), ("4", "6", "0"), ("3", "6", "1"), ("0", "6", "4")]
)
def test_what_has_room_is_not_kept_to_the_last_cent(need: str, used: str, ahead: str) -> None:
    assert full(need, used, ahead=ahead) is None


@pytest.mark.parametrize(
    ("need", "used", "beyond", "ahead"),
    [("4.01", "6", "0", "0"), ("3.01", "6", "0", "1"), ("3.01", "6", "1", "0"), ("0.01", "6", "9", "0")],
)
def test_what_has_none_waits_with_all_that_goes_before_it(need: str, used: str, beyond: str, ahead: str) -> None:
    held = full(need, used, beyond, ahead)
    assert isinstance(held, Hold)
    assert (held.kind, held.name) == ("budget", "3")
    assert ("1 wait before it" in held.why) is (ahead != "0")


def test_it_says_when_it_is_sent_and_who_can_raise_the_budget() -> None:
    held = full("5", "6")
    assert isinstance(held, Hold)
    assert held.why == (
        "This request can cost up to 5.00 USD, and the budget 'labels' (type ticket) has 4.00 USD of 10.00 USD left "
        "until 2026-02-03 00:00 UTC. It is sent when there is room, at the latest at 2026-02-03 00:00 UTC. alice can "
        "raise it."
    )


def test_what_was_spent_beyond_the_amount_is_not_shown_as_less_than_nothing() -> None:
    held = full("1", "6", beyond="9")
    assert isinstance(held, Hold)
    assert "has 0.00 USD of 10.00 USD left" in held.why


def test_it_asks_again_at_the_end_of_the_period_at_the_latest() -> None:
    soon = AT + timedelta(minutes=1)
    for ends_at, asks in ((TONIGHT, AT + ASKS_AGAIN), (soon, soon), (None, AT + ASKS_AGAIN)):
        held = full("5", "6", ends_at=ends_at)
        assert isinstance(held, Hold)
        assert held.until == asks


def test_a_budget_in_total_has_no_end_to_wait_for() -> None:
    held = full("5", "6", period=Period.TOTAL, ends_at=None)
    assert isinstance(held, Hold)
    assert "until" not in held.why
    assert "when there is room, or the budget is raised" in held.why


def test_where_the_owner_wants_it_a_request_without_room_fails() -> None:
    refusal = full("5", "6", on_full=OnFull.FAIL)
    assert isinstance(refusal, Refusal)
    assert (refusal.kind, refusal.remedy) == ("over budget", "alice can raise the budget; then clear the task.")


@pytest.mark.parametrize("on_full", [OnFull.HOLD, OnFull.FAIL])
def test_what_could_never_be_sent_does_not_wait(on_full: OnFull) -> None:
    refusal = full("10.01", on_full=on_full)
    assert isinstance(refusal, Refusal)
    assert "can cost up to 10.01 USD" in refusal.why
    assert "has 10.00 USD a day (UTC): it could never be sent" in refusal.why


@pytest.mark.parametrize(
    ("unknown", "said"), [("no price of the tool is known", "no price of the tool is known"), (None, "no one has said")]
)
def test_a_request_without_a_price_says_why_and_what_to_state(unknown: str | None, said: str) -> None:
    refusal = _unpriced(BUDGET, WorstCase(unknown=unknown))
    assert refusal.remedy == STATE_A_PRICE
    assert f"is not known ({said}), and the budget 'labels' (type ticket) is about it" in refusal.why
