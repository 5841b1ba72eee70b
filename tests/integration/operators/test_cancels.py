"""A job is cancelled while its run goes on: what was not sent never is, and the tasks say so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai import OpenAI

from airflow_provider_aihandoff.core.errors import CannotCancel
from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.provider import ModelProvider
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.testing import OpenAIStandIn
from demo.waiting import wait_until
from tests.integration.operators.conftest import API_KEY
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import ask, ask_unapproved, fault, publish
from tests.people import insist
from tests.target import Target

Record = Callable[[], JobRecord]
CancelWhen = Callable[[Callable[[], Any]], None]


@pytest.fixture
def provider(stand_in: OpenAIStandIn, _served: tuple[OpenAIStandIn, Any, str]) -> Iterator[ModelProvider]:
    with OpenAI(base_url=_served[2], api_key=API_KEY) as client:
        yield OpenAIProvider(client)


@pytest.fixture
def cancel_when(ledger: Ledger, provider: ModelProvider) -> Iterator[CancelWhen]:
    """A person who cancels the first job as soon as a condition holds."""
    people: list[threading.Thread] = []
    over = threading.Event()

    def start(so: Callable[[], Any]) -> None:
        def watch() -> None:
            while not so():
                if over.wait(0.02):
                    return
            cancel_job(ledger, lambda conn_id: provider, 1, actor=Actor.user("bob"), reason="the wrong product")

        people.append(threading.Thread(target=insist(watch)))
        people[-1].start()

    yield start
    over.set()
    for person in people:
        person.join()


def state_of(ledger: Ledger) -> JobState | None:
    jobs = ledger.jobs()
    return jobs[0].state if jobs else None


def test_a_cancel_while_the_response_runs_stops_it_and_the_task_and_every_clear_end_with_the_reason(
    dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn, cancel_when: CancelWhen, target: Target
) -> None:
    def define() -> None:
        draft = ask_unapproved(metadata=fault("delay=600"))
        draft >> publish(draft)

    dag = dags.make(define)
    cancel_when(lambda: state_of(ledger) is JobState.RUNNING)

    run = dags.run(dag)
    again = dags.clear(dag, run)

    (seen,) = stand_in.responses().responses
    assert (seen.response["status"], ledger.job(1).state) == ("cancelled", JobState.CANCELLED)
    for ended in (run, again):
        assert (ended.states["draft"], ended.states["publish"]) == ("failed", "upstream_failed")
    assert (run.tries["draft"], again.tries["draft"], target.received) == (1, 2, [])
    assert "the wrong product" in again.error("draft")


def test_a_cancel_during_review_writes_nothing_and_the_approval_task_says_so(
    dags: Dags, ledger: Ledger, record: Record, cancel_when: CancelWhen, target: Target
) -> None:
    def define() -> None:
        draft = ask()
        draft >> ApprovalSensor(task_id="approve", job=draft) >> publish(draft)

    cancel_when(lambda: state_of(ledger) is JobState.REVIEW and ledger.job(1).review_digest)

    run = dags.run(dags.make(define))

    assert "is cancelled (the wrong product). No effect of it will be applied." in run.error("approve")
    assert (run.states["publish"], target.received) == ("upstream_failed", [])
    assert [effect.state for effect in record().effects] == [EffectState.VOID]


def test_a_cancel_while_an_effect_is_in_flight_lets_it_end_and_the_next_one_is_never_sent(
    dags: Dags, ledger: Ledger, record: Record, cancel_when: CancelWhen, target: Target
) -> None:
    target.hold = in_flight = threading.Event()

    def define() -> None:
        draft = ask_unapproved()
        draft >> publish(draft) >> publish(draft, "announce", method="POST", endpoint="/mails")

    def answer_once_it_is_being_cancelled() -> None:
        wait_until(lambda: state_of(ledger) and ledger.job(1).cancelling, "the wish to cancel", 60)
        in_flight.set()

    dag = dags.make(define)
    cancel_when(lambda: target.received)
    answer = threading.Thread(target=answer_once_it_is_being_cancelled)
    answer.start()

    run = dags.run(dag)
    answer.join()
    again = dags.clear(dag, run, ["publish", "announce"])

    assert (run.states["publish"], run.states["announce"]) == ("success", "failed")
    assert "it was cancelled (the wrong product; partly applied: 1 of 2 effects applied)" in run.error("announce")
    assert [effect.state for effect in record().effects] == [EffectState.APPLIED, EffectState.VOID]
    assert (again.states, len(target.received)) == (run.states, 1)
    assert [event.event for event in record().events].count("cancel requested") == 1


def test_a_cancel_after_completion_is_refused_and_the_run_can_be_cleared_as_before(
    dags: Dags, ledger: Ledger, provider: ModelProvider, target: Target
) -> None:
    def define() -> None:
        draft = ask_unapproved()
        draft >> publish(draft)

    dag = dags.make(define)
    run = dags.run(dag)

    with pytest.raises(CannotCancel, match=r"is completed: there is nothing left to stop\. What it wrote stays"):
        cancel_job(ledger, lambda conn_id: provider, 1, actor=Actor.user("bob"), reason="the wrong product")

    assert (dags.clear(dag, run).states, len(target.received)) == (run.states, 1)
    assert ledger.job(1).state is JobState.COMPLETED
