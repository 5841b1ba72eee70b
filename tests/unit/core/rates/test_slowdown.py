"""What the fleet makes of what the other side says about its limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.rates.slowdown import Heard, amount_now, base_after, is_news
from tests.unit.core.rates.fleet import BEGIN


def test_it_is_halved_and_grows_again_by_a_tenth_a_minute() -> None:
    amounts = [amount_now(600, 400, BEGIN, BEGIN + 60 * minutes) for minutes in (0, 1, 5, 10, 20)]
    assert amounts == [200, 240, 400, 600, 600]


def test_without_a_limit_that_was_set_it_is_forgotten_once_much_more_goes_through() -> None:
    amounts = [amount_now(None, 100, BEGIN, BEGIN + 60 * minutes) for minutes in (0, 10, 34, 36)]
    assert amounts == [50, 150, 390, None]


@given(
    amount=st.none() | st.integers(min_value=0, max_value=10_000),
    base=st.integers(min_value=1, max_value=10_000),
    minutes=st.floats(min_value=0, max_value=100),
)
def test_it_is_never_more_than_what_was_set_and_never_nothing(amount: int | None, base: int, minutes: float) -> None:
    now = amount_now(amount, base, BEGIN, BEGIN + 60 * minutes)
    if amount is not None:
        assert now is not None
        assert now <= amount
    assert now is None or now >= 1 or amount == 0


def test_what_was_refused_together_counts_once_in_a_period() -> None:
    assert is_news(BEGIN, None, 60)
    assert not is_news(BEGIN + 59, BEGIN, 60)
    assert is_news(BEGIN + 61, BEGIN, 60)


def test_what_is_halved_is_what_went_through_and_at_most_what_is_stated() -> None:
    assert base_after(None, sent=300, period=60, stated=None) == 300
    assert base_after(None, sent=3, period=60, stated=None) == 60  # nothing was learned from so few
    assert base_after(200, sent=300, period=60, stated=None) == 200
    assert base_after(None, sent=300, period=60, stated=120) == 120


def test_a_pause_that_did_not_help_is_made_as_long_again() -> None:
    heard = Heard(too_much=True, wait=2.0)
    assert [heard.pause(seconds) for seconds in (0.0, 2.0, 4.0, 8.0, 900.0)] == [2.0, 2.0, 4.0, 8.0, 60.0]
    assert Heard(too_much=True).pause() == 1.0
    assert Heard(wait=1e9).pause() == 3600.0
    assert Heard(requests=10).pause() == 0.0
