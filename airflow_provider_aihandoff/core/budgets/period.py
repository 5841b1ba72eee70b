"""The periods of budgets: which one a moment belongs to, in a time zone. Pure.

A day, a week and a month begin at midnight of their time zone. So a day in which its clocks change has 23 or 25 hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

#: When the one period of a budget without periods begins: before every moment of a ledger.
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class Period(StrEnum):
    """After what time a budget begins again."""

    HOUR = "hour"  # a whole hour of UTC, in every time zone
    DAY = "day"
    WEEK = "week"  # from Monday
    MONTH = "month"
    TOTAL = "total"  # never


@dataclass(frozen=True)
class Span:
    """One period: from a moment until before another one, both in UTC.

    :param ends_at: None: it does not end.
    """

    starts_at: datetime
    ends_at: datetime | None

    def has(self, at: datetime) -> bool:
        """Whether a moment belongs to it."""
        return self.starts_at <= at and (self.ends_at is None or at < self.ends_at)


def zone(name: str) -> ZoneInfo:
    """The time zone with a name of the IANA database, such as ``Europe/Berlin``.

    :raises ValueError: there is none.
    """
    try:
        return ZoneInfo(name)
    except (ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError
        raise ValueError(f"{name!r} is no time zone.") from None
    except KeyError:
        raise ValueError(f"{name!r} is no time zone of the IANA database; one is Europe/Berlin.") from None


def span_at(period: Period, time_zone: str, at: datetime) -> Span:
    """The period that a moment belongs to.

    Each moment belongs to exactly one, also where midnight does not exist, or comes twice: then the first one counts.

    :raises ValueError: there is no such time zone.
    """
    if period is Period.TOTAL:
        return Span(BEGINNING, None)
    if period is Period.HOUR:
        start = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        return Span(start, start + timedelta(hours=1))
    place = zone(time_zone)
    first = _first_day(period, at.astimezone(place).date())
    # A clock that is put back over midnight has the same date twice: the neighbours are tried too.
    for day in (_before(period, first), first, _after(period, first)):
        span = Span(_midnight(day, place), _midnight(_after(period, day), place))
        if span.has(at):
            return span
    raise AssertionError("midnights follow each other")


def _midnight(day: date, place: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), place).astimezone(UTC)


def _first_day(period: Period, day: date) -> date:
    if period is Period.WEEK:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if period is Period.MONTH else day


def _after(period: Period, first: date) -> date:
    """The first day of the next period."""
    match period:
        case Period.WEEK:
            return first + timedelta(days=7)
        case Period.MONTH:
            return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=1)


def _before(period: Period, first: date) -> date:
    """The first day of the period before."""
    return _first_day(period, first - timedelta(days=1))
