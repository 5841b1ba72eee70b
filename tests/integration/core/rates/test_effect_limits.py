"""External writes keep to the limits of their connection and of their key, and to what one target's answer asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.errors import EffectHeld
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, EffectPlan
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure
from airflow_provider_aihandoff.core.rates.slowdown import Heard
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec

ANNA = Actor.user("anna", "1")


def limit(ledger: Ledger, amount: int, measure: Measure = Measure.REQUESTS, **more: Any) -> None:
    values = {"kind": LimitKind.TARGET, "name": "cms", "reason": "the CMS is slow", "actor": ANNA, **more}
    ledger.rate_limits.set(measure=measure, amount=amount, **values)


def approved(ledger: Ledger, key: str, **request: Any) -> tuple[int, EffectPlan]:
    plan = effect_plan(**{"connection": "cms", **request})
    job = draft(ledger, job_spec(job_key=key), response_id=f"resp_{key}")
    return approve(ledger, ask(ledger, job, plan)).job_id, plan


def test_a_write_waits_for_its_limit_and_is_claimed_when_there_is_room(ledger: Ledger) -> None:
    limit(ledger, 0)
    job_id, plan = approved(ledger, "a")
    with pytest.raises(EffectHeld, match="a limit of 0 has stopped the requests of the target connection cms") as held:
        ledger.effects.claim(job_id, plan, lease=LEASE, actor=TEST)
    assert (held.value.effect.held_kind, held.value.effect.attempt) == ("rate", 0)
    other, other_plan = approved(ledger, "b", connection="crm")
    assert ledger.effects.claim(other, other_plan, lease=LEASE, actor=TEST).token is not None
    ledger.rate_limits.end(LimitKind.TARGET, "cms", Measure.REQUESTS, reason="it is fast", actor=ANNA)
    woken = ledger.effects.read(held.value.effect.effect_id)
    assert woken.held_until is not None
    assert woken.held_until <= ledger.now()
    claim = ledger.effects.claim(job_id, plan, lease=LEASE, actor=TEST)
    assert (claim.token is not None, claim.effect.held_kind) == (True, None)


def test_the_end_of_one_write_wakes_the_next_that_waits_for_it(ledger: Ledger) -> None:
    limit(ledger, 1, Measure.IN_FLIGHT)
    (first, first_plan), (second, second_plan) = approved(ledger, "a"), approved(ledger, "b")
    claim = ledger.effects.claim(first, first_plan, lease=LEASE, actor=TEST)
    with pytest.raises(EffectHeld, match="1 at once") as held:
        ledger.effects.claim(second, second_plan, lease=LEASE, actor=TEST)
    assert held.value.seconds is not None
    assert held.value.seconds > 30
    ledger.effects.confirm(claim, external_id="7", result=None, actor=TEST)
    woken = ledger.effects.read(held.value.effect.effect_id)
    assert woken.held_until is not None
    assert woken.held_until <= ledger.now()
    assert ledger.effects.claim(second, second_plan, lease=LEASE, actor=TEST).token is not None


def test_what_one_target_answers_slows_all_writes_of_its_connection(ledger: Ledger) -> None:
    (first, first_plan), (second, second_plan) = approved(ledger, "a"), approved(ledger, "b")
    claim = ledger.effects.claim(first, first_plan, lease=LEASE, actor=TEST)
    heard = Heard(too_much=True, wait=60.0, said="HTTP 429")
    ledger.effects.release(claim, error="the target asked to come back later", actor=TEST, heard=heard)
    with pytest.raises(EffectHeld, match="has asked for a pause on the connection cms"):
        ledger.effects.claim(second, second_plan, lease=LEASE, actor=TEST)
    (state,) = ledger.rate_limits.find()
    assert (state.limit.amount, state.paused, state.now) == (None, True, None)


def test_a_key_counts_the_writes_and_the_requests_that_have_it(ledger: Ledger) -> None:
    limit(ledger, 1, Measure.IN_FLIGHT, kind=LimitKind.KEY, name="erp")
    (first, first_plan), (second, second_plan) = approved(ledger, "a"), approved(ledger, "b")
    first_plan, keyed = replace(first_plan, rate_key="erp"), replace(second_plan, rate_key="erp")
    assert ledger.effects.claim(first, first_plan, lease=LEASE, actor=TEST).effect.rate_key == "erp"
    with pytest.raises(EffectHeld, match="in flight of the key erp"):
        ledger.effects.claim(second, keyed, lease=LEASE, actor=TEST)
    job = ledger.submission.open(job_spec(job_key="request", rate_key="erp")).job
    intent = ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
    assert (intent.token, intent.revision.held_kind) == (None, "rate")
    assert ledger.effects.claim(second, second_plan, lease=LEASE, actor=TEST).token is not None
