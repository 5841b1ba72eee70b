"""`airflow aihandoff jobs cancel` and the like: shown first, taken when the number is typed, and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.cli import bulk
from airflow_provider_aihandoff.core.bulk.bulk_plan import Impact, PlannedStep
from airflow_provider_aihandoff.core.bulk.bulk_run import Preview
from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction, Found, Progress
from airflow_provider_aihandoff.core.bulk.bulk_totals import total
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.review.rules import Approvers, Reviewers
from airflow_provider_aihandoff.core.states import JobState
from tests.unit.cli.conftest import Airflow
from tests.unit.core.jobs.records import record

WHY = ("--reason", "a wrong prompt")
CANCEL = ("jobs", "cancel", "--type", "publishing", *WHY)
CAROL = Actor.terminal("carol")
OVER = Progress(done=1, refused=0, unfinished=0, left=0)


def shown(*refused: str) -> Preview:
    """A preview of two jobs."""
    steps = [
        PlannedStep(Found(record(JobState.REVIEW, job_id=7).job, [], [], Decimal(0), 0, False), "It is cancelled."),
        PlannedStep(Found(record(JobState.COMPLETED, job_id=8).job, [], [], Decimal(0), 0, False), "It has ended."),
    ]
    steps = [PlannedStep(step.found, step.words, step.words in refused, impact=Impact(unsent=1)) for step in steps]
    return Preview(BulkAction.CANCEL, JobFilter(), steps, "d" * 64, total(steps, []))


@pytest.fixture
def engine(ledger: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What previews, begins and runs bulk actions."""

    @contextmanager
    def no_providers() -> Iterator[None]:
        yield None

    engine = SimpleNamespace(preview=Mock(return_value=shown("It has ended.")), begin=Mock(return_value=5))
    engine.run = Mock(return_value=OVER)
    for name in ("preview", "begin", "run"):
        monkeypatch.setattr(bulk, name, getattr(engine, name))
    monkeypatch.setattr(bulk, "providers", no_providers)
    ledger.bulks.report.return_value = [SimpleNamespace(job_id=7, job_key="post:kettle", outcome="done", note="")]
    return engine


def test_what_it_would_do_is_shown_and_the_number_taken(
    airflow: Airflow, ledger: Any, engine: Any, typed: Callable[[str | None], None]
) -> None:
    typed("1")
    printed = airflow(*CANCEL)
    assert "cancel: 1 jobs would be changed, 1 would not." in printed
    assert "- 1 would not: It has ended." in printed
    assert "1 planned write is never sent." in printed
    assert f"This is bulk action 5. If it is interrupted: {PROGRAM} jobs resume 5" in printed
    assert "bulk action 5: 1 done, 0 refused, 0 unfinished." in printed
    (_, action, wanted), given = engine.preview.call_args
    assert (action, wanted.job_type, given["actor"], given["reviewers"]) == (
        BulkAction.CANCEL,
        "publishing",
        CAROL,
        None,
    )
    assert engine.begin.call_args.kwargs == {
        "count": 1,
        "digest": "d" * 64,
        "reason": "a wrong prompt",
        "actor": CAROL,
    }


@pytest.mark.parametrize("answer", ["yes", "", None])
def test_nothing_is_done_without_a_number(
    airflow: Airflow, engine: Any, typed: Callable[[str | None], None], answer: str | None
) -> None:
    typed(answer)
    with pytest.raises(SystemExit, match="Nothing was done"):
        airflow(*CANCEL)
    engine.begin.assert_not_called()


def test_a_program_gives_the_number(airflow: Airflow, engine: Any, typed: Callable[[str | None], None]) -> None:
    typed(None)
    airflow(*CANCEL, "--count", 3)
    assert engine.begin.call_args.kwargs["count"] == 3


def test_a_dry_run_does_nothing(airflow: Airflow, engine: Any) -> None:
    printed = airflow(*CANCEL, "--dry-run", "-o", "plain")
    assert "It has ended." in printed
    engine.begin.assert_not_called()


