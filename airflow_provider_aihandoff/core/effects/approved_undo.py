"""Whether an undo in the ledger is the one that was approved. Its row is data that a person or a program may have
changed since; the history says what was decided. Pure.

The plan of a job is stored with a seal for each undo: a keyed digest, in the line of the history that the decision is
bound to. Who can write to the ledger and has no ``[aihandoff] digest_key`` can make neither another undo that fits the
seal, nor a seal for another undo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.digests import digest, keyed_digest
from airflow_provider_aihandoff.core.models import Effect, EffectPlan, Event, Job
from airflow_provider_aihandoff.core.states import EffectState, JobEvent
from airflow_provider_aihandoff.core.text import plain_or_none

#: The seals of the undos in the detail of the line that stores a plan, by the names of their effects.
SEALS = "undos"


def seals(job: Job, plans: Sequence[EffectPlan], key: str) -> dict[str, str]:
    """The seals of the undos that a plan declares, by the names of their effects."""
    return {
        plan.name: _seal(job.job_id, job.revision, plan.name, plan.plan_digest, plan.undo, key)
        for plan in plans
        if plan.undo is not None
    }


def altered_undos(job: Job, effects: Sequence[Effect], events: Sequence[Event], key: str) -> dict[int, str]:
    """Why an applied effect cannot be undone by what its row says, as text, by the effect's id.

    :param effects: of the current revision.
    :param events: the whole history of the job.
    :param key: the key of digests.
    """
    applied = [each for each in effects if each.undoes is None and each.undo and each.state is EffectState.APPLIED]
    if not applied:
        return {}
    broken = first_break(events, job)
    if broken is not None:
        why = f"has an undo that cannot be compared with the approved one: line {broken} of the history was altered"
        return {effect.effect_id: why for effect in applied}
    planned = max((event.seq for event in events if "components" in event.detail), default=0)
    sealed = next((event.detail.get(SEALS) for event in events if event.seq == planned), None)
    facts = _facts([event for event in events if event.seq > planned])
    found = {effect.effect_id: _altered(effect, sealed, facts.get(effect.name), key) for effect in applied}
    return {effect_id: why for effect_id, why in found.items() if why is not None}


def _altered(effect: Effect, sealed: object, fact: Mapping[str, Any] | None, key: str) -> str | None:
    if not isinstance(sealed, dict):
        return "was planned by an earlier release, which did not record which undo was approved"
    expected = _seal(effect.job_id, effect.revision, effect.name, effect.plan_digest, effect.undo, key)
    if sealed.get(effect.name) != expected:
        return "has an undo that is not the approved one, or was approved with another [aihandoff] digest_key"
    filled = digest(effect.filled) if effect.filled else None
    known = {"effect_key": effect.effect_key, "external_id": effect.external_id, "filled_digest": filled}
    if fact != known:
        return "has another external id or effect key than the history says, or another value of an earlier effect"
    return None


def _facts(events: Sequence[Event]) -> dict[str, dict[str, Any]]:
    """What the history says of the writes that were applied, by the names of their effects."""
    claimed: dict[str, dict[str, Any]] = {}
    applied: dict[str, dict[str, Any]] = {}
    for event in events:
        name = str(event.detail.get("effect"))
        if event.event == JobEvent.EFFECT_CLAIMED:
            claimed[name] = {field: event.detail.get(field) for field in ("effect_key", "filled_digest")}
        elif event.event == JobEvent.EFFECT_APPLIED or event.detail.get("applied"):
            external_id = plain_or_none(event.detail.get("external_id"))
            applied[name] = {
                "effect_key": None,
                "filled_digest": None,
                **claimed.get(name, {}),
                "external_id": external_id,
            }
    return applied


def _seal(job_id: int, revision: int, name: str, plan_digest: str, undo: Mapping[str, Any] | None, key: str) -> str:
    return keyed_digest([job_id, revision, name, plan_digest, undo], key)
