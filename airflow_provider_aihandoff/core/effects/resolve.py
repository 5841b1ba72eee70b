"""Resolves an effect whose outcome is unknown, by a person: once, and for the attempt that they checked.

One that the target refused can be resolved as applied: a person has seen the write there, whatever the target answered.
A roll-back then includes it.
"""

from __future__ import annotations

from collections.abc import Mapping

from airflow_provider_aihandoff.core.errors import CannotResolve
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, Event
from airflow_provider_aihandoff.core.states import EffectState, JobEvent


def answer(
    ledger: Ledger,
    effect_id: int,
    *,
    applied: bool,
    external_id: str | None,
    why: str,
    actor: Actor,
    attempt: int | None = None,
) -> Effect:
    """Record what a person found in the target. The same answer by the same person, sent again, changes nothing.

    :param external_id: the id of the record in the target, when it was applied and has one.
    :param attempt: the attempt that was checked; by default the newest. What was found about an older one says
        nothing about a newer one.
    :return: the effect as it is now.
    :raises EffectNotFound: there is none with this id.
    :raises CannotResolve: it is neither unknown nor, where it was applied, refused; or there was a newer attempt since;
        nothing was recorded.
    """
    said = {"applied": applied, "external_id": external_id}
    seen = ledger.effects.read(effect_id)
    if attempt is None and seen.state is EffectState.UNKNOWN:
        earlier = _last_answer(ledger, seen)
        if earlier is not None and _is_same(earlier, said, actor):
            raise _unclear(ledger, seen, earlier)
    number = seen.attempt if attempt is None else attempt
    effect = ledger.effects.resolve(
        effect_id, applied=applied, external_id=external_id, actor=actor, why=why, attempt=number
    )
    last = _last_answer(ledger, effect)
    recorded = last is not None and _is_same(last, said, actor)
    if last is None or not recorded or (attempt is not None and last.detail.get("attempt") != attempt):
        raise _known(ledger, effect, last)
    return effect


def _last_answer(ledger: Ledger, effect: Effect) -> Event | None:
    """The newest line of the history that resolves the effect, by a probe or a person."""
    answers = [
        event
        for event in ledger.record(effect.job_id).events
        if event.event == JobEvent.EFFECT_RESOLVED and event.detail.get("effect_key") == effect.effect_key
    ]
    return answers[-1] if answers else None


def _is_same(event: Event, said: Mapping[str, object], actor: Actor) -> bool:
    return event.by == actor and all(event.detail.get(name) == value for name, value in said.items())


def _unclear(ledger: Ledger, effect: Effect, earlier: Event) -> CannotResolve:
    return CannotResolve(
        f"you gave the same answer for attempt {earlier.detail['attempt']} at the effect {effect.name!r}, and attempt "
        f"{effect.attempt} is unknown now.",
        job=ledger.job(effect.job_id).label,
        written="Your answer was not recorded. It causes no external write.",
        remedy=f"Check the target again; then name the attempt that you checked: {effect.attempt}.",
    )


def _known(ledger: Ledger, effect: Effect, last: Event | None) -> CannotResolve:
    if effect.state is EffectState.UNKNOWN:
        what = f"there was a newer attempt at the effect {effect.name!r} since: number {effect.attempt} is unknown now"
        remedy = "Check the target again, for that attempt; then record what you found."
    else:
        applied_as = f" as {effect.external_id}" if effect.external_id else ""
        what = f"the effect {effect.name!r} is {effect.state.value}{applied_as}, and not unknown"
        remedy = "There is nothing to resolve."
        if effect.state is EffectState.REFUSED:
            remedy = "If the target has the write all the same, resolve it as applied."
        if last is not None:
            what += f"; {last.actor} resolved attempt {last.detail['attempt']}: {last.reason}"
    return CannotResolve(
        f"{what}.",
        job=ledger.job(effect.job_id).label,
        written="Your answer was not recorded. It causes no external write.",
        remedy=remedy,
    )
