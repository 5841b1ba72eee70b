from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.backoff import backoff, jittered


@given(st.integers(min_value=1, max_value=10**9))
def test_a_wait_is_never_nothing_never_above_the_cap_and_grows(failures: int) -> None:
    ceiling = min(20.0, 1.0 * 2 ** min(failures - 1, 30))
    assert ceiling / 2 <= backoff(failures, base=1.0, cap=20.0) <= ceiling


def test_many_that_failed_together_do_not_come_back_together() -> None:
    assert len({backoff(3, base=1.0, cap=20.0) for _ in range(50)}) > 40


@given(st.floats(min_value=0.01, max_value=3600))
def test_an_interval_of_polling_is_at_most_a_fifth_off(interval: float) -> None:
    assert 0.799 * interval <= jittered(interval) <= 1.201 * interval
