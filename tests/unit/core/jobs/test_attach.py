"""What a task does with a job that exists: every state, with each of the flags."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.jobs.attach import Attachment, Step, decide_attachment
from airflow_provider_aihandoff.core.states import JobState

S = JobState
SAME_INPUT = {
    S.QUEUED: Step.SUBMIT,
    S.RUNNING: Step.WAIT,
    S.REVIEW: Step.DONE,
    S.APPROVED: Step.DONE,
    S.APPLYING: Step.DONE,
    S.COMPLETED: Step.DONE,
    S.FAILED: Step.REVISE,
    S.CANCELLED: Step.REFUSE_CANCELLED,
    S.ROLLING_BACK: Step.DONE,
    S.ROLLED_BACK: Step.DONE,
}
REVISABLE = {S.QUEUED, S.RUNNING, S.REVIEW, S.APPROVED, S.APPLYING, S.REJECTED, S.FAILED}


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("same_run", [False, True])
@pytest.mark.parametrize("state", SAME_INPUT)
def test_with_the_same_input_the_state_alone_says_what_is_next(state: JobState, same_run: bool, touched: bool) -> None:
    assert decide_attachment(state, same_input=True, same_run=same_run, touched=touched) is SAME_INPUT[state]


@pytest.mark.parametrize("touched", [False, True])
def test_a_rejection_is_final_in_its_run_and_another_run_asks_again(touched: bool) -> None:
    assert decide_attachment(S.REJECTED, same_input=True, same_run=True, touched=touched) is Step.DONE
    assert decide_attachment(S.REJECTED, same_input=True, same_run=False, touched=touched) is Step.REVISE


@pytest.mark.parametrize("same_run", [False, True])
@pytest.mark.parametrize("state", sorted(set(JobState) - {S.CANCELLED}))
def test_other_input_makes_a_new_revision_only_while_nothing_can_have_been_written(
    state: JobState, same_run: bool
) -> None:
    untouched = decide_attachment(state, same_input=False, same_run=same_run, touched=False)
    assert untouched is (Step.REVISE if state in REVISABLE else Step.REFUSE_CHANGED)
    assert decide_attachment(state, same_input=False, same_run=same_run, touched=True) is Step.REFUSE_CHANGED


@pytest.mark.parametrize("same_input", [False, True])
def test_a_cancelled_job_stays_cancelled_for_every_task(same_input: bool) -> None:
    step = decide_attachment(S.CANCELLED, same_input=same_input, same_run=False, touched=False)
    assert step is Step.REFUSE_CANCELLED


def test_every_answer_to_a_task_is_a_step_of_the_same_name() -> None:
    assert {Attachment(step) for step in (Step.SUBMIT, Step.WAIT, Step.DONE)} == set(Attachment)


@pytest.mark.parametrize("same_input", [False, True])
@pytest.mark.parametrize("same_run", [False, True])
@pytest.mark.parametrize("state", S)
def test_a_new_revision_on_demand_needs_nothing_but_that_nothing_stays_written(
    state: JobState, same_run: bool, same_input: bool
) -> None:
    flags = {"same_input": same_input, "same_run": same_run, "regenerate": True}
    untouched = decide_attachment(state, touched=False, **flags)
    assert untouched is (Step.REFUSE_REGENERATE if state is S.ROLLING_BACK else Step.REVISE)
    assert decide_attachment(state, touched=True, **flags) is Step.REFUSE_REGENERATE
