"""Moments as people say them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def relative(at: datetime, now: datetime) -> str:
    """A moment as people say it: ``5 min ago``, ``in 3 h``."""
    seconds = (at - now).total_seconds()
    span = _span(abs(seconds))
    if span is None:
        return "just now" if seconds <= 0 else "in a moment"
    return f"in {span}" if seconds > 0 else f"{span} ago"


def _span(seconds: float) -> str | None:
    # From two of a unit on: "36 h" says more than "1 day".
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{round(seconds / size)} {unit}"
    return "1 min" if seconds >= 60 else None


def moment(at: datetime) -> str:
    """A moment in full, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def both(at: datetime, now: datetime) -> str:
    """A moment in full, and as people say it: ``2026-07-20 12:00 UTC (5 min ago)``."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC ({relative(at, now)})"


def lasting(span: timedelta) -> str:
    """A span of time as people say it: ``6 s``, ``25 min``, ``3 h``."""
    seconds = max(0.0, span.total_seconds())
    return (_span(seconds) if seconds >= 120 else None) or f"{seconds:.0f} s"
