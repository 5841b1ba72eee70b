"""Effects whose attempt has ended without an outcome, and that no task has come back for."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_provider_aihandoff.core.effects.effect_store import Claim
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.reconcile import findings
from airflow_provider_aihandoff.core.states import EffectState
from tests.factories import TEST, approve, ask, draft, effect_plan
from tests.integration.core.reconcile.world import World, kinds


def claimed(world: World, expired_for: float) -> Claim:
    """A claim that expired so many seconds ago."""
    job = approve(world.ledger, ask(world.ledger, draft(world.ledger)))
    lease = timedelta(seconds=-expired_for)
    return world.ledger.effects.claim(job.job_id, effect_plan(), lease=lease, actor=TEST)


def test_a_claim_that_expired_long_ago_becomes_unknown_and_is_found_once(world: World) -> None:
    claim = claimed(world, expired_for=120)

    (finding,) = world.reconcile()

    effect = world.ledger.effects.read(claim.effect.effect_id)
    assert (finding.kind, finding.job_id, effect.state) == ("expired claim", effect.job_id, EffectState.UNKNOWN)
    assert "clear its task" in (finding.done or "")
    assert world.ledger.record(effect.job_id).events[-1].actor == "reconciler"
    assert world.reconcile() == []


@pytest.mark.parametrize("expired_for", [-60, 1])
def test_a_claim_that_is_held_or_has_just_expired_is_left_to_its_task(world: World, expired_for: float) -> None:
    claim = claimed(world, expired_for)
    assert world.reconcile() == []
    assert world.ledger.effects.read(claim.effect.effect_id).state is EffectState.CLAIMED


def test_an_effect_that_is_confirmed_before_the_step_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = claimed(world, expired_for=120)
    give_up = world.ledger.effects.give_up

    def late(effect_id: int, *, actor: Actor) -> object:
        world.ledger.effects.confirm(claim, external_id="7", result=None, actor=TEST)
        return give_up(effect_id, actor=actor)

    monkeypatch.setattr(world.ledger.effects, "give_up", late)
    assert [finding.done for finding in world.reconcile()] == [findings.MOVED_ON]
    assert world.ledger.effects.read(claim.effect.effect_id).state is EffectState.APPLIED
    assert kinds(world.reconcile()) == []
