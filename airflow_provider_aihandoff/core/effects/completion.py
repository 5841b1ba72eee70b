"""When all effects of a job were applied, and which task says so to others. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.models import Actor, ActorKind, Effect
from airflow_provider_aihandoff.core.states import EffectState, JobEvent, JobState

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import JobRecord


@dataclass(frozen=True)
class Completion:
    """All effects of the current revision of a job are applied, or skipped; at least one is applied.

    :param at: when the last one was.
    :param by: the attempt of a task that says so: it applied the last one, or had sent what a person has resolved. None
        where no task has.
    """

    at: datetime
    by: Actor | None
    applied: Sequence[Effect]


def completion_of(record: JobRecord) -> Completion | None:
    """How a job was completed; None where it is not, or has written nothing."""
    applied = [effect for effect in record.current_effects if effect.state is EffectState.APPLIED]
    if record.job.state is not JobState.COMPLETED or not applied:
        return None
    history = record.history
    last = max(place for place, line in enumerate(history) if line.event == JobEvent.ALL_APPLIED)
    line = history[last]
    if line.by.kind is ActorKind.TASK:
        return Completion(line.at, line.by, applied)
    # A person, or the reconciler, has said what became of one effect. The task that had sent it waits for that.
    name = history[last - 1].detail.get("effect")
    claims = [
        each.by
        for each in history[:last]
        if each.event == JobEvent.EFFECT_CLAIMED and each.detail.get("effect") == name
    ]
    return Completion(line.at, claims[-1] if claims else None, applied)
