"""Effects during a pause: nothing is sent, nothing is lost, and a roll-back goes on."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.admission.pause_store import Scope
from airflow_provider_aihandoff.core.effects.apply import Wait, apply_effect
from airflow_provider_aihandoff.core.effects.roll_back import roll_back
from airflow_provider_aihandoff.core.jobs.cases import Case
from airflow_provider_aihandoff.core.jobs.explanation import case_of, explain
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.targets.http import HttpTarget
from tests.factories import LEASE
from tests.integration.core.effects.effects import ACTOR, approved, only_effect, put
from tests.target import Target

BOB = Actor.terminal("bob")
CMS = HttpTarget("publish", external_id_path="$.id")
DELETE = {"method": "DELETE", "endpoint": "/posts/{external_id}"}


def pause(ledger: Ledger, scope: Scope = Scope(), *, writes: bool = True) -> int:  # noqa: B008 - it is frozen
    return ledger.pauses.begin(scope, writes=writes, reason="the CMS is being moved", actor=BOB).pause_id


def send(ledger: Ledger) -> Effect | Wait:
    return apply_effect(ledger, 1, put(undo=DELETE), CMS, actor=ACTOR)


def test_an_effect_is_held_and_sent_once_the_pause_has_ended(ledger: Ledger, target: Target) -> None:
    approved(ledger, put(undo=DELETE))
    pause_id = pause(ledger)

    waits = [send(ledger) for _ in range(2)]

    assert all(isinstance(wait, Wait) and wait.held and wait.seconds is None for wait in waits)
    assert target.received == []
    effect = only_effect(ledger)
    assert (effect.state, effect.attempt, effect.held_name) == (EffectState.PLANNED, 0, str(pause_id))
    record = ledger.record(1)
    assert (record.job.state, case_of(record)) == (JobState.APPROVED, Case.EFFECT_PAUSED)
    assert "has paused requests to the model and external writes (everything)" in str(explain(record))
    assert [event.event for event in record.events].count("held") == 1

    ledger.pauses.end(pause_id, reason="moved", actor=BOB)
    assert only_effect(ledger).held_kind is None
    assert isinstance(send(ledger), Effect)
    assert len(target.received) == 1
    assert ledger.job(1).state is JobState.COMPLETED


@pytest.mark.parametrize(
    ("scope", "writes", "holds"),
    [
        (Scope(), False, False),
        (Scope(conn_id="cms"), True, True),
        (Scope(conn_id="openai_default"), True, False),
        (Scope(job_type="publishing"), True, True),
        (Scope(dag_id="tickets"), True, False),
    ],
    ids=str,
)
def test_only_a_pause_of_writes_holds_one_and_names_the_connection_of_the_target(
    ledger: Ledger, target: Target, scope: Scope, writes: bool, holds: bool
) -> None:
    approved(ledger, put(undo=DELETE))
    pause(ledger, scope, writes=writes)
    assert isinstance(send(ledger), Wait) is holds
    assert len(target.received) == (0 if holds else 1)


def test_what_is_applied_stays_so_and_a_roll_back_goes_on(ledger: Ledger, target: Target) -> None:
    approved(ledger, put(undo=DELETE))
    assert isinstance(send(ledger), Effect)
    pause(ledger)
    assert isinstance(send(ledger), Effect)
    roll_back(ledger, 1, actor=BOB, reason="nonsense", in_worker=True)
    assert ledger.job(1).state is JobState.ROLLED_BACK
    assert [received.method for received in target.received] == ["PUT", "DELETE"]


def test_an_unknown_effect_is_not_sent_again_during_a_pause(ledger: Ledger, target: Target) -> None:
    approved(ledger, put())
    claim = ledger.effects.claim(1, put(), lease=LEASE, actor=ACTOR)
    ledger.effects.lose(claim, error="no answer", actor=ACTOR)
    to = HttpTarget("publish", idempotent=True)
    pause_id = pause(ledger)
    held = apply_effect(ledger, 1, put(), to, actor=ACTOR)
    assert isinstance(held, Wait)
    assert held.held
    assert (only_effect(ledger).state, target.received) == (EffectState.UNKNOWN, [])
    ledger.pauses.end(pause_id, reason="moved", actor=BOB)
    assert isinstance(apply_effect(ledger, 1, put(), to, actor=ACTOR), Effect)
    assert len(target.received) == 1
