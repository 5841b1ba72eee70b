"""What a bulk action would do to one job, and why it would not. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from airflow_provider_aihandoff.core.amounts import count
from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction, Found
from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.effects.roll_back_store import CAN_ROLL_BACK, cannot_roll_back
from airflow_provider_aihandoff.core.effects.undo import needs_worker, undo_steps
from airflow_provider_aihandoff.core.jobs.acknowledge_store import cannot_acknowledge
from airflow_provider_aihandoff.core.jobs.cancel_store import cannot_cancel
from airflow_provider_aihandoff.core.jobs.state_words import CANCELLING
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.review.reassignment import cannot_reassign, reassigned, voided_by
from airflow_provider_aihandoff.core.review.rules import Reassignment, Reviewers
from airflow_provider_aihandoff.core.states import EffectState, JobState

#: In what a step is about, the name of how often the review of its job was reassigned.
REASSIGNED = "reassigned"


@dataclass(frozen=True)
class Impact:
    """What a step stops and writes, as numbers.

    :param stops: whether a response that runs is stopped, or may be.
    :param writes: the kinds of targets to which it makes external writes: one for each write.
    :param unsent: planned writes that are never sent.
    :param stays: applied writes that stay as they are.
    :param answers: attempts of which it records the outcome.
    :param voided: approvals that do not count any more.
    :param kept: approvals that still count.
    """

    stops: bool = False
    writes: tuple[str, ...] = ()
    unsent: int = 0
    stays: int = 0
    answers: int = 0
    voided: int = 0
    kept: int = 0


@dataclass(frozen=True)
class PlannedStep:
    """What would be done to one job.

    :param words: what, or why not, as a sentence.
    :param refused: whether nothing would be done.
    :param seen: what it is about, as it was shown: the attempts of effects by their ids, the ``revision`` that failed,
        or under :data:`REASSIGNED` how often the review was reassigned.
    """

    found: Found
    words: str
    refused: bool = False
    seen: Mapping[str, int] = field(default_factory=dict)
    impact: Impact = Impact()

    @property
    def job(self) -> Job:
        """The job, as it was shown."""
        return self.found.job


def plan_step(
    action: BulkAction, found: Found, *, may_act: bool, actor: Actor, reviewers: Reviewers | None = None
) -> PlannedStep:
    """What would be done to a job.

    :param may_act: whether the user may act on the jobs of its Dag.
    :param actor: the user.
    :param reviewers: who may decide then, where it reassigns reviews.
    """
    if not may_act:
        return _refused(found, f"You may not act on the jobs of the Dag {found.job.dag_id}.")
    match action:
        case BulkAction.CANCEL:
            return _cancel(found)
        case BulkAction.ROLL_BACK:
            return _roll_back(found)
        case BulkAction.RECONCILE:
            return _reconcile(found)
        case BulkAction.REASSIGN:
            return _reassign(found, reviewers or Reviewers(), actor)
        case BulkAction.ACKNOWLEDGE:
            return _acknowledge(found)
    return _resolve(action, found)


def digest_of(action: BulkAction, steps: Sequence[PlannedStep], reviewers: Reviewers | None) -> str:
    """What a user confirms: the action, the jobs, and what was shown of each. SHA-256."""
    shown = sorted((step for step in steps if not step.refused), key=lambda step: step.job.job_id)
    about = [[step.job.job_id, dict(step.seen)] for step in shown]
    confirmed = [action.value, None if reviewers is None else reviewers.to_json(), about]
    return hashlib.sha256(canonical_json(confirmed).encode()).hexdigest()


def _refused(found: Found, why: str) -> PlannedStep:
    return PlannedStep(found, why, refused=True)


def _cancel(found: Found) -> PlannedStep:
    job = found.job
    if job.state is JobState.CANCELLED or job.cancelling is not None:
        return _refused(found, "It is cancelled already, or is being cancelled.")
    if job.state not in CANCELLING:
        return _refused(found, _sentence(cannot_cancel(job).what))
    states = [effect.state for effect in found.effects]
    unsent = sum(state in (EffectState.PLANNED, EffectState.REFUSED) for state in states)
    impact = Impact(stops=found.runs, unsent=unsent, stays=states.count(EffectState.APPLIED))
    return PlannedStep(found, CANCELLING[job.state], impact=impact)


def _roll_back(found: Found) -> PlannedStep:
    job, effects = found.job, found.effects
    seen = {str(effect.effect_id): effect.attempt for effect in effects if effect.state is EffectState.APPLIED}
    if job.state is JobState.ROLLING_BACK:
        left = [effect for effect in effects if effect.undoes and effect.state is not EffectState.APPLIED]
        impact = Impact(writes=tuple(effect.kind for effect in left))
        words = f"Continues its roll-back; left: {', '.join(effect.name for effect in left)}."
        return PlannedStep(found, words, impact=impact)
    intended = [effect for effect in effects if effect.undoes is None]
    if problem := cannot_roll_back(job, intended, {}):
        return _refused(found, _sentence(problem.what))
    steps = undo_steps(intended, {})
    plans = [step.plan for step in steps if step.plan is not None]
    if functions := [step.effect.name for step in steps if step.plan is not None and needs_worker(step.plan)]:
        words = f"Only a worker can undo {', '.join(functions)}: it calls a function. Use the Dag aihandoff_rollback."
        return _refused(found, words)
    words = f"Undoes {', '.join(step.effect.name for step in steps)}."
    return PlannedStep(found, words, seen=seen, impact=Impact(writes=tuple(plan.kind for plan in plans)))


def _resolve(action: BulkAction, found: Found) -> PlannedStep:
    unknown = [effect for effect in found.effects if effect.state is EffectState.UNKNOWN]
    if not unknown:
        return _refused(found, "It has no unknown effect.")
    said = "was applied" if action is BulkAction.RESOLVE_APPLIED else "was not applied"
    names = ", ".join(f"{effect.name} (attempt {effect.attempt})" for effect in unknown)
    seen = {str(effect.effect_id): effect.attempt for effect in unknown}
    return PlannedStep(found, f"Records that this {said}: {names}.", seen=seen, impact=Impact(answers=len(unknown)))


def _reassign(found: Found, reviewers: Reviewers, actor: Actor) -> PlannedStep:
    job = found.job
    if why := cannot_reassign(job, reviewers, by=actor):
        return _refused(found, _sentence(why))
    void = voided_by(job, reassigned(job, reviewers, by=actor), found.votes)
    names = ", ".join(vote.decider.label for vote in void)
    words = _sentence(str(reviewers)) + (f" Voids the approval of {names}." if void else "")
    kept = len(found.votes) - len(void)
    if kept:
        words += f" {count(kept, 'approval')} stays." if kept == 1 else f" {count(kept, 'approval')} stay."
    seen = {REASSIGNED: Reassignment.from_json(job.reassigned).number}
    return PlannedStep(found, words, seen=seen, impact=Impact(voided=len(void), kept=kept))


#: What the reconciler may find of a job in these states, and what it does then.
_RECONCILING = {
    JobState.QUEUED: "If its task has ended: counts a lost request as unknown, or fails the job after its deadline.",
    JobState.RUNNING: "If its task has ended, or its deadline has passed: cancels the response, and ends the job.",
    JobState.REVIEW: "If the time to decide has ended: rejects or fails it, as its author said.",
}


def _reconcile(found: Found) -> PlannedStep:
    job = found.job
    claimed = [effect.name for effect in found.effects if effect.state is EffectState.CLAIMED]
    if claimed:
        words = f"If the claim of {', '.join(claimed)} has expired: records that the outcome is not known."
        return PlannedStep(found, words)
    if job.state not in _RECONCILING:
        return _refused(found, f"It is {job.state.value.replace('_', ' ')}: nothing can be left behind.")
    return PlannedStep(found, _RECONCILING[job.state], impact=Impact(stops=found.runs))


def _acknowledge(found: Found) -> PlannedStep:
    job = found.job
    if problem := cannot_acknowledge(job, job.revision):
        return _refused(found, _sentence(problem.what))
    if job.acknowledged_at is not None:
        return _refused(found, "It is acknowledged already.")
    return PlannedStep(found, "Records that its failure was seen.", seen={"revision": job.revision})


def can_start(job: Job) -> bool:
    """Whether a roll-back of the job has not begun, so that what was shown must still be so."""
    return job.state in CAN_ROLL_BACK


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}".rstrip(".") + "."
