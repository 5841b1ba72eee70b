"""What a task that comes with a job key does next, when the job exists already. Pure."""

from __future__ import annotations

from enum import StrEnum

from airflow_provider_aihandoff.core.states import JobState


class Attachment(StrEnum):
    """What a task that comes with a job key does next."""

    SUBMIT = "submit"  # no response runs for the job yet
    WAIT = "wait"  # a response runs: wait for it
    DONE = "done"  # the output is there, or a decision on it


class Step(StrEnum):
    """The same, with the steps that the ledger takes on its own."""

    SUBMIT = "submit"
    WAIT = "wait"
    DONE = "done"
    REVISE = "revise"
    REFUSE_CANCELLED = "refuse: cancelled"
    REFUSE_CHANGED = "refuse: input changed"
    REFUSE_REGENERATE = "refuse: regenerate"


_SAME_INPUT = {
    JobState.QUEUED: Step.SUBMIT,
    JobState.RUNNING: Step.WAIT,
    JobState.REVIEW: Step.DONE,
    JobState.APPROVED: Step.DONE,
    JobState.APPLYING: Step.DONE,
    JobState.COMPLETED: Step.DONE,
    JobState.ROLLING_BACK: Step.DONE,
    JobState.ROLLED_BACK: Step.DONE,
    JobState.FAILED: Step.REVISE,
    JobState.CANCELLED: Step.REFUSE_CANCELLED,
}

_REVISABLE = frozenset(
    {
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.REVIEW,
        JobState.APPROVED,
        JobState.APPLYING,
        JobState.REJECTED,
        JobState.FAILED,
    }
)


def decide_attachment(
    state: JobState,
    *,
    same_input: bool,
    same_run: bool,
    touched: bool,
    regenerate: bool = False,
    cancelling: bool = False,
) -> Step:
    """What a task does with a job that exists. Pure.

    A rejection is final for the Dag run that it was given in, so that clearing that run repeats no cost and ends the
    same way; another run with the same key asks the model again.

    :param same_input: the task asks for the work that the job was made for.
    :param same_run: a task of the same Dag run has made or attached to the job before.
    :param touched: an effect of the job may have made an external write, and was not undone.
    :param regenerate: a person explicitly asks for a new revision, and it does not exist yet.
    :param cancelling: a person has asked to cancel the job, and it has not ended yet.
    """
    if regenerate:
        refuse = touched or state is JobState.ROLLING_BACK
        return Step.REFUSE_REGENERATE if refuse else Step.REVISE
    if state is JobState.CANCELLED or (state is JobState.RUNNING and cancelling):
        return Step.REFUSE_CANCELLED
    if not same_input:
        return Step.REVISE if state in _REVISABLE and not touched else Step.REFUSE_CHANGED
    if state is JobState.REJECTED:
        return Step.DONE if same_run else Step.REVISE
    return _SAME_INPUT[state]
