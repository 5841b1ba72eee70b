"""One leg of a set's task: a wave of answers does not hold up what may be sent meanwhile."""

from __future__ import annotations

import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.sets.flight import Flight
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from airflow_provider_aihandoff.operators.set_leg import Leg


@pytest.mark.parametrize("told_by", ["flight", "ledger"])
def test_slots_are_filled_again_while_a_wave_of_answers_is_taken(told_by: str) -> None:
    now = [0.0]
    flight = Flight(lambda: now[0], 10, 16)
    waiting = dict.fromkeys(range(1, 1001), 1)

    def ended(set_id: int, after: int = 0) -> list[tuple[int, int]]:
        return [(number, 1) for number in waiting if number > after][:500] if told_by == "ledger" else []

    ledger: Any = SimpleNamespace(sets=SimpleNamespace(ended=ended), signs=SimpleNamespace(seen=lambda seen: None))
    parts: dict[str, Any] = {
        "context": {},
        "ledger": ledger,
        "provider_for": lambda conn_id: None,
        "owner": SimpleNamespace(),
        "has_effects": True,
        "steps": SimpleNamespace(),
        "flight": flight,
        "asking": threading.Semaphore(16),
        "patience": 60.0,
        "in_flight": 1_000,
        "_read_at": -10.0,
    }
    leg = Leg(**parts)
    if told_by == "flight":
        for number in waiting:
            flight.sent(number, 1)
    now[0] = 30.0
    given: list[int] = []

    class Crew:
        """Does what it is given at once."""

        def give(self, take: Any, leg: Leg, job_id: int, number: int, *due: Any) -> None:
            given.append(job_id)
            waiting.pop(job_id, None)
            leg.taking.discard(job_id)
            for each in due:
                asked = flight.asks(each)
                assert asked is not None
                flight.ended(asked)
            leg.count("taken")

        def collect(self, seconds: float) -> None:
            """It has ended by now."""

    task: Any = SimpleNamespace(send_at_once=16, max_in_flight=1_000, _take=None)
    task._answers_come = partial(OpenAIResponseSetOperator._answers_come, task)
    task._give_some_ended = partial(OpenAIResponseSetOperator._give_some_ended, task)
    crew: Any = Crew()
    longest, sent = 0, 0
    while waiting:
        before = len(given)
        assert OpenAIResponseSetOperator._has_room(task, leg, crew, SimpleNamespace(set_id=1))  # type: ignore[arg-type]
        longest, sent = max(longest, len(given) - before), sent + 1
        leg.in_flight += 1
    assert longest <= 32, "answers that are taken before another request is sent"
    assert sorted(given) == list(range(1, 1_001))
    assert sent >= 1_000 - 32


def test_a_response_that_a_thread_has_in_hand_is_asked_about_later_and_not_forgotten() -> None:
    now = [0.0]
    flight = Flight(lambda: now[0], 10, 16)
    flight.sent(1, 1)
    now[0] = 30.0
    leg: Any = SimpleNamespace(
        flight=flight, taking={1}, take_seen=dict[int, int], progress_at=0.0, patience=60.0, is_tired=False
    )
    task: Any = SimpleNamespace(send_at_once=16, _give_some_ended=lambda *_: None)
    crew: Any = SimpleNamespace(collect=lambda seconds: None)
    OpenAIResponseSetOperator._answers_come(task, leg, crew, SimpleNamespace(set_id=1))  # type: ignore[arg-type]
    assert len(flight) == 1
    assert leg.taking == {1}
