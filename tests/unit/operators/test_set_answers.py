"""The answers that one leg of a set's task takes: each counts once, and a wave of them holds up no request."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.sets.flight import Flight
from airflow_provider_aihandoff.core.states import ResponseStatus, RevisionState
from airflow_provider_aihandoff.operators import set_answers
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from airflow_provider_aihandoff.operators.set_answers import Answers
from airflow_provider_aihandoff.operators.set_leg import Leg


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class LaterCrew:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[tuple[Any, ...]] = []

    def give(self, take: Any, *arguments: Any) -> None:
        self.given.append((take, *arguments))

    def collect(self, seconds: float) -> None:
        """Nothing has ended."""

    @property
    def jobs(self) -> list[int]:
        return [arguments[1] for arguments in self.given]


def answers_of(flight: Flight, *, ended: Any = lambda *_, **__: [], steps: Any = None, provider: Any = None) -> Answers:
    ledger: Any = SimpleNamespace(sets=SimpleNamespace(ended=ended), signs=SimpleNamespace(seen=lambda seen: None))
    actor: Any = None
    return Answers(
        ledger,
        lambda conn_id: provider,
        steps,
        1,
        actor=actor,
        complete=False,
        output_type=None,
        at_once=16,
        flight=flight,
    )


def revision(**changes: Any) -> Any:
    facts = {"job_id": 1, "number": 1, "conn_id": "openai", "response_id": "resp_1", "request": {}}
    states = {"state": RevisionState.RUNNING, "response_status": ResponseStatus.QUEUED}
    return SimpleNamespace(**{**facts, **states, **changes})


def test_a_response_that_a_webhook_was_about_is_taken_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_answers, "_READ_EVERY", 0.0)
    in_ledger = {1: revision(response_status=ResponseStatus.COMPLETED)}
    asked: list[str] = []

    def retrieve(response_id: str) -> Any:
        asked.append(response_id)
        return SimpleNamespace(ended=True, readable=True)

    def store(_: Any, stored: Any, __: Any) -> None:
        in_ledger[1] = revision(state=RevisionState.COMPLETED)

    monkeypatch.setattr(Answers, "_store", store)
    clock, crew = Clock(), LaterCrew()
    answers = answers_of(
        Flight(clock, 10, 16),
        ended=lambda set_id, after: [] if after or in_ledger[1].state is RevisionState.COMPLETED else [(1, 1)],
        steps=SimpleNamespace(revision=lambda job_id, number: in_ledger[job_id]),
        provider=SimpleNamespace(retrieve=retrieve),
    )
    answers.expect(revision())
    outcomes = []
    for clock.now in (0.0, 30.0):  # the ledger says so first; then the flight has it due
        answers.hand_over_some(crew)  # type: ignore[arg-type]
        (take, *arguments), crew.given = crew.given[0], crew.given[1:]
        outcomes.append(take(*arguments))
    assert (outcomes, asked, crew.given) == (["taken", "gone on"], ["resp_1"], [])


@pytest.mark.parametrize("told_by", ["flight", "ledger"])
def test_slots_are_filled_again_while_a_wave_of_answers_is_taken(told_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_answers, "_READ_EVERY", 0.0)
    clock = Clock()
    flight = Flight(clock, 10, 16)
    waiting = dict.fromkeys(range(1, 1001), 1)

    def ended(set_id: int, after: int = 0) -> list[tuple[int, int]]:
        return [(number, 1) for number in waiting if number > after][:500] if told_by == "ledger" else []

    answers = answers_of(flight, ended=ended)
    given: list[int] = []

    def take(_: Answers, job_id: int, number: int, due: Any) -> str:
        given.append(job_id)
        waiting.pop(job_id, None)
        answers._in_hand.discard(job_id)
        if due is not None:
            asked = flight.asks(due)
            assert asked is not None
            flight.ended(asked)
        return "taken"

    monkeypatch.setattr(Answers, "_take", take)
    parts: dict[str, Any] = dict.fromkeys(("context", "ledger", "provider_for", "owner", "complete", "steps"))
    leg = Leg(**parts, answers=answers, patience=60.0, in_flight=1_000)

    class Crew:
        """Does what it is given at once."""

        def give(self, work: Any, *arguments: Any) -> None:
            leg.count(work(*arguments))

        def collect(self, seconds: float) -> None:
            """It has ended by now."""

    if told_by == "flight":
        for number in waiting:
            flight.sent(number, 1)
    clock.now = 30.0
    task: Any = SimpleNamespace(max_in_flight=1_000)
    task._answers_come = lambda leg, crew: OpenAIResponseSetOperator._answers_come(task, leg, crew)
    crew: Any = Crew()
    longest, sent = 0, 0
    while waiting:
        before = len(given)
        assert OpenAIResponseSetOperator._has_room(task, leg, crew)
        longest, sent = max(longest, len(given) - before), sent + 1
        leg.in_flight += 1
    assert longest <= 32, "answers that are taken before another request is sent"
    assert sorted(given) == list(range(1, 1_001))
    assert sent >= 1_000 - 32


def test_a_response_that_a_thread_has_in_hand_is_asked_about_later_and_not_forgotten() -> None:
    clock, crew = Clock(), LaterCrew()
    flight = Flight(clock, 10, 16)
    answers = answers_of(flight)
    flight.sent(1, 1)
    answers._in_hand.add(1)
    clock.now = 30.0
    answers.hand_over_some(crew)  # type: ignore[arg-type]
    assert (crew.given, len(answers)) == ([], 1)
    answers._in_hand.discard(1)
    clock.now = 31.0
    answers.hand_over_some(crew)  # type: ignore[arg-type]
    assert (crew.jobs, len(answers)) == ([1], 0)
