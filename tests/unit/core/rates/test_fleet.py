"""A thousand workers on a discrete clock share one limit: it is used, never exceeded, and waiting is fair."""

from __future__ import annotations

from statistics import median

from airflow_provider_aihandoff.core.rates.rate_limit import Priority
from tests.unit.core.rates.fleet import BEGIN, Fleet, Provider, Task

MINUTE = 60.0
BATCH, INTERACTIVE = Priority.BATCH, Priority.INTERACTIVE


def thousand(fleet: Fleet, *, flow: str = "nightly", first: int = 0, number: int = 1000, at: float = BEGIN) -> None:
    for index in range(number):
        fleet.add(Task(first + index, BATCH, flow, at + index * 0.005))


def waits(fleet: Fleet, flow: str) -> list[float]:
    return [task.sent_at - task.comes_at for task in fleet.tasks.values() if task.flow == flow and task.sent_at]


def test_the_limit_is_used_to_95_percent_and_never_exceeded() -> None:
    fleet = Fleet(400, MINUTE)
    thousand(fleet)
    fleet.run(BEGIN + 600)
    sent = fleet.provider.arrivals
    assert len(sent) == 1000
    assert fleet.provider.most_in_a_period() <= 400
    assert 1000 / ((sent[-1] - sent[0]) / MINUTE * 400) >= 0.95


def test_a_burst_of_429_settles_within_one_period() -> None:
    fleet = Fleet(None, MINUTE, provider=Provider(MINUTE, takes=lambda at: 300))
    thousand(fleet)
    fleet.run(BEGIN + 900)
    assert fleet.provider.refused  # there was a burst
    assert sum(at > BEGIN + MINUTE + 5 for at in fleet.provider.refused) <= 5  # it finds out now and then
    assert len(fleet.provider.arrivals) == 1000


def test_a_person_does_not_wait_for_the_nightly_batch() -> None:
    fleet = Fleet(400, MINUTE)
    thousand(fleet)
    for index in range(10):
        fleet.add(Task(5000 + index, INTERACTIVE, "anna", BEGIN + 20 + 10 * index))
    fleet.run(BEGIN + 600)
    assert median(waits(fleet, "anna")) < 3
    assert max(waits(fleet, "anna")) < 10
    assert len(waits(fleet, "nightly")) == 1000


def test_a_batch_is_not_starved_by_people() -> None:
    fleet = Fleet(300, MINUTE)
    thousand(fleet, number=50)
    for index in range(1000):
        fleet.add(Task(5000 + index, INTERACTIVE, f"person {index % 5}", BEGIN + index * 0.1))
    fleet.run(BEGIN + 300)
    assert len(waits(fleet, "nightly")) == 50


def test_a_small_flow_is_done_soon_beside_a_large_one() -> None:
    fleet = Fleet(400, MINUTE)
    thousand(fleet, flow="large")
    thousand(fleet, flow="small", first=5000, number=40, at=BEGIN + 30)
    fleet.run(BEGIN + 600)
    assert max(waits(fleet, "small")) < 40
    assert max(waits(fleet, "large")) > 120


def test_those_that_die_while_they_wait_hold_up_no_other() -> None:
    fleet = Fleet(400, MINUTE, dies=0.3)
    thousand(fleet)
    fleet.run(BEGIN + 600)
    sent = fleet.provider.arrivals
    assert 600 < len(sent) < 1000
    assert len(sent) / ((sent[-1] - sent[0]) / MINUTE * 400) >= 0.85
