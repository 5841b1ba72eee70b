"""The time of a job as a picture: where each phase, attempt, webhook and decision is."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.models import ActorKind, Event
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.render.job_time import MAX_MARKS, MAX_PHASES, WIDTH, Bar, job_time
from tests.unit.core.jobs.records import NOW, record

WEEK = timedelta(days=7)


def line(seconds_ago: float, event: str, to_state: str, kind: ActorKind = ActorKind.TASK, **detail: Any) -> Event:
    values: dict[str, Any] = {**dict.fromkeys(Event.__dataclass_fields__), "detail": detail}
    at = NOW - timedelta(seconds=seconds_ago)
    return Event(**{**values, "at": at, "event": event, "to_state": to_state, "actor": "who", "actor_kind": kind.value})


def job(*events: Event) -> JobRecord:
    return record(JobState.APPLYING, events=events)


WHOLE = job(
    line(100, "created", "queued"),
    line(99, "submit intended", "queued"),
    line(98, "submitted", "running"),
    line(60, "response ended", "running", ActorKind.WEBHOOK),
    line(58, "output stored", "review"),
    line(20, "approved", "approved", ActorKind.USER),
    line(10, "effect claimed", "applying", effect="publish"),
)


def test_the_phases_follow_the_states_and_the_last_one_goes_on() -> None:
    assert job_time(WHOLE).summary == "queued 2 s, model 40 s, review 38 s, writing 20 s so far"


def test_a_job_that_has_ended_has_no_phase_that_goes_on() -> None:
    ended = job(*WHOLE.events, line(5, "all applied", "completed"))
    assert job_time(ended).summary == "queued 2 s, model 40 s, review 38 s, writing 15 s"


def test_a_job_that_is_written_again_has_its_phases_again() -> None:
    again = job(*WHOLE.events, line(5, "all applied", "completed"), line(3, "roll back started", "rolling_back"))
    assert job_time(again).summary.endswith("writing 15 s, undoing 3 s so far")


def test_attempts_webhooks_and_decisions_are_marked_where_they_happened() -> None:
    found = job_time(WHOLE)
    assert [(mark.kind.value, mark.what) for mark in found.marks] == [
        ("attempt", "submit intended"),
        ("webhook", "response ended"),
        ("decision", "approved"),
        ("attempt", "effect claimed: publish"),
    ]
    queued, model, review, writing = found.bars
    attempt, webhook, decision, claim = (mark.x for mark in found.marks)
    assert attempt == pytest.approx(queued.x + queued.width / 2)
    assert webhook == pytest.approx(model.x + model.width * 38 / 40)
    assert decision == writing.x == pytest.approx(review.x + review.width)
    assert claim == pytest.approx(writing.x + writing.width / 2)


def test_a_short_phase_beside_a_long_one_can_be_seen() -> None:
    found = job_time(job(line(WEEK.total_seconds(), "created", "queued"), line(1, "submitted", "running")))
    assert [bar.width for bar in found.bars] == [pytest.approx(960, abs=1), pytest.approx(40, abs=1)]


def test_the_table_has_everything_in_the_picture_in_order() -> None:
    rows = job_time(WHOLE).rows
    moments = [row.begin if isinstance(row, Bar) else row.at for row in rows]
    assert len(rows) == 8
    assert moments == sorted(moments)


def test_a_job_without_a_history_has_no_picture() -> None:
    assert job_time(job()).bars == ()


@given(st.lists(st.tuples(st.floats(0, 1e7), st.sampled_from(["queued", "running", "review", "completed"]))))
def test_everything_is_within_the_picture(lines: list[tuple[float, str]]) -> None:
    ordered = sorted(lines, key=lambda each: -each[0])
    found = job_time(job(*(line(ago, "submit intended", state) for ago, state in ordered)))
    if found.bars:
        assert sum(bar.width for bar in found.bars) == pytest.approx(WIDTH)
    assert all(bar.x + bar.width == pytest.approx(after.x) for bar, after in pairwise(found.bars))
    assert all(-0.001 <= mark.x <= WIDTH + 0.001 for mark in found.marks)


def test_a_long_history_is_drawn_from_its_newest_part() -> None:
    states = ("queued", "running")
    found = job_time(job(*(line(3000 - number, "submit intended", states[number % 2]) for number in range(2000))))
    assert (len(found.bars), len(found.marks)) == (MAX_PHASES, MAX_PHASES)
    same = job_time(job(*(line(3000 - number, "submit intended", "queued") for number in range(2000))))
    assert (len(same.bars), len(same.marks)) == (1, MAX_MARKS)
