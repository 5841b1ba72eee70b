"""What clearing a run would do, before anything is done. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from airflow_provider_aihandoff.core.jobs.attach import Step, decide_attachment
from airflow_provider_aihandoff.core.jobs.state_words import ATTACHED
from airflow_provider_aihandoff.core.models import Effect, Job
from airflow_provider_aihandoff.core.states import TOUCHED_EFFECT_STATES, EffectState, JobState


class Draft(StrEnum):
    """What the task that makes a job does when it is cleared."""

    ATTACH = "attach"  # to what there is: nothing is paid
    ASK = "ask the model"  # a response is paid for
    REFUSE = "refuse"  # the task fails; nothing is paid


class Outcome(StrEnum):
    """What a cleared task makes of one effect, in the order in which they are counted."""

    APPLIED = "applied"  # and not sent again
    UNDONE = "undone"  # and not written again
    UNKNOWN = "unknown"  # a probe or a person resolves it
    UNDER_WAY = "being sent"  # another attempt has the claim
    RUN = "would run"
    DECIDE = "would run once approved"
    NOT_RUN = "would not run"


@dataclass(frozen=True)
class ClearedJob:
    """What clearing the whole run does to one job, if the run asks for the same as before.

    :param why: what the draft task does, as a sentence.
    :param effects: how many effects come to which outcome. Empty where the effects are not known: there is no plan yet,
        or there will be another one.
    """

    job: Job
    draft: Draft
    why: str
    effects: Mapping[Outcome, int]

    @property
    def effects_line(self) -> str:
        """The effects in one line: ``3 applied, 1 unknown, 2 would run``."""
        return effects_line(self.effects) or ("not planned yet" if self.draft is not Draft.REFUSE else "none")


def preview_clear(job: Job, effects: Sequence[Effect], model_revisions: int) -> ClearedJob:
    """What clearing every task of the job's run would do.

    :param effects: of the current revision, with their undos.
    :param model_revisions: how many revisions the model has made.
    """
    draft, why = _draft(job, effects, model_revisions)
    asks = draft is Draft.ASK and job.state is not JobState.QUEUED
    return ClearedJob(
        job, draft, why, {} if asks else Counter(_outcome(job, effect, effects) for effect in _own(effects))
    )


def effects_line(effects: Mapping[Outcome, int]) -> str:
    """How many effects come to which outcome, as text; empty where there are none."""
    return ", ".join(f"{effects[outcome]} {outcome.value}" for outcome in Outcome if effects.get(outcome))


def total_line(jobs: Sequence[ClearedJob]) -> str:
    """What clearing the run would cost and write, in total."""
    drafts = Counter(job.draft for job in jobs)
    effects: Counter[Outcome] = sum((Counter(job.effects) for job in jobs), Counter())
    asks = drafts[Draft.ASK]
    paid = "nothing is paid" if not asks else f"{_count(asks, 'response')} would be paid"
    refused = f", {_count(drafts[Draft.REFUSE], 'job')} refused" if drafts[Draft.REFUSE] else ""
    return f"{_count(len(jobs), 'job')}: {paid}{refused}; effects: {effects_line(effects) or 'none'}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _draft(job: Job, effects: Sequence[Effect], model_revisions: int) -> tuple[Draft, str]:
    touched = any(effect.state in TOUCHED_EFFECT_STATES and not _is_undone(effect, effects) for effect in _own(effects))
    cancelling = job.cancelling is not None
    step = decide_attachment(job.state, same_input=True, same_run=True, touched=touched, cancelling=cancelling)
    if step is Step.SUBMIT:
        return Draft.ASK, "asks the model: no response is known to run for it"
    if step is Step.REVISE and model_revisions >= job.max_revisions:
        return Draft.REFUSE, f"is refused: it failed, and {model_revisions} of {job.max_revisions} revisions are used"
    if step is Step.REVISE:
        return Draft.ASK, f"makes a new revision, which is paid: it failed ({job.state_reason})"
    if step is Step.REFUSE_CANCELLED:
        return Draft.REFUSE, f"is refused: it was cancelled ({job.state_reason})"
    if cancelling:
        return Draft.ATTACH, f"attaches, nothing is paid; it is being cancelled ({job.cancelling})"
    return Draft.ATTACH, ATTACHED[job.state]


def _own(effects: Sequence[Effect]) -> list[Effect]:
    return [effect for effect in effects if effect.undoes is None]


def _is_undone(effect: Effect, effects: Sequence[Effect]) -> bool:
    return any(other.undoes == effect.effect_id and other.state is EffectState.APPLIED for other in effects)


def _outcome(job: Job, effect: Effect, effects: Sequence[Effect]) -> Outcome:
    known = {
        EffectState.APPLIED: Outcome.UNDONE if _is_undone(effect, effects) else Outcome.APPLIED,
        EffectState.UNKNOWN: Outcome.UNKNOWN,
        EffectState.CLAIMED: Outcome.UNDER_WAY,
        EffectState.SKIPPED: Outcome.NOT_RUN,
        EffectState.VOID: Outcome.NOT_RUN,
    }
    if effect.state in known:
        return known[effect.state]
    if job.state is JobState.REVIEW:
        return Outcome.DECIDE
    runs = job.state in (JobState.APPROVED, JobState.APPLYING) and job.cancelling is None
    return Outcome.RUN if runs else Outcome.NOT_RUN
