"""How often OpenAI may be asked, over every order of events."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.generation.pace import TokenBucket, WebhookWatch

#: Of the clock, and of what floating point leaves of a sum of intervals.
CLOSE = 1e-6

rates = st.floats(min_value=0.01, max_value=1000)
bursts = st.integers(min_value=1, max_value=20)
pauses = st.lists(st.floats(min_value=0, max_value=20), min_size=1, max_size=60)


def uses(bucket: TokenBucket, times: list[float]) -> list[float]:
    """When the tokens may be used that are taken at these times."""
    return [at + bucket.take(at) for at in times]


class TestTokenBucket:
    @given(rates, bursts, pauses)
    def test_no_window_has_more_than_the_burst_and_the_rate(
        self, rate: float, burst: int, between: list[float]
    ) -> None:
        times = uses(TokenBucket(rate, burst), list(accumulate(between)))
        for first in range(len(times)):
            for last in range(first, len(times)):
                assert last - first + 1 <= burst + rate * (times[last] - times[first] + CLOSE) + CLOSE

    @given(rates, bursts, pauses)
    def test_no_caller_waits_without_need(self, rate: float, burst: int, between: list[float]) -> None:
        taken = list(accumulate(between))
        times = uses(TokenBucket(rate, burst), taken)
        for number, (at, use) in enumerate(zip(taken, times, strict=True)):
            if use > at:  # then some window that ends here is full, or would be if it were used sooner
                fullest = max(number - first + 1 - rate * (use - times[first]) for first in range(number + 1))
                assert fullest == pytest.approx(burst, abs=1e-3)

    @given(rates, bursts, pauses)
    def test_tokens_are_used_in_the_order_in_which_they_are_taken(
        self, rate: float, burst: int, between: list[float]
    ) -> None:
        times = uses(TokenBucket(rate, burst), list(accumulate(between)))
        assert all(before <= after + CLOSE for before, after in pairwise(times))

    def test_tokens_that_were_not_used_for_long_are_not_more_than_the_burst(self) -> None:
        bucket = TokenBucket(10, 3)
        bucket.take(0)
        assert [bucket.take(1000) for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.2])

    def test_the_first_token_comes_at_once_by_any_clock(self) -> None:
        assert TokenBucket(0.1, 1).take(-5) == 0
        assert TokenBucket(0.1, 1).take(1e9) == 0

    @pytest.mark.parametrize("rate", [0, -1, float("nan")])
    def test_a_rate_that_would_never_let_anything_through_is_refused(self, rate: float) -> None:
        with pytest.raises(ValueError, match="rate must be above 0"):
            TokenBucket(rate, 8)


ages = st.dictionaries(st.sampled_from("abc"), st.floats(min_value=0, max_value=300), max_size=3)


class TestWebhookWatch:
    @given(st.lists(ages, max_size=20))
    def test_webhooks_arrive_where_the_newest_one_is_younger_than_the_silence(
        self, updates: list[dict[str, float]]
    ) -> None:
        watch = WebhookWatch(120)
        assert watch.arriving == frozenset()
        for since in updates:
            watch.update(since)
            assert watch.arriving == {conn_id for conn_id, seconds in since.items() if seconds < 120}

    @given(st.lists(ages, max_size=20))
    def test_each_change_of_silence_is_reported_once(self, updates: list[dict[str, float]]) -> None:
        watch = WebhookWatch(120)
        for since in updates:
            before = watch.arriving
            begun, silent = watch.update(since)
            assert begun == watch.arriving - before
            assert silent == before - watch.arriving
            assert watch.update(since) == (frozenset(), frozenset())

    def test_the_silence_of_one_connection_says_nothing_about_another(self) -> None:
        watch = WebhookWatch(120)
        watch.update({"a": 1, "b": 1})
        assert watch.update({"a": 119.9, "b": 120}) == (frozenset(), frozenset({"b"}))
