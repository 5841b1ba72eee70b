"""Effects of approved jobs whose task Airflow has skipped."""

from __future__ import annotations

from dataclasses import replace

from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState
from airflow_provider_aihandoff.core.reconcile.findings import MOVED_ON
from airflow_provider_aihandoff.core.states import EffectState, JobState
from tests.factories import approve, ask, draft, effect_plan
from tests.integration.core.reconcile.world import World, kinds


def approved(world: World, *names: str, seconds: float = 600) -> Job:
    plans = [replace(effect_plan(name), task_id=name) for name in names]
    job = approve(world.ledger, ask(world.ledger, draft(world.ledger), *plans))
    world.sql("UPDATE aihandoff.effects SET updated_at = clock_timestamp() - make_interval(secs => %s)", seconds)
    return job


def states(world: World, job: Job) -> list[EffectState]:
    return [effect.state for effect in world.ledger.record(job.job_id).current_effects]


def test_the_effect_is_recorded_as_skipped_and_the_job_completes(world: World) -> None:
    job = approved(world, "lamp")
    world.tasks[job.run_id] = TaskState.SKIPPED
    (finding,) = world.reconcile()
    assert (finding.kind, finding.done) == ("skipped effect", "the job is completed")
    assert states(world, job) == [EffectState.SKIPPED]
    assert world.reconcile() == []


def test_one_whose_task_may_still_run_is_left(world: World) -> None:
    job = approved(world, "lamp")
    for state in (TaskState.ALIVE, TaskState.ENDED, TaskState.MISSING, TaskState.UNKNOWN):
        world.tasks[job.run_id] = state
        assert world.reconcile() == []
    assert states(world, job) == [EffectState.PLANNED]


def test_one_that_was_planned_a_moment_ago_is_left(world: World) -> None:
    job = approved(world, "lamp", seconds=5)
    world.tasks[job.run_id] = TaskState.SKIPPED
    assert world.reconcile() == []


def test_one_whose_task_was_cleared_meanwhile_is_left(world: World) -> None:
    job = approved(world, "lamp")
    world.tasks[job.run_id] = [TaskState.SKIPPED, TaskState.ALIVE]
    (finding,) = world.reconcile()
    assert finding.done == MOVED_ON
    assert world.state(job) == JobState.APPROVED


def test_each_of_several_is_recorded(world: World) -> None:
    job = approved(world, "lamp", "kettle")
    world.tasks[job.run_id] = TaskState.SKIPPED
    assert kinds(world.reconcile()) == ["skipped effect"] * 2
    assert world.state(job) == JobState.COMPLETED