def test_where_nothing_is_to_be_done_no_number_is_asked_for(
    airflow: Airflow, engine: Any, typed: Callable[[str | None], None]
) -> None:
    typed("0")
    engine.preview.return_value = shown("It has ended.", "It is cancelled.")
    with pytest.raises(SystemExit, match="there is nothing to do"):
        airflow(*CANCEL)
    engine.begin.assert_not_called()


@pytest.mark.parametrize(
    ("words", "action"),
    [
        (("rollback",), BulkAction.ROLL_BACK),
        (("resolve", "--applied"), BulkAction.RESOLVE_APPLIED),
        (("resolve", "--not-applied"), BulkAction.RESOLVE_NOT_APPLIED),
        (("reconcile",), BulkAction.RECONCILE),
        (("acknowledge",), BulkAction.ACKNOWLEDGE),
    ],
)
def test_each_command_is_one_action(airflow: Airflow, engine: Any, words: tuple[str, ...], action: BulkAction) -> None:
    airflow("jobs", *words, "--type", "publishing", "--dry-run", *WHY)
    assert engine.preview.call_args.args[1] is action


def test_a_reassignment_names_people(airflow: Airflow, engine: Any) -> None:
    people = ("--user", "bob", "--group", "press", "--escalate-role", "editor")
    airflow("jobs", "reassign", "--type", "publishing", "--dry-run", *people, *WHY)
    assert engine.preview.call_args.kwargs["reviewers"] == Reviewers(
        Approvers(users=("bob",), groups=("press",)), Approvers(roles=("editor",))
    )


@pytest.mark.parametrize("both", [(), ("--applied", "--not-applied")])
def test_a_resolution_is_one_of_two(airflow: Airflow, engine: Any, both: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="give --applied or --not-applied, and not both"):
        airflow("jobs", "resolve", *both, "--type", "publishing", *WHY)
    engine.preview.assert_not_called()


def test_what_is_left_is_said_with_the_command_and_another_exit_code(
    airflow: Airflow, ledger: Any, engine: Any
) -> None:
    engine.run.return_value = Progress(done=1, refused=2, unfinished=3, left=4)
    with pytest.raises(SystemExit) as ended:
        airflow("jobs", "resume", 5)
    assert ended.value.code == 3
    printed = airflow.printed  # type: ignore[attr-defined]
    assert "bulk action 5: 1 done, 2 refused, 3 unfinished, 4 left." in printed
    assert f"Go on with: {PROGRAM} jobs resume 5" in printed


def test_a_long_run_says_now_and_then_how_far_it_has_come(
    airflow: Airflow, ledger: Any, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1_000, 4))
    monkeypatch.setattr(bulk, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    ledger.bulks.progress.return_value = Progress(done=1, refused=0, unfinished=0, left=9)

    def run(*_: Any, on_step: Callable[..., None], **__: Any) -> Progress:
        for job_id in range(6):
            on_step(job_id, "done", "")
        return OVER

    engine.run.side_effect = run
    printed = airflow("jobs", "resume", 5)
    assert printed.count("bulk action 5: 1 done, 0 refused, 0 unfinished, 9 left.") == 2


class TestProgress:
    def test_it_is_printed_once(self, airflow: Airflow, ledger: Any) -> None:
        ledger.bulks.progress.return_value = Progress(done=1, refused=2, unfinished=0, left=4)
        (row,) = json.loads(airflow("jobs", "progress", 5, "-o", "json"))
        assert row == {"bulk_id": 5, "done": 1, "refused": 2, "unfinished": 0, "left": 4, "over": False}

    def test_it_is_watched_until_it_is_over(
        self, airflow: Airflow, ledger: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bulk, "WATCH", 0)
        ledger.bulks.progress.side_effect = [Progress(0, 0, 0, 2), Progress(1, 0, 1, 0), Progress(2, 0, 0, 0)]
        printed = airflow("jobs", "progress", 5, "--watch", "-o", "plain")
        assert "0 done, 0 refused, 0 unfinished, 2 left." in printed
        assert "1 done, 0 refused, 1 unfinished." in printed
        assert ledger.bulks.progress.call_count == 3
