"""What Airflow says of a task instance is found by its id, and else by its name."""

from __future__ import annotations

from airflow_provider_aihandoff.core.models import Owner
from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState
from airflow_provider_aihandoff.task_states import state_among, task_states

FIRST, SECOND = (Owner("notes", "manual__1", "refine.draft", -1, f"ti-{number}", 1) for number in (1, 2))
MAPPED = Owner("notes", "manual__1", "draft", 3, "ti-3", 1)


def test_each_iteration_of_a_loop_has_the_state_of_its_own_task_instance() -> None:
    answer = {"manual__1": {"ti-1": "failed", "ti-2": "running", "refine.draft": "running"}}
    assert (state_among(FIRST, answer), state_among(SECOND, answer)) == ("failed", "running")
    assert task_states([FIRST, SECOND], lambda *_: answer) == {FIRST: TaskState.ENDED, SECOND: TaskState.ALIVE}


def test_a_task_instance_whose_id_is_not_known_is_found_by_its_name() -> None:
    answer = {"manual__1": {"refine.draft": "running", "draft_3": "failed"}}
    assert (state_among(FIRST, answer), state_among(MAPPED, answer)) == ("running", "failed")
    assert task_states([MAPPED], lambda *_: answer) == {MAPPED: TaskState.ENDED}
    assert task_states([FIRST], lambda *_: {"manual__1": {"other": "running"}}) == {FIRST: TaskState.MISSING}
