from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_aihandoff.core.generation.life_sign import LifeSign, quiet_after

NOW = datetime(2026, 2, 2, 12, 0, tzinfo=UTC)
AFTER = timedelta(minutes=5)


def sign(working: float, silent: float) -> LifeSign:
    """One of a response that has been made for so many seconds, and was seen to run so long ago."""
    return LifeSign(7, NOW - timedelta(seconds=working), NOW - timedelta(seconds=silent), NOW)


@pytest.mark.parametrize(
    ("working", "silent", "said"),
    [
        (240, 2, "Working for 4 min, last sign 2 s ago."),
        (300, 300, "Working for 5 min, last sign 5 min ago."),
        (900, 361, "Working for 15 min, no sign for 6 min."),
    ],
)
def test_a_sign_says_how_long_ago_it_was_and_when_there_is_none(working: float, silent: float, said: str) -> None:
    assert sign(working, silent).said(AFTER) == said


def test_a_response_is_quiet_only_after_the_next_poll_must_have_been_recorded() -> None:
    usual = quiet_after(poll_interval=30, with_webhooks=300, sweep_interval=10)
    assert usual > timedelta(seconds=1.2 * 300 + 10)  # the longest interval, with its jitter, and the next sweep
    assert quiet_after(poll_interval=600, with_webhooks=300, sweep_interval=10) > timedelta(seconds=1.2 * 600 + 10)
    assert quiet_after(poll_interval=float("inf"), with_webhooks=300, sweep_interval=10) > timedelta(days=3650)
