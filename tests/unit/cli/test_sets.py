"""`airflow aihandoff sets`: how far a set has come, in rows, in one line, and while it is watched."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.cli import bulk, sets
from airflow_provider_aihandoff.cli.sets import bar
from airflow_provider_aihandoff.core.admission.pause_store import Pause
from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.sets.set_record import LeftOut, SetWrites
from airflow_provider_aihandoff.core.states import JobState
from tests.unit.cli.conftest import Airflow
from tests.unit.core.sets import test_set_record as records
from tests.unit.core.sets.test_batch_record import BATCH
from tests.unit.core.sets.test_set_record import AT, totals

CAROL = Actor.terminal("carol")
SET = replace(records.SET, left_out=LeftOut().as_json())
WHY = ("--reason", "a wrong prompt")
PAUSE = Pause(
    pause_id=4,
    conn_id=None,
    job_type=None,
    dag_id=None,
    writes=True,
    reason="a wrong prompt",
    actor_kind="terminal",
    actor_name="carol",
    actor_user_id=None,
    created_at=AT,
    ended_at=None,
    ended_reason=None,
    ended_by_kind=None,
    ended_by_name=None,
    ended_by_user_id=None,
    set_id=7,
)


@pytest.mark.parametrize(
    ("states", "line"),
    [
        ({}, "[..............................] no job"),
        ({"queued": 5, "running": 5}, "[..............................] 5 queued, 5 running"),
        ({"review": 5, "running": 5}, "[===============...............] "),
        ({"completed": 3, "failed": 2, "review": 5}, "[###############===============] "),
        ({"completed": 10}, "[##############################] 10 completed"),
        ({"completed": 15}, "[##############################] 15 completed"),
    ],
)
def test_a_bar_has_what_has_ended_what_has_an_output_and_the_rest(states: dict[str, int], line: str) -> None:
    assert bar(SET, totals(**states)).startswith(line)


def test_sets_are_listed_with_their_counts(airflow: Airflow, ledger: Any) -> None:
    ledger.sets.newest.return_value = [SET]
    ledger.sets.totals.return_value = {7: replace(totals(review=3, failed=1), cost_usd=Decimal("0.5"))}
    (row,) = json.loads(airflow("sets", "list", "--limit", 2, "-o", "json"))
    assert (row["set_id"], row["phase"], row["items"], row["jobs"]) == (7, "deciding", 10, 4)
    assert (row["said"], row["cost_usd"]) == ("3 in review, 1 failed", "0.5")
    ledger.sets.newest.assert_called_once_with(limit=2)


class TestShow:
    @pytest.fixture(autouse=True)
    def _set(self, ledger: Any) -> None:
        running = replace(totals(running=6, completed=4), drafted=4, first_sent=AT, failures={"refused": 1}, held=2)
        ledger.sets.read.return_value = SET
        ledger.sets.total.return_value = replace(running, newest_output=AT + timedelta(minutes=3))
        ledger.sets.writes.return_value = SetWrites(3, 1, AT, AT + timedelta(minutes=6))
        ledger.pauses.find.return_value = [PAUSE]
        ledger.batches.of_set.return_value = [BATCH]

    def test_a_program_gets_the_rates_and_how_it_is_sent(self, airflow: Airflow) -> None:
        (row,) = json.loads(airflow("sets", "show", 7, "-o", "json"))
        assert (row["per_minute"], row["minutes_to_answers"], row["minutes_to_writes"]) == (1.3, 4.5, 2.0)
        assert (row["paused"], row["held"], row["failures"]) == (True, 2, {"refused": 1})
        assert row["transport"] == "background"
        assert row["batches"][0]["provider_id"] == "batch_1"

    def test_a_person_reads_lines(self, airflow: Airflow) -> None:
        printed = airflow("sets", "show", 7)
        assert "sent: background." in printed
        assert "batch 5 (batch_1) of set 7: running, 2,000 requests" in printed

    def test_it_is_watched_until_it_has_ended(
        self, airflow: Airflow, ledger: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sets, "_WATCHED_EVERY", 0)
        ledger.sets.total.side_effect = [totals(running=10), totals(review=10), totals(completed=10)]
        printed = airflow("sets", "show", 7, "--watch", "-o", "json")
        bars = [line for line in printed.splitlines() if line.startswith("[") and "]" in line]
        assert [line.partition("] ")[2] for line in bars] == ["10 running", "10 in review", "10 completed"]


class TestPause:
    @pytest.fixture(autouse=True)
    def _set(self, ledger: Any) -> None:
        ledger.sets.read.return_value = SET
        ledger.pauses.find.return_value = [PAUSE]

    def test_a_pause_says_what_it_holds_and_what_runs_on(
        self, airflow: Airflow, ledger: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger.sets.total.return_value = totals(running=1_200)
        begun: dict[str, Any] = {}

        def begin(_: Any, found: Any, **given: Any) -> Pause:
            begun.update(given, set=found)
            return PAUSE

        monkeypatch.setattr(sets, "pause_set", begin)
        printed = airflow("sets", "pause", 7, *WHY)
        assert begun == {"set": SET, "reason": "a wrong prompt", "actor": CAROL}
        assert "is paused: pause 4 holds requests to the model and external writes." in printed
        assert "1,200 of its responses run on." in printed
        assert f"{PROGRAM} sets resume 7" in printed

    def test_each_pause_of_it_is_ended(self, airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sets, "resume_set", lambda *_, **__: [PAUSE, replace(PAUSE, pause_id=5)])
        printed = airflow("sets", "resume", 7, *WHY)
        assert "pause 4 has ended." in printed
        assert "pause 5 has ended." in printed

    @pytest.mark.parametrize("what", ["pause", "resume"])
    def test_a_reason_is_needed(self, airflow: Airflow, ledger: Any, what: str) -> None:
        with pytest.raises(SystemExit, match="--reason must not be empty"):
            airflow("sets", what, 7, "--reason", "  ")
        ledger.sets.read.assert_not_called()


def test_what_was_not_sent_is_cancelled_as_a_bulk_action(
    airflow: Airflow, ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(bulk, "take", lambda args, action, wanted: taken.append((action, wanted)))
    ledger.sets.read.return_value = SET
    airflow("sets", "cancel", 7, *WHY)
    assert taken == [(BulkAction.CANCEL, JobFilter(states=(JobState.QUEUED,), set_id=7))]
