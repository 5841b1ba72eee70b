"""How much of a limit is used, over every order of events."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.rates.bucket import SLICES, Bucket
from tests.unit.core.rates.fleet import BEGIN

sizes = st.lists(st.integers(min_value=1, max_value=40), min_size=1, max_size=60)
pauses = st.lists(st.floats(min_value=0, max_value=20), min_size=60, max_size=60)
periods = st.sampled_from([1, 60, 3600])


@given(amount=st.integers(min_value=40, max_value=400), period=periods, wanted=sizes, pauses=pauses)
def test_no_period_wherever_it_begins_has_more_than_the_amount_not_even_a_slice_late(
    amount: int, period: int, wanted: list[int], pauses: list[float]
) -> None:
    bucket, at, sent = Bucket(), BEGIN, list[tuple[float, int]]()
    for size, pause in zip(wanted * 3, pauses * 3, strict=False):
        at += pause * period / 60
        at = max(at, bucket.room_at(amount, period, size, at))
        assert bucket.room_at(amount, period, size, at) <= at
        bucket = bucket.take(amount, period, size, at)
        sent.append((at, size))
    longest = period + period / SLICES
    for end, _ in sent:
        assert sum(size for when, size in sent if end - longest < when <= end) <= amount


@pytest.mark.parametrize("amount", [1, 2, 7, 60, 1000])
def test_a_limit_that_is_always_wanted_is_used_to_95_percent(amount: int) -> None:
    bucket, at, sent = Bucket(), BEGIN, list[float]()
    while at < BEGIN + 60 * 100 and len(sent) < 20_000:
        at = bucket.room_at(amount, 60, 1, at)
        bucket = bucket.take(amount, 60, 1, at)
        sent.append(at)
    assert len(sent) / ((sent[-1] - BEGIN) / 60 * amount) >= 0.95


def test_what_is_larger_than_the_limit_and_what_is_stopped_never_goes() -> None:
    assert Bucket().room_at(10, 60, 11, BEGIN) == float("inf")
    assert Bucket().room_at(0, 60, 1, BEGIN) == float("inf")


def test_what_goes_through_is_spread_over_the_period() -> None:
    bucket, at, sent = Bucket(), BEGIN, list[float]()
    for _ in range(60):
        at = bucket.room_at(60, 60, 1, at)
        bucket = bucket.take(60, 60, 1, at)
        sent.append(at - BEGIN)
    assert sum(when < 10 for when in sent) <= 14  # 4 at once, and one a second


def test_a_clock_that_was_set_back_stops_nothing() -> None:
    bucket = Bucket()
    for at in accumulate([1.0] * 50, initial=BEGIN + 86_400):
        bucket = bucket.take(60, 60, 1, at)
    assert bucket.room_at(60, 60, 1, BEGIN) == BEGIN
    assert bucket.used(60, BEGIN) == 0


def test_how_much_is_used_is_forgotten_after_the_period() -> None:
    bucket = Bucket().take(100, 60, 30, BEGIN).take(100, 60, 20, BEGIN + 30)
    assert [bucket.used(60, BEGIN + seconds) for seconds in (30, 59, 63, 93)] == [50, 50, 20, 0]
