"""What the log and the metrics say of steps that were committed together."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.database.step_log import say_steps
from airflow_provider_aihandoff.core.models import ActorKind, Event, JobHead
from airflow_provider_aihandoff.core.states import JobState
from tests.recorder import recording


def _step(job_id: int, job_type: str = "publishing") -> tuple[JobHead, Event]:
    job = JobHead(job_id, job_type, "kettle", JobState.RUNNING, revision=1, event_seq=2, event_hash="0" * 64)
    line = Event(
        job_id=job_id,
        seq=3,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        actor="webhook:openai_default",
        event="response ended",
        from_state="running",
        to_state="running",
        reason=None,
        detail={"revision": 1},
        previous_hash="0" * 64,
        hash="1" * 64,
        actor_kind=ActorKind.WEBHOOK,
        actor_name="openai_default",
        actor_user_id=None,
        actor_dag_id=None,
        actor_run_id=None,
        actor_task_id=None,
        actor_map_index=None,
        actor_try_number=None,
        hash_version=2,
    )
    return job, line


STEPS = [_step(1), _step(2), _step(3, "tickets")]


def test_each_step_is_a_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "airflow_provider_aihandoff.steps")
    say_steps(STEPS)
    assert [record.getMessage() for record in caplog.records] == [
        f'step="response ended" job={job_id} revision=1 state=running event=3 by=webhook' for job_id in (1, 2, 3)
    ]


def test_steps_that_are_alike_are_counted_at_once() -> None:
    with recording() as recorded:
        say_steps(STEPS)
    labels = {"step": "response_ended", "state": "running"}
    assert recorded.of(signals.STEPS) == [
        ({"job_type": "publishing", **labels}, 2),
        ({"job_type": "tickets", **labels}, 1),
    ]


def test_steps_that_are_not_logged_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "airflow_provider_aihandoff.steps")
    with recording() as recorded:
        say_steps(STEPS)
    assert caplog.records == []
    assert sum(number for _, number in recorded.of(signals.STEPS)) == 3
