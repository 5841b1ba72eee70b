"""Who goes next: people before batches, flows by their weights, and no one waits for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.rates.bucket import Bucket
from airflow_provider_aihandoff.core.rates.fair_order import (
    ASK_AGAIN_STOPPED,
    IN_A_ROW,
    Queue,
    place,
    row_after,
    to_wake,
    virtual_after,
    wait_for_room,
    wait_for_slot,
)
from airflow_provider_aihandoff.core.rates.rate_limit import Priority
from tests.unit.core.rates.fleet import BEGIN, tag_of

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH


class Line:
    """All that wait for one limit, and the order in which they go."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, int, Priority, str]] = []
        self.weights: dict[str, float] = {}
        self.virtual = {INTERACTIVE: 0.0, BATCH: 0.0}
        self.in_a_row = 0
        self._number = 0

    def come(self, priority: Priority, flow: str, weight: float = 1.0) -> None:
        newest = max((tag for tag, _, p, f in self.waiting if (p, f) == (priority, flow)), default=None)
        self._number += 1
        self.weights[flow] = weight
        self.waiting.append((tag_of(self.virtual[priority], newest, 1, weight), self._number, priority, flow))

    def place(self, one: tuple[float, int, Priority, str]) -> int:
        ahead = sum(other[2] is one[2] and other[:2] < one[:2] for other in self.waiting)
        others = sum(other[2] is not one[2] for other in self.waiting)
        return place(one[2], ahead, others, self.in_a_row)

    def go(self) -> tuple[Priority, str]:
        (one,) = [each for each in self.waiting if self.place(each) == 0]
        weights = sum(self.weights[flow] for flow in {each[3] for each in self.waiting if each[2] is one[2]})
        self.waiting.remove(one)
        self.virtual[one[2]] = virtual_after(self.virtual[one[2]], 1, weights)
        self.in_a_row = row_after(one[2], self.in_a_row, any(each[2] is BATCH for each in self.waiting))
        return one[2], one[3]


arrivals = st.lists(
    st.tuples(st.sampled_from(list(Priority)), st.sampled_from("abcd"), st.sampled_from([0.25, 1.0, 4.0])), max_size=40
)


@given(arrivals, st.integers(min_value=0, max_value=IN_A_ROW))
def test_the_places_are_an_order_and_it_is_kept(coming: list[tuple[Priority, str, float]], in_a_row: int) -> None:
    line = Line()
    line.in_a_row = in_a_row
    for one in coming:
        line.come(*one)
    while line.waiting:
        places = {line.place(each): each for each in line.waiting}
        assert sorted(places) == list(range(len(line.waiting)))
        assert line.go() == places[0][2:]


@given(st.lists(st.tuples(st.sampled_from(list(Priority)), st.sampled_from("abcd")), min_size=200, max_size=300))
def test_no_one_waits_for_ever_however_many_come_after_it(coming: list[tuple[Priority, str]]) -> None:
    line = Line()
    line.come(BATCH, "old")
    for number, one in enumerate(coming):
        line.come(*one)
        line.come(*one)
        if line.go()[1] == "old":
            return
        # At most one of each flow before it, and as many people as may go in a row before each of these.
        assert number < (IN_A_ROW + 1) * 6


def test_a_person_who_comes_goes_next_however_long_the_line_is() -> None:
    line = Line()
    for _ in range(1000):
        line.come(BATCH, "nightly")
    line.come(INTERACTIVE, "anna")
    assert line.go() == (INTERACTIVE, "anna")


def test_a_batch_goes_after_nine_people() -> None:
    line = Line()
    for _ in range(100):
        line.come(INTERACTIVE, "anna")
        line.come(BATCH, "nightly")
    first = [line.go()[0] for _ in range(100)]
    assert first.count(BATCH) == 10
    assert BATCH not in first[:9]


def test_flows_get_their_weights() -> None:
    line = Line()
    for _ in range(100):
        line.come(BATCH, "heavy", 3.0)
        line.come(BATCH, "light", 1.0)
    first = [line.go()[1] for _ in range(80)]
    assert first.count("heavy") == pytest.approx(60, abs=2)


def test_what_is_free_now_is_for_those_who_are_there() -> None:
    elsewhere = Queue(ahead=50, waiting=50)
    assert wait_for_room(Bucket(), 60, 60, 1, BEGIN, BATCH, elsewhere) is None
    here = Queue(ahead=50, ahead_here=10, here=10, waiting=50)
    wait = wait_for_room(Bucket(), 60, 60, 1, BEGIN, BATCH, here)
    assert wait is not None
    assert (wait.before, wait.here) == (50, False)


def test_a_stopped_limit_is_asked_seldom_and_names_no_time() -> None:
    wait = wait_for_room(Bucket(), 0, 60, 1, BEGIN, BATCH, Queue())
    assert wait is not None
    assert (wait.until, wait.earliest) == (BEGIN + ASK_AGAIN_STOPPED, None)
    slot = wait_for_slot(0, 0, BEGIN, BATCH, Queue())
    assert slot is not None
    assert slot.until == BEGIN + ASK_AGAIN_STOPPED


def test_a_free_slot_goes_to_the_next_that_is_there() -> None:
    assert wait_for_slot(3, 2, BEGIN, BATCH, Queue(ahead=1)) is None
    assert wait_for_slot(3, 2, BEGIN, BATCH, Queue(ahead=1, ahead_here=1)) is not None
    assert wait_for_slot(3, 3, BEGIN, INTERACTIVE, Queue()) is not None


def test_no_more_are_woken_than_can_go_soon() -> None:
    assert to_wake(2.0, Queue(waiting=100)) == 30
    assert to_wake(2.0, Queue(waiting=100, here=5, on_the_way=5)) == 15
    assert to_wake(2.0, Queue(waiting=100, on_the_way=30)) == 0
    assert to_wake(0.01, Queue(waiting=100)) == 1
    assert to_wake(2.0, Queue(waiting=3, here=1)) == 2


def test_for_those_that_have_not_come_as_many_more_are_woken() -> None:
    assert to_wake(2.0, Queue(waiting=100, on_the_way=30, missing=7)) == 7
