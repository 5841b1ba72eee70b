"""What clearing a run would do, for a job in every state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_aihandoff.core.jobs.clear_preview import Draft, Outcome, preview_clear, total_line
from airflow_provider_aihandoff.core.models import Effect, Job
from airflow_provider_aihandoff.core.states import EffectState, JobState

NOW = datetime(2026, 7, 20, 12, tzinfo=UTC)
UNDO = {"kind": "http", "plan": {"connection": "cms", "method": "DELETE", "url": "http://cms/{external_id}"}}


def job(state: JobState, **changes: Any) -> Job:
    fields: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    return Job(**{**fields, "job_id": 1, "state": state, "state_reason": "so it is", "max_revisions": 3, **changes})


def effect(number: int, state: EffectState, **changes: Any) -> Effect:
    fields: dict[str, Any] = dict.fromkeys(Effect.__dataclass_fields__)
    own = {"effect_id": number, "name": f"e{number}", "effect_key": f"key-{number}", "external_id": f"id-{number}"}
    return Effect(**{**fields, **own, "state": state, "undo": UNDO, **changes})


def effects(*states: EffectState) -> list[Effect]:
    return [effect(number, state) for number, state in enumerate(states, 1)]


E = EffectState
PLANNED = [E.PLANNED, E.PLANNED]


@pytest.mark.parametrize(
    ("state", "states", "draft", "why", "line"),
    [
        (JobState.QUEUED, [], Draft.ASK, "asks the model", "not planned yet"),
        (JobState.RUNNING, [], Draft.ATTACH, "waits for the response that runs", "not planned yet"),
        (JobState.REVIEW, PLANNED, Draft.ATTACH, "a person still has to decide", "2 would run once approved"),
        (JobState.APPROVED, PLANNED, Draft.ATTACH, "the approval stands", "2 would run"),
        (
            JobState.APPLYING,
            [E.APPLIED, E.UNKNOWN, E.CLAIMED, E.PLANNED, E.REFUSED],
            Draft.ATTACH,
            "the approval stands",
            "1 applied, 1 unknown, 1 being sent, 2 would run",
        ),
        (JobState.COMPLETED, [E.APPLIED] * 3, Draft.ATTACH, "nothing is written again", "3 applied"),
        (JobState.REJECTED, PLANNED, Draft.ATTACH, "the rejection stands", "2 would not run"),
        (
            JobState.FAILED,
            [],
            Draft.ASK,
            "makes a new revision, which is paid: it failed (so",
            "not planned yet",
        ),
        (JobState.FAILED, PLANNED, Draft.ASK, "makes a new revision", "not planned yet"),
        (
            JobState.CANCELLED,
            [E.APPLIED, E.VOID],
            Draft.REFUSE,
            "is refused: it was cancelled (so it is)",
            "1 applied, 1 would not run",
        ),
        (JobState.CANCELLED, [], Draft.REFUSE, "is refused: it was cancelled", "none"),
        (JobState.ROLLING_BACK, [E.APPLIED], Draft.ATTACH, "it is being rolled back", "1 applied"),
        (JobState.ROLLED_BACK, [E.VOID], Draft.ATTACH, "it was rolled back", "1 would not run"),
    ],
)
def test_a_job_in_each_state(state: JobState, states: Sequence[EffectState], draft: Draft, why: str, line: str) -> None:
    cleared = preview_clear(job(state), effects(*states), model_revisions=1)
    assert (cleared.draft, cleared.effects_line) == (draft, line)
    assert why in cleared.why


def test_every_state_has_its_words() -> None:
    for state in JobState:
        assert preview_clear(job(state), [], 1).why


@pytest.mark.parametrize(("made", "draft"), [(2, Draft.ASK), (3, Draft.REFUSE)])
def test_a_failed_job_is_refused_when_all_its_revisions_are_made(made: int, draft: Draft) -> None:
    assert preview_clear(job(JobState.FAILED), [], made).draft is draft


def test_a_job_that_is_being_cancelled_sends_nothing() -> None:
    cleared = preview_clear(job(JobState.APPLYING, cancelling="enough"), effects(E.CLAIMED, E.PLANNED), 1)
    assert "it is being cancelled (enough)" in cleared.why
    assert cleared.effects_line == "1 being sent, 1 would not run"


def test_an_undone_effect_is_distinguished_from_an_applied_one() -> None:
    applied = effects(E.APPLIED, E.APPLIED, E.APPLIED)
    undos = [effect(4, E.APPLIED, undoes=1), effect(5, E.UNKNOWN, undoes=2)]
    cleared = preview_clear(job(JobState.ROLLING_BACK), [*applied, *undos], 1)
    assert cleared.effects_line == "2 applied, 1 undone"


def test_the_total_says_what_is_paid_refused_and_written() -> None:
    jobs = [
        preview_clear(job(JobState.COMPLETED), effects(E.APPLIED, E.APPLIED), 1),
        preview_clear(job(JobState.APPLYING), effects(E.APPLIED, E.UNKNOWN, E.PLANNED), 1),
        preview_clear(job(JobState.FAILED), [], 1),
        preview_clear(job(JobState.CANCELLED), [], 1),
    ]
    assert total_line(jobs) == (
        "4 jobs: 1 response would be paid, 1 job refused; effects: 3 applied, 1 unknown, 1 would run"
    )
    assert total_line(jobs[:1]) == "1 job: nothing is paid; effects: 2 applied"
    assert total_line(jobs[3:]) == "1 job: nothing is paid, 1 job refused; effects: none"


def test_every_outcome_is_counted() -> None:
    cleared = preview_clear(job(JobState.APPLYING), effects(*EffectState), 1)
    assert sum(cleared.effects.values()) == len(EffectState)
    assert set(cleared.effects) <= set(Outcome)
