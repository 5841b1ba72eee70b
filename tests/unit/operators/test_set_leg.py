"""One leg of a set's task: each response counts once, also where the ledger and the flight both know that it ended."""

from __future__ import annotations

import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

from airflow_provider_aihandoff.core.sets.flight import Due, Flight
from airflow_provider_aihandoff.core.states import ResponseStatus, RevisionState
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from airflow_provider_aihandoff.operators.set_leg import Leg


def test_a_response_that_a_webhook_was_about_is_taken_and_counted_once() -> None:
    ledger = {
        1: SimpleNamespace(
            job_id=1,
            number=1,
            conn_id="openai",
            response_id="resp_1",
            state=RevisionState.RUNNING,
            request={},
            response_status=ResponseStatus.COMPLETED,
        )
    }
    asked: list[str] = []

    def retrieve(response_id: str) -> Any:
        asked.append(response_id)
        return SimpleNamespace(ended=True, readable=True)

    provider = SimpleNamespace(retrieve=retrieve)
    steps: Any = SimpleNamespace(revision=lambda job_id, number: ledger[job_id])
    parts: dict[str, Any] = {
        "context": {},
        "ledger": SimpleNamespace(),
        "provider_for": lambda conn_id: provider,
        "owner": SimpleNamespace(actor=None),
        "has_effects": True,
        "steps": steps,
        "flight": Flight(lambda: 0.0, 10, 16),
        "asking": threading.Semaphore(1),
        "patience": 60.0,
    }
    leg = Leg(**parts)
    task: Any = SimpleNamespace()

    def store(_: Any, revision: Any, __: Any) -> None:
        ledger[1] = SimpleNamespace(**{**vars(revision), "state": RevisionState.COMPLETED})

    task._store = store
    task._take_known = partial(OpenAIResponseSetOperator._take_known, task)
    task._take_if_ended = partial(OpenAIResponseSetOperator._take_if_ended, task)
    leg.in_flight = 1
    running: Any = SimpleNamespace(**{**vars(ledger[1]), "response_status": ResponseStatus.QUEUED})
    leg.runs(running)
    for due in (None, Due(0.0, 1, 1)):  # the ledger says so first; then the flight has it due
        leg.count(OpenAIResponseSetOperator._take(task, leg, 1, 1, due))
    assert leg.in_flight == 0
    assert asked == ["resp_1"]
