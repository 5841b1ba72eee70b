"""Checks of a page end in time, whatever hangs; one that hangs is not started again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from airflow_provider_aihandoff.doctor.bounded import run_bounded
from airflow_provider_aihandoff.doctor.examine import Check
from airflow_provider_aihandoff.doctor.finding import Finding, Level


def fine(subject: str) -> Check:
    return Check(subject, lambda: [Finding(Level.OK, subject, "It is fine.")])


@pytest.fixture
def hanging() -> Iterator[tuple[Check, list[str]]]:
    """A check that hangs until the test has ended, and the threads that it was started in."""
    go_on, started = threading.Event(), []

    def hang() -> Iterator[Finding]:
        started.append(threading.current_thread().name)
        go_on.wait(30)
        yield Finding(Level.OK, "ledger", "It is fine.")

    yield Check("ledger", hang), started
    go_on.set()
    for thread in threading.enumerate():
        if thread.name in started:
            thread.join(10)


def test_a_check_that_hangs_is_a_finding_and_the_others_have_theirs(hanging: tuple[Check, list[str]]) -> None:
    began = time.monotonic()
    first, second, third = run_bounded([fine("a"), hanging[0], fine("b")], seconds=0.3)
    assert time.monotonic() - began < 5
    assert [first.subject, third.subject] == ["a", "b"]
    assert (second.level, second.subject, bool(second.why and second.fix)) == (Level.ERROR, "ledger", True)
    assert "did not end within 0.3 s" in second.what


def test_a_check_that_hangs_is_not_started_again_and_its_result_is_not_lost(hanging: tuple[Check, list[str]]) -> None:
    check, started = hanging
    for _ in range(5):
        (found,) = run_bounded([check], seconds=0.05)
        assert found.level is Level.ERROR
    assert len(started) == 1


def test_who_asks_at_the_same_time_gets_the_same_findings() -> None:
    runs, all_asked = [], threading.Event()

    def run() -> list[Finding]:
        runs.append(1)
        all_asked.wait(10)
        return [Finding(Level.OK, "slow", "It is fine.")]

    found: list[list[Finding]] = []
    askers = [threading.Thread(target=lambda: found.append(run_bounded([Check("slow", run)]))) for _ in range(3)]
    for asker in askers:
        asker.start()
    time.sleep(0.3)
    all_asked.set()
    for asker in askers:
        asker.join(10)
    assert [each.what for (each,) in found] == ["It is fine."] * 3
    assert len(runs) == 1
    run_bounded([Check("slow", run)])
    assert len(runs) == 2


def _failing() -> Iterator[Finding]:
    yield Finding(Level.OK, "a", "The first half.")
    raise RuntimeError("the password is hunter-2")


@pytest.mark.parametrize("run", [run_bounded])
def test_a_check_that_fails_is_a_finding_without_what_its_error_says(run: Callable[..., list[Finding]]) -> None:
    first, second = run([Check("a", _failing)])
    assert first.what == "The first half."
    assert (second.level, second.what) == (Level.ERROR, "The check itself failed: RuntimeError.")
