"""Who says that all effects are applied: the task that applied the last one, or waited for what it had sent."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects.completion import completion_of
from airflow_provider_aihandoff.core.models import RECONCILER, Actor, ActorKind
from airflow_provider_aihandoff.core.states import EffectState, JobEvent, JobState

AT = datetime(2026, 1, 1, tzinfo=UTC)
BOB = Actor.user("bob")


def task(name: str, try_number: int = 1) -> Actor:
    return Actor(ActorKind.TASK, dag_id="d", run_id="r", task_id=name, map_index=-1, try_number=try_number)


def line(event: JobEvent, by: Actor, effect: str | None = None) -> Any:
    return SimpleNamespace(event=event.value, by=by, at=AT, detail={} if effect is None else {"effect": effect})


def record(*history: Any, state: JobState = JobState.COMPLETED, **effects: EffectState) -> Any:
    current = [SimpleNamespace(name=name, state=found) for name, found in effects.items()]
    return SimpleNamespace(job=SimpleNamespace(state=state), current_effects=current, history=list(history))


APPLIED, SKIPPED = EffectState.APPLIED, EffectState.SKIPPED


def test_it_is_the_attempt_that_applied_the_last_one() -> None:
    found = completion_of(
        record(
            line(JobEvent.EFFECT_CLAIMED, task("a"), "a"),
            line(JobEvent.EFFECT_CLAIMED, task("b", 2), "b"),
            line(JobEvent.EFFECT_APPLIED, task("a"), "a"),
            line(JobEvent.EFFECT_APPLIED, task("b", 2), "b"),
            line(JobEvent.ALL_APPLIED, task("b", 2)),
            a=APPLIED,
            b=APPLIED,
        )
    )
    assert found is not None
    assert (found.by, found.at) == (task("b", 2), AT)
    assert [effect.name for effect in found.applied] == ["a", "b"]


@pytest.mark.parametrize("resolver", [BOB, RECONCILER])
def test_where_a_person_resolved_the_last_one_it_is_the_task_that_had_sent_it(resolver: Actor) -> None:
    found = completion_of(
        record(
            line(JobEvent.EFFECT_CLAIMED, task("a"), "a"),
            line(JobEvent.EFFECT_UNKNOWN, task("a"), "a"),
            line(JobEvent.EFFECT_CLAIMED, task("a", 2), "a"),
            line(JobEvent.EFFECT_CLAIMED, task("b"), "b"),
            line(JobEvent.EFFECT_APPLIED, task("b"), "b"),
            line(JobEvent.EFFECT_RESOLVED, resolver, "a"),
            line(JobEvent.ALL_APPLIED, resolver),
            a=APPLIED,
            b=APPLIED,
        )
    )
    assert found is not None
    assert found.by == task("a", 2)


def test_where_the_reconciler_found_the_last_one_skipped_no_task_says_so() -> None:
    found = completion_of(
        record(
            line(JobEvent.EFFECT_CLAIMED, task("a"), "a"),
            line(JobEvent.EFFECT_APPLIED, task("a"), "a"),
            line(JobEvent.EFFECT_SKIPPED, RECONCILER, "b"),
            line(JobEvent.ALL_APPLIED, RECONCILER),
            a=APPLIED,
            b=SKIPPED,
        )
    )
    assert found is not None
    assert found.by is None


def test_a_newer_revision_has_a_completion_of_its_own() -> None:
    found = completion_of(
        record(
            line(JobEvent.ALL_APPLIED, task("a")),
            line(JobEvent.REVISED, task("draft")),
            line(JobEvent.ALL_APPLIED, task("b")),
            a=APPLIED,
        )
    )
    assert found is not None
    assert found.by == task("b")


@pytest.mark.parametrize(
    ("state", "effect"),
    [(JobState.APPLYING, APPLIED), (JobState.ROLLED_BACK, APPLIED), (JobState.COMPLETED, SKIPPED)],
)
def test_a_job_that_is_not_completed_or_has_written_nothing_has_none(state: JobState, effect: EffectState) -> None:
    assert completion_of(record(line(JobEvent.ALL_APPLIED, task("a")), state=state, a=effect)) is None
