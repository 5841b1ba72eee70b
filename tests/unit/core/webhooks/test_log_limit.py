"""What keeps happening fills no log."""

from __future__ import annotations

import logging

import pytest

from airflow_provider_aihandoff.core.webhooks.log_limit import INTERVAL, Tally


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_first_line_of_a_kind_is_written_at_once_and_the_others_are_counted(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    tally = Tally(clock)
    for _ in range(1000):
        tally.note("a", logging.WARNING, "it happened")
    tally.note("b", logging.ERROR, "another")
    assert [record.getMessage() for record in caplog.records] == ["it happened", "another"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    clock.now += INTERVAL
    tally.note("a", logging.WARNING, "it happened")
    assert caplog.messages[2:] == ["it happened (999 more times since the last such line)"]


def test_a_kind_of_line_is_written_once_a_minute_at_most(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally(clock)
    for _ in range(600):
        tally.note("a", logging.WARNING, "it happened")
        clock.now += 1
    assert len(caplog.messages) == 600 / INTERVAL


def test_the_counts_are_written_when_anything_else_happens(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally(clock)
    tally.note("a", logging.WARNING, "it happened")
    tally.note("a", logging.WARNING, "it happened")
    clock.now += INTERVAL
    tally.flush()
    tally.flush()
    assert caplog.messages[1:] == ["it happened (1 more times since the last such line)"]


def test_after_a_quiet_minute_a_kind_is_new_again(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally(clock)
    tally.note("a", logging.WARNING, "it happened")
    clock.now += INTERVAL
    tally.flush()
    assert tally._kinds == {}
    tally.note("a", logging.WARNING, "it happened")
    assert caplog.messages == ["it happened", "it happened"]
