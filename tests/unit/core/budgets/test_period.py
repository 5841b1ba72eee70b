"""Each moment belongs to one period, whatever the clocks of its time zone do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.budgets.period import BEGINNING, Period, Span, span_at, zone

#: Some of them change their clocks at midnight, by half an hour, or have left out a whole day.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Asia/Kolkata",
    "America/St_Johns",
    "America/Havana",
]
MOMENTS = st.datetimes(datetime(1975, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(at=MOMENTS, period=st.sampled_from(Period), name=st.sampled_from(ZONES))
def test_a_moment_is_in_its_period_and_the_next_one_begins_where_it_ends(
    at: datetime, period: Period, name: str
) -> None:
    span = span_at(period, name, at)
    assert span.has(at)
    if span.ends_at is None:
        assert (period, span) == (Period.TOTAL, Span(BEGINNING, None))
        return
    assert span_at(period, name, span.ends_at).starts_at == span.ends_at
    assert span_at(period, name, span.ends_at - timedelta(microseconds=1)) == span
    assert span_at(period, name, span.starts_at) == span


@pytest.mark.parametrize(
    ("at", "hours"),
    [
        (datetime(2026, 3, 29, 12, tzinfo=UTC), 23),
        (datetime(2026, 10, 25, 12, tzinfo=UTC), 25),
        (datetime(2026, 7, 1, 12, tzinfo=UTC), 24),
    ],
)
def test_a_day_in_berlin_has_as_many_hours_as_its_clocks(at: datetime, hours: int) -> None:
    span = span_at(Period.DAY, "Europe/Berlin", at)
    assert span.ends_at is not None
    assert span.ends_at - span.starts_at == timedelta(hours=hours)
    assert span.starts_at.astimezone(ZoneInfo("Europe/Berlin")).hour == 0


def test_a_day_that_has_no_midnight_begins_with_its_first_moment() -> None:
    span = span_at(Period.DAY, "America/Sao_Paulo", datetime(2018, 11, 4, 12, tzinfo=UTC))
    assert span.starts_at == datetime(2018, 11, 4, 3, tzinfo=UTC)  # 01:00 there: the hour before does not exist


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    at = datetime(2026, 11, 29, 23, 30, tzinfo=UTC)  # Sunday in UTC, Monday in Berlin
    assert span_at(Period.WEEK, "UTC", at) == Span(
        datetime(2026, 11, 23, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC)
    )
    assert span_at(Period.WEEK, "Europe/Berlin", at).starts_at == datetime(2026, 11, 29, 23, tzinfo=UTC)
    assert span_at(Period.MONTH, "UTC", at).ends_at == datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", ["Europe/Atlantis", "", "../etc/passwd", "/etc/localtime", "a" * 300, "\x00"])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        zone(name)
