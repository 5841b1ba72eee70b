from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.backoff import backoff, jittered, retry_after_seconds


@given(st.integers(min_value=1, max_value=10**9))
def test_a_wait_is_never_nothing_never_above_the_cap_and_grows(failures: int) -> None:
    ceiling = min(20.0, 1.0 * 2 ** min(failures - 1, 30))
    assert ceiling / 2 <= backoff(failures, base=1.0, cap=20.0) <= ceiling


def test_many_that_failed_together_do_not_come_back_together() -> None:
    assert len({backoff(3, base=1.0, cap=20.0) for _ in range(50)}) > 40


@given(st.floats(min_value=0.01, max_value=3600))
def test_an_interval_of_polling_is_at_most_a_fifth_off(interval: float) -> None:
    assert 0.799 * interval <= jittered(interval) <= 1.201 * interval


class TestRetryAfter:
    @pytest.mark.parametrize(("header", "seconds"), [("0", 0.0), ("7", 7.0), (" 120 ", 120.0), ("0.5", 0.5)])
    def test_a_number_is_seconds(self, header: str, seconds: float) -> None:
        assert retry_after_seconds(header) == seconds

    def test_a_date_is_the_time_until_then_and_nothing_once_it_has_passed(self) -> None:
        soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
        assert 55 <= (retry_after_seconds(soon) or 0) <= 60
        assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0

    @pytest.mark.parametrize(
        "header", [None, "", "soon", "-5", "1e3", "nan", "inf", "Infinity", "-0.5", ".", "5.", "٣", "9" * 400]
    )
    def test_anything_else_names_no_time(self, header: str | None) -> None:
        assert retry_after_seconds(header) is None
