"""What a bulk action would do to one job, and why it would not. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction
from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.effects.roll_back_store import CAN_ROLL_BACK, cannot_roll_back
from airflow_provider_aihandoff.core.effects.undo import needs_worker, undo_steps
from airflow_provider_aihandoff.core.jobs.acknowledge_store import cannot_acknowledge
from airflow_provider_aihandoff.core.jobs.cancel_store import cannot_cancel
from airflow_provider_aihandoff.core.jobs.state_words import CANCELLING
from airflow_provider_aihandoff.core.models import Effect, Job
from airflow_provider_aihandoff.core.states import EffectState, JobState


@dataclass(frozen=True)
class PlannedStep:
    """What would be done to one job.

    :param words: what, or why not, as a sentence.
    :param refused: whether nothing would be done.
    :param seen: what it is about, as it was shown: the attempts of effects by their ids, or the ``revision`` that
        failed.
    """

    job: Job
    words: str
    refused: bool = False
    seen: Mapping[str, int] = field(default_factory=dict)


def plan_step(action: BulkAction, job: Job, effects: Sequence[Effect], *, may_act: bool) -> PlannedStep:
    """What would be done to a job.

    :param effects: of the current revision, with their undos.
    :param may_act: whether the user may act on the jobs of its Dag.
    """
    if not may_act:
        return PlannedStep(job, f"You may not act on the jobs of the Dag {job.dag_id}.", refused=True)
    match action:
        case BulkAction.CANCEL:
            return _cancel(job)
        case BulkAction.ROLL_BACK:
            return _roll_back(job, effects)
        case BulkAction.RECONCILE:
            return _reconcile(job, effects)
        case BulkAction.ACKNOWLEDGE:
            return _acknowledge(job)
    return _resolve(action, job, effects)


def digest_of(action: BulkAction, steps: Sequence[PlannedStep]) -> str:
    """What a user confirms: the action, the jobs, and the effects of each as they were shown. SHA-256."""
    about = [[step.job.job_id, dict(step.seen)] for step in steps if not step.refused]
    return hashlib.sha256(canonical_json([action.value, sorted(about, key=lambda each: each[0])]).encode()).hexdigest()


def _cancel(job: Job) -> PlannedStep:
    if job.state is JobState.CANCELLED or job.cancelling is not None:
        return PlannedStep(job, "It is cancelled already, or is being cancelled.", refused=True)
    if job.state not in CANCELLING:
        return PlannedStep(job, _sentence(cannot_cancel(job).what), refused=True)
    return PlannedStep(job, CANCELLING[job.state])


def _roll_back(job: Job, effects: Sequence[Effect]) -> PlannedStep:
    seen = {str(effect.effect_id): effect.attempt for effect in effects if effect.state is EffectState.APPLIED}
    if job.state is JobState.ROLLING_BACK:
        left = [effect.name for effect in effects if effect.undoes and effect.state is not EffectState.APPLIED]
        return PlannedStep(job, f"Continues its roll-back; left: {', '.join(left)}.")
    intended = [effect for effect in effects if effect.undoes is None]
    if problem := cannot_roll_back(job, intended, {}):
        return PlannedStep(job, _sentence(problem.what), refused=True)
    steps = undo_steps(intended, {})
    if functions := [step.effect.name for step in steps if step.plan is not None and needs_worker(step.plan)]:
        words = f"Only a worker can undo {', '.join(functions)}: it calls a function. Use the Dag aihandoff_rollback."
        return PlannedStep(job, words, refused=True)
    return PlannedStep(job, f"Undoes {', '.join(step.effect.name for step in steps)}.", seen=seen)


def _resolve(action: BulkAction, job: Job, effects: Sequence[Effect]) -> PlannedStep:
    unknown = [effect for effect in effects if effect.state is EffectState.UNKNOWN]
    if not unknown:
        return PlannedStep(job, "It has no unknown effect.", refused=True)
    said = "was applied" if action is BulkAction.RESOLVE_APPLIED else "was not applied"
    names = ", ".join(f"{effect.name} (attempt {effect.attempt})" for effect in unknown)
    words = f"Records that this {said}: {names}."
    return PlannedStep(job, words, seen={str(effect.effect_id): effect.attempt for effect in unknown})


#: What the reconciler may find of a job in these states, and what it does then.
_RECONCILING = {
    JobState.QUEUED: "If its task has ended: counts a lost request as unknown, or fails the job after its deadline.",
    JobState.RUNNING: "If its task has ended, or its deadline has passed: cancels the response, and ends the job.",
    JobState.REVIEW: "If the time to decide has ended: rejects or fails it, as its author said.",
}


def _reconcile(job: Job, effects: Sequence[Effect]) -> PlannedStep:
    claimed = [effect.name for effect in effects if effect.state is EffectState.CLAIMED]
    if claimed:
        words = f"If the claim of {', '.join(claimed)} has expired: records that the outcome is not known."
        return PlannedStep(job, words)
    if job.state not in _RECONCILING:
        return PlannedStep(job, f"It is {job.state.value.replace('_', ' ')}: nothing can be left behind.", refused=True)
    return PlannedStep(job, _RECONCILING[job.state])


def _acknowledge(job: Job) -> PlannedStep:
    if problem := cannot_acknowledge(job, job.revision):
        return PlannedStep(job, _sentence(problem.what), refused=True)
    if job.acknowledged_at is not None:
        return PlannedStep(job, "It is acknowledged already.", refused=True)
    return PlannedStep(job, "Records that its failure was seen.", seen={"revision": job.revision})


def can_start(job: Job) -> bool:
    """Whether a roll-back of the job has not begun, so that what was shown must still be so."""
    return job.state in CAN_ROLL_BACK


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}".rstrip(".") + "."
