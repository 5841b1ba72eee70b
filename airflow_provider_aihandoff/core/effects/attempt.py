"""Records what one attempt knows of its write; and what an earlier attempt knew, and the ledger could not take."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from airflow_provider_aihandoff.core.effects.effect_store import Claim, WriteSteps
from airflow_provider_aihandoff.core.effects.target import Applied
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect
from airflow_provider_aihandoff.core.rates.slowdown import Heard
from airflow_provider_aihandoff.core.second_memory import Facts, Memory, Unrecorded
from airflow_provider_aihandoff.core.states import EffectState

log = logging.getLogger(__name__)

#: How long an external id may be, in characters. A longer one is none that anyone can use.
_ID_LIMIT = 1000

Outcome = Literal["applied", "refused", "released", "unknown"]

_WRITTEN: dict[Outcome, str] = {
    "applied": "The external write was made",
    "refused": "This attempt made no external write, since the target refused it",
    "released": "This attempt made no external write, since it was not sent or the target asked to come back later",
    "unknown": "The external write may have been made; search the target for the effect key",
}


class Attempt:
    """One attempt at an effect, which has sent it.

    :param steps: what has claimed it.
    :param memory: where an outcome is kept while the ledger cannot record it.
    """

    def __init__(self, ledger: Ledger, steps: WriteSteps, claim: Claim, memory: Memory | None, actor: Actor) -> None:
        self._effects, self._steps, self._claim, self._memory, self._actor = ledger.effects, steps, claim, memory, actor

    def applied(self, applied: Applied) -> Effect:
        """Record that the target has applied it."""
        external_id = usable_id(applied)
        found = self._unrecorded("applied", external_id, own=applied.own)
        with found.recording():
            return self._steps.confirm(
                self._claim,
                external_id=external_id,
                result=applied.result,
                own=applied.own,
                actor=self._actor,
                keep=found.keep,
            )

    def refused(self, error: str) -> Effect:
        """Record that the target has refused it."""
        found = self._unrecorded("refused")
        with found.recording():
            return self._effects.refuse(self._claim, error=error, actor=self._actor, keep=found.keep)

    def released(self, error: str, *, heard: Heard | None = None) -> Effect:
        """Record that it was not sent, or is to come back later.

        :param heard: as in :meth:`Effects.release`.
        """
        found = self._unrecorded("released")
        with found.recording():
            return self._effects.release(self._claim, error=error, actor=self._actor, heard=heard, keep=found.keep)

    def lost(
        self,
        error: str,
        *,
        not_now: bool = False,
        confirmed: Mapping[str, Any] | None = None,
        heard: Heard | None = None,
    ) -> Effect:
        """Record that the outcome is not known.

        :param not_now: as in :meth:`Effects.lose`, and so are ``confirmed`` and ``heard``.
        """
        found = self._unrecorded("unknown")
        with found.recording():
            return self._effects.lose(
                self._claim,
                error=error,
                not_now=not_now,
                confirmed=confirmed,
                heard=heard,
                actor=self._actor,
                keep=found.keep,
            )

    def _unrecorded(self, outcome: Outcome, external_id: str | None = None, *, own: bool = True) -> Unrecorded:
        effect = self._claim.effect
        facts: Facts = {
            "outcome": outcome,
            "external_id": external_id,
            "own": own,
            "attempt": effect.attempt,
            "plan_digest": effect.plan_digest,
            "token": str(self._claim.token),
        }
        known = f", external id {external_id}" if external_id else ""
        which = f"job {effect.job_id}, effect {effect.name!r}, attempt {effect.attempt}, key {effect.effect_key}{known}"
        # That the outcome is unknown is what the ledger says by itself, of a claim that expires.
        memory = None if outcome == "unknown" else self._memory
        return Unrecorded(memory, _name(effect), facts, f"{_WRITTEN[outcome]} ({which}).")


def usable_id(applied: Applied) -> str | None:
    """The external id, where it is one: a text of many pages is no id."""
    if applied.external_id is not None and len(applied.external_id) > _ID_LIMIT:
        log.warning("The external id has %d characters, and is not kept.", len(applied.external_id))
        return None
    return applied.external_id


def record_kept(ledger: Ledger, effect: Effect, *, memory: Memory | None, actor: Actor) -> bool:
    """Record the outcome of an earlier attempt that could not record it; whether there was one.

    :param effect: claimed, or with an unknown outcome.
    """
    facts = None if memory is None else memory.read(_name(effect))
    if memory is None or facts is None or facts["plan_digest"] != effect.plan_digest:
        return False
    applied, external_id = facts["outcome"] == "applied", facts["external_id"]
    external, own = None if external_id is None else str(external_id), bool(facts["own"])
    of_newest = facts["attempt"] == effect.attempt
    why = f"attempt {facts['attempt']} knew it, and the ledger was unavailable"
    if effect.state is EffectState.CLAIMED and of_newest and facts["token"] == str(effect.claim_token):
        claim = Claim(effect, effect.claim_token)
        if applied:
            ledger.effects.confirm(claim, external_id=external, result=None, own=own, actor=actor)
        elif facts["outcome"] == "refused":
            ledger.effects.refuse(claim, error=f"the target refused it: {why}", actor=actor)
        else:
            ledger.effects.release(claim, error=f"it was not sent: {why}", actor=actor)
    elif effect.state is EffectState.UNKNOWN and (applied or of_newest):
        ledger.effects.resolve(
            effect.effect_id,
            applied=applied,
            external_id=external,
            own=own,
            actor=actor,
            why=why,
            attempt=effect.attempt,
            resends=effect.resends,
        )
    else:
        return False
    memory.forget(_name(effect))
    return True


def _name(effect: Effect) -> str:
    return f"aihandoff.effect.{effect.effect_id}"
