"""How moments are put to people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_aihandoff.core.moments import both, lasting, moment, relative

NOW = datetime(2026, 7, 20, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "just now"),
        (-59, "just now"),
        (59, "in a moment"),
        (-60, "1 min ago"),
        (-119, "1 min ago"),
        (-3 * 60, "3 min ago"),
        (60 * 60, "in 60 min"),
        (36 * 3600, "in 36 h"),
        (-49 * 3600, "2 days ago"),
    ],
)
def test_times_are_relative(seconds: int, said: str) -> None:
    assert relative(NOW + timedelta(seconds=seconds), NOW) == said


def test_a_moment_in_full_is_in_utc() -> None:
    there = NOW.astimezone(tz=None)
    assert moment(there) == "2026-07-20 12:00:00 UTC"
    assert both(there, NOW + timedelta(minutes=5)) == "2026-07-20 12:00 UTC (5 min ago)"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (0.4, "0 s"), (119, "119 s"), (1500, "25 min"), (7200, "2 h"), (500_000, "6 days")],
)
def test_a_span_is_said_in_one_unit(seconds: float, said: str) -> None:
    assert lasting(timedelta(seconds=seconds)) == said
