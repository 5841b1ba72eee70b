"""When a worker asks about responses: about when they are due, and not often in vain."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from random import Random

import pytest

from airflow_provider_aihandoff.core.sets.flight import Due, Flight


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def asks(flight: Flight) -> Iterator[Due]:
    """Ask about what is due, as a worker that has nothing else to do."""
    for due in flight.due():
        if (asked := flight.asks(due)) is not None:
            yield asked


def fly(seconds: float, *, number: int = 600, every: float = 0.01, misses: float = 10.0) -> tuple[list[float], int]:
    """Send for so many, each of which takes so many seconds.

    :return: how late each answer was taken, and how many questions found none.
    """
    clock, late, missed = Clock(), list[float](), 0
    flight = Flight(clock, misses, 16)
    sends = [index * every for index in range(number)]
    while len(late) < number and clock.now < 1_000:
        clock.now += 0.05
        while sends and sends[0] <= clock.now:
            sends.pop(0)
            flight.sent(len(sends), 1)
        for each in asks(flight):
            if clock.now - each.sent_at >= seconds:
                flight.ended(each)
                late.append(clock.now - each.sent_at - seconds)
            else:
                missed += 1
                flight.runs(each)
    assert len(late) == number
    return late, missed


def test_most_questions_find_an_answer_soon_after_it_is_there() -> None:
    late, missed = fly(10.0)
    assert missed < len(late) * 0.2
    assert sorted(late)[len(late) // 2] < 1.5


def test_an_answer_that_comes_at_once_is_taken_at_once() -> None:
    late, missed = fly(0.2)
    assert missed < len(late) * 0.05
    assert max(late) < 1


def keep_flying(seconds: float, *, number: int = 3_000, at_once: int = 1_000, rate: float = 120.0) -> tuple[float, int]:
    """Keep so many in flight, each of which takes so many seconds; a question takes 0.05 s, and the worker does so many
    pieces of work a second.

    :return: seconds until all answers were taken, and how many questions found none.
    """
    clock, due, asked = Clock(), deque[tuple[float, Due]](), deque[tuple[float, Due]]()
    missed, taken, sent, free = 0, 0, 0, 0.0
    flight = Flight(clock, 10.0, 16)
    while taken < number:
        clock.now += 0.01
        while asked and asked[0][0] <= clock.now:
            each = asked.popleft()[1]
            if each.age >= seconds:
                flight.ended(each)
                taken += 1
            else:
                flight.runs(each)
                missed += 1
        while due and due[0][0] <= clock.now and len(asked) < 16:
            if (now := flight.asks(due.popleft()[1])) is not None:
                asked.append((clock.now + 0.05, now))
        free = max(free, clock.now)
        while sent - taken < at_once and sent < number and free < clock.now + 0.3:
            free += 0.5 / rate
            flight.sent(sent, 1)
            sent += 1
        if free < clock.now + 0.3:
            for each in islice(flight.due(), 16):
                free += 0.5 / rate
                due.append((free, each))
    return clock.now, missed


@pytest.mark.parametrize("seconds", [2.0, 10.0, 30.0])
def test_a_worker_that_is_busy_does_not_forget_how_long_the_model_takes(seconds: float) -> None:
    whole, missed = keep_flying(seconds)
    assert whole < 1.25 * max(3 * seconds, 3_000 / 120) + 2, "little more than three waves take"
    assert missed < 3_000 * 0.1


def test_one_that_has_not_ended_keeps_the_worker_from_asking_about_others_of_its_age() -> None:
    clock = Clock()
    flight = Flight(clock, 10.0, 16)
    for number in range(100):
        flight.sent(number, 1)
    clock.now = 0.5
    flight.ended(next(asks(flight)))
    due = list(flight.due())
    assert len(due) == 99
    first = flight.asks(due[0])
    assert first is not None
    flight.runs(first)
    assert [flight.asks(each) for each in due[1:]] == [None] * 98
    assert len(flight) == 99, "none is forgotten"
    clock.now = 0.6
    again = next(flight.due())
    assert again.job_id == due[1].job_id
    asked = flight.asks(again)
    assert asked is not None
    assert asked.age == pytest.approx(0.6)


def test_what_a_busy_worker_asks_about_late_is_as_old_as_it_is_then() -> None:
    clock = Clock()
    flight = Flight(clock, 10.0, 16)
    flight.sent(1, 1)
    clock.now = 1.0
    due = next(flight.due())
    clock.now = 3.0
    asked = flight.asks(due)
    assert asked is not None
    assert asked.age == 3.0


def test_no_more_is_asked_about_than_may_find_no_answer() -> None:
    clock = Clock()
    flight = Flight(clock, 1.0, 16)
    for number in range(100):
        flight.sent(number, 1)
    clock.now = 1.0
    flight.ended(next(asks(flight)))
    due, asked = list(flight.due()), 0
    for each in due:
        clock.now += 0.5  # each is older than what was expected of the one before
        if (now := flight.asks(each)) is not None:
            flight.runs(now)
            asked += 1
    assert asked <= 16 + 0.5 * len(due) + 1
    assert len(flight) == 99


def test_no_more_is_asked_at_once_than_may_find_no_answer() -> None:
    clock = Clock()
    flight = Flight(clock, 10.0, 16)
    for number in range(100):
        flight.sent(number, 1)
    clock.now = 1.0
    flight.ended(next(asks(flight)))
    due = list(flight.due())
    assert sum(flight.asks(each) is not None for each in due) == 16, "any of them may have not ended"
    assert len(flight) == 99 - 16


def test_one_that_is_in_hand_is_due_again_a_moment_later() -> None:
    clock = Clock()
    flight = Flight(clock, 10.0, 16)
    flight.sent(1, 1)
    clock.now = 1.0
    flight.later(next(flight.due()))
    assert not list(flight.due())
    clock.now = 2.0
    assert [each.job_id for each in flight.due()] == [1]


def test_no_more_questions_are_in_vain_than_the_fleet_may_poll() -> None:
    clock = Clock()
    flight = Flight(clock, 2.0, 16)
    for number in range(1_000):
        flight.sent(number, 1)
    asked = 0
    while clock.now < 60:
        clock.now += 0.1
        for each in asks(flight):
            asked += 1
            flight.runs(each)
    assert asked <= 16 + 2 * 60 + 1
    assert len(flight) == 1_000, "none is forgotten"


def test_the_first_answer_says_how_long_the_others_take() -> None:
    late, missed = fly(60.0, number=1_000)
    assert sum(late) / len(late) < 2
    assert missed < len(late) * 0.2


def test_where_some_take_much_longer_than_others_most_are_taken_long_before_those_would_have_ended() -> None:
    clock, late, missed, drawn = Clock(), list[float](), 0, Random(1)  # noqa: S311
    flight, takes = Flight(clock, 10.0, 16), dict[int, float]()
    while len(late) < 2_000:
        clock.now += 0.05
        while len(takes) - len(late) < 250 and len(takes) < 2_000:
            takes[len(takes)] = drawn.lognormvariate(3, 0.5)  # about 20 s
            flight.sent(len(takes) - 1, 1)
        for each in asks(flight):
            if (over := clock.now - each.sent_at - takes[each.job_id]) >= 0:
                flight.ended(each)
                late.append(over)
            else:
                missed += 1
                flight.runs(each)
    assert sum(late) / len(late) < 12
    assert missed <= 16 + 10 * clock.now + 16
