"""What a set adds up to."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from airflow_provider_aihandoff.core.sets.crew import Crew
from airflow_provider_aihandoff.core.sets.set_record import (
    NAMED,
    JobSet,
    LeftOut,
    LeftOutItem,
    LeftOutReason,
    SetPhase,
    SetTotals,
    SetWrites,
)
from airflow_provider_aihandoff.core.sets.transport import Transport
from airflow_provider_aihandoff.core.states import JobState

AT = datetime(2026, 11, 29, 2, tzinfo=UTC)
TOTALS = SetTotals({}, 0, 0, 0, {}, Decimal(0), 0, 0, None, None)
SET = JobSet(
    7,
    "ticket",
    "nightly",
    "alice",
    "triage",
    "run",
    "label",
    -1,
    AT,
    10,
    {},
    AT,
    AT,
    None,
    Transport.BACKGROUND,
    None,
    None,
)


def totals(**states: int) -> SetTotals:
    return replace(TOTALS, states={JobState(state): number for state, number in states.items()})


def test_a_set_is_said_in_one_line() -> None:
    written = replace(totals(completed=9915, rejected=61, applying=30), written=9912, unknown=27)
    assert written.in_words() == "9,912 applied, 3 completed, 61 rejected, 27 unknown, 3 applying"
    assert totals(queued=1, running=2, review=3, failed=4).in_words(5) == (
        "1 queued, 2 running, 3 in review, 4 failed, 5 left out"
    )
    assert TOTALS.in_words() == "no job"


@pytest.mark.parametrize(
    ("states", "phase"),
    [
        ({"running": 1, "review": 5, "completed": 1}, SetPhase.DRAFTING),
        ({"review": 1, "approved": 5}, SetPhase.DECIDING),
        ({"applying": 1, "completed": 5}, SetPhase.WRITING),
        ({"completed": 5, "failed": 1, "rejected": 1}, SetPhase.ENDED),
    ],
)
def test_its_phase_is_what_it_waits_for_first(states: dict[str, int], phase: SetPhase) -> None:
    assert totals(**states).phase(SET) is phase
    assert totals(**states).phase(replace(SET, items=None)) is SetPhase.OPENING


def test_its_rate_is_that_of_the_responses_that_have_ended() -> None:
    assert TOTALS.per_minute is None
    measured = replace(TOTALS, drafted=90, first_sent=AT, newest_output=AT + timedelta(minutes=3))
    assert measured.per_minute == 30


def test_all_items_that_are_left_out_are_counted_and_the_first_are_named() -> None:
    left_out = LeftOut()
    for number in range(1, NAMED + 11):
        left_out.add(LeftOutItem(number, LeftOutReason.DUPLICATE, "its key is taken"))
    left_out.add(LeftOutItem(200, LeftOutReason.REFUSED, "it was cancelled"))
    kept = LeftOut.from_json(left_out.as_json())
    assert (kept.number, kept.counts) == (NAMED + 11, {"duplicate": NAMED + 10, "refused": 1})
    assert [each.number for each in kept.first] == list(range(1, NAMED + 1))


def test_a_crew_works_on_no_more_than_its_number_at_once_and_says_each_result() -> None:
    at_once, most, lock, done = 0, 0, threading.Lock(), list[int]()
    free = threading.Semaphore(0)

    def work(number: int) -> int:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        free.release()
        with lock:
            at_once -= 1
        return number

    with Crew(3, done.append) as crew:
        for number in range(50):
            crew.give(work, number)
    assert sorted(done) == list(range(50))
    assert most <= 3


def test_the_error_of_one_piece_of_work_ends_the_others_that_have_not_begun() -> None:
    done = list[int]()

    def work(number: int) -> int:
        if number == 3:
            raise RuntimeError("the ledger is gone")
        return number

    def work_on_all() -> None:
        with Crew(1, done.append) as crew:
            for number in range(1000):
                crew.give(work, number)

    with pytest.raises(RuntimeError, match="the ledger is gone"):
        work_on_all()
    assert len(done) < 10


def test_what_is_left_follows_from_the_rate_and_the_cost_so_far() -> None:
    sent, newest = AT, AT + timedelta(minutes=10)
    drafting = replace(
        totals(queued=10, running=20, review=60),
        drafted=60,
        cost_usd=Decimal("0.60"),
        first_sent=sent,
        newest_output=newest,
    )
    assert (drafting.per_minute, drafting.minutes_to_answers) == (6.0, 5.0)
    assert drafting.expected_usd == Decimal("0.90")
    drafted = replace(drafting, states={JobState.REVIEW: 90})
    assert (drafted.minutes_to_answers, drafted.expected_usd) == (None, Decimal("0.60"))
    assert (TOTALS.minutes_to_answers, TOTALS.expected_usd) == (None, None)


@pytest.mark.parametrize(
    ("writes", "minutes"),
    [
        (SetWrites(60, 30, AT, AT + timedelta(minutes=2)), 1.0),
        (SetWrites(60, 0, AT, AT + timedelta(minutes=2)), None),
        (SetWrites(0, 30, AT, None), None),
        (SetWrites(0, 30, None, None), None),
    ],
)
def test_the_time_left_for_writes_follows_from_their_rate(writes: SetWrites, minutes: float | None) -> None:
    assert writes.minutes_left == minutes
