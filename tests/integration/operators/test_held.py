"""Tasks during a pause, and while a limit of money is reached: they wait deferred, and continue by themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from airflow_provider_aihandoff.core.admission.pause_store import Scope
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.triggers.effect import EffectTrigger
from airflow_provider_aihandoff.triggers.submission import SubmissionTrigger
from demo.waiting import wait_until
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.tasks import ask, ask_unapproved, fault, publish
from tests.people import insist
from tests.target import Target

Record = Callable[[], JobRecord]
BOB = Actor.user("bob")

pytestmark = pytest.mark.usefixtures("connections")


Waiting = Callable[[type[Any]], threading.Event]


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """What happens as soon as a trigger of a type waits."""

    def waits(trigger: type[Any]) -> threading.Event:
        happened, real = threading.Event(), trigger.run

        def run(self: Any) -> Any:
            happened.set()
            return real(self)

        monkeypatch.setattr(trigger, "run", run)
        return happened

    return waits


@contextmanager
def afterwards(waits: threading.Event, act: Callable[[], Any]) -> Iterator[None]:
    """Do something once the task waits in the triggerer."""

    def wait_and_act() -> None:
        assert waits.wait(600)
        act()

    thread = threading.Thread(target=insist(wait_and_act), daemon=True)
    thread.start()
    yield
    thread.join()


def pause(ledger: Ledger, scope: Scope, *, writes: bool = False) -> int:
    return ledger.pauses.begin(scope, writes=writes, reason="it writes nonsense", actor=BOB).pause_id


def test_a_request_waits_deferred_for_the_end_of_a_pause(
    run: RunDag, record: Record, ledger: Ledger, stand_in: Any, waiting: Waiting
) -> None:
    pause_id = pause(ledger, Scope())

    def end() -> None:
        assert (stand_in.responses().creates, record().revision.is_held) == (0, True)
        ledger.pauses.end(pause_id, reason="fixed", actor=BOB)

    with afterwards(waiting(SubmissionTrigger), end):
        done = run(lambda: ask())

    assert (done.states["draft"], done.tries["draft"]) == ("success", 1)
    assert (stand_in.responses().creates, record().job.state) == (1, JobState.REVIEW)


def test_an_effect_waits_deferred_for_the_end_of_a_pause_and_no_one_is_notified(
    run: RunDag, record: Record, ledger: Ledger, target: Target, waiting: Waiting
) -> None:
    def define() -> None:
        draft = ask_unapproved()
        publish(draft.output)

    pause_id = pause(ledger, Scope(conn_id="cms"), writes=True)

    def end() -> None:
        wait_until(lambda: record().current_effects[0].held_kind, "the hold")
        assert target.received == []
        ledger.pauses.end(pause_id, reason="moved", actor=BOB)

    with afterwards(waiting(EffectTrigger), end):
        done = run(define)

    assert (done.states["publish"], done.tries["publish"]) == ("success", 1)
    assert [effect.state for effect in record().current_effects] == [EffectState.APPLIED]
    assert len(target.received) == 1
    assert [event for event in record().events if event.event == "notified"] == []


def test_a_limit_of_money_is_waited_out_deferred_and_uses_up_no_try(
    run: RunDag, record: Record, ledger: Ledger, stand_in: Any, waiting: Waiting
) -> None:
    with afterwards(waiting(SubmissionTrigger), lambda: ledger.spending_limits.try_now("openai_default")):
        done = run(lambda: ask(metadata=fault("create=429_spend times=1")))

    assert (done.states["draft"], done.tries["draft"]) == ("success", 1)
    assert (stand_in.responses().creates, record().job.revision) == (2, 1)
    assert ledger.spending_limits.find() == []
    assert [event.event for event in record().events].count("held") == 1
