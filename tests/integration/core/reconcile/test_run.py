"""One run takes every step once, whatever else goes on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_provider_aihandoff.core.errors import LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.reconcile import findings, run, scan_store
from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState
from airflow_provider_aihandoff.core.reconcile.findings import Finding
from airflow_provider_aihandoff.core.states import JobEvent
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.integration.core.reconcile.world import MONTH, World, kinds


def every_problem(world: World) -> None:
    """One of each."""
    for name in ("overdue", "running", "lost", "never_sent", "in_review"):
        getattr(world, name)(name)
        world.tasks[name] = TaskState.ENDED
    world.overdue("paid", words="delay=0")
    world.webhook("wh_due", "resp_unknown")
    world.webhook("wh_left", None)
    world.webhook("wh_old", "resp_old")
    world.sql(
        "UPDATE aihandoff.inbox SET disposition = 'foreign', poll_at = NULL, "
        "received_at = clock_timestamp() - interval '40 days' WHERE webhook_id = 'wh_old'"
    )


EVERY_KIND = {
    "webhook due",
    "webhook unexplained",
    "past its deadline",
    "abandoned response",
    "lost submission",
    "never submitted",
    "review over",
    "old webhooks",
}


class TestRun:
    def test_a_dry_run_says_all_that_a_run_does_and_changes_nothing(
        self, world: World, stand_in: OpenAIStandIn
    ) -> None:
        every_problem(world)
        before, asked = world.dump(), len(stand_in.requests())

        said = world.reconcile(dry_run=True)

        assert (world.dump(), len(stand_in.requests())) == (before, asked)
        assert {finding.done for finding in said} == {None}
        assert set(kinds(said)) == EVERY_KIND
        done = world.reconcile()
        assert [(one.kind, one.job_id, one.step) for one in done] == [(one.kind, one.job_id, one.step) for one in said]

    def test_a_second_run_finds_only_what_a_person_has_to_do(self, world: World) -> None:
        every_problem(world)
        world.reconcile()
        world.sql("UPDATE aihandoff.jobs SET updated_at = updated_at - interval '10 minutes'")
        before = world.dump()

        found = world.reconcile()

        assert kinds(found) == ["webhook unexplained"]
        assert world.dump() == before

    def test_two_at_once_do_everything_once(self, world: World, conninfo: dict[str, Any]) -> None:
        every_problem(world)
        jobs = world.ledger.jobs()
        start = threading.Barrier(2)

        def attempt(ledger: Ledger) -> list[Finding]:
            start.wait(10)
            return world.reconcile(ledger=ledger)

        with Ledger(conninfo) as one, Ledger(conninfo) as other, ThreadPoolExecutor(2) as threads:
            found = [finding for both in threads.map(attempt, [one, other]) for finding in both]

        assert [finding for finding in found if finding.failed] == []
        for job in jobs:
            events = [line.event for line in world.ledger.record(job.job_id).events]
            ends = {JobEvent.FAILED, JobEvent.CANCELLED, JobEvent.CANCEL_REQUESTED, JobEvent.RESPONSE_ENDED}
            assert all(events.count(event) <= 1 for event in {*ends, JobEvent.REJECTED, JobEvent.SUBMIT_UNKNOWN})
        assert sorted(world.state(job) for job in jobs) == sorted(
            ["failed", "cancelled", "queued", "failed", "rejected", "running"]
        )

    def test_a_step_that_fails_does_not_keep_the_others_from_being_taken(self, world: World) -> None:
        broken = world.overdue("broken", words="stuck=in_progress retrieve=500 times=99")
        other = world.overdue("other")
        found = world.reconcile()
        assert [finding.failed for finding in found] == [True, False]
        assert (world.state(broken), world.state(other)) == ("running", "failed")

    def test_a_run_takes_a_limited_number_of_each_kind_the_oldest_first_and_says_that_there_are_more(
        self, world: World
    ) -> None:
        jobs = [world.overdue(f"r{number}") for number in range(3)]
        for number, job in enumerate(jobs):
            world.age(job, 600 + number * 100)
        world.never_sent("r4")
        world.tasks["r4"] = TaskState.ENDED
        for number in range(3):
            world.webhook(f"wh_{number}", None)

        found = world.reconcile(limit=2)

        assert [(one.kind, one.job_id or one.webhook_id) for one in found] == [
            ("webhook unexplained", "wh_0"),
            ("webhook unexplained", "wh_1"),
            ("webhook unexplained", None),
            ("past its deadline", jobs[2].job_id),
            ("past its deadline", jobs[1].job_id),
            ("never submitted", 4),
            ("past its deadline", None),
        ]
        assert [world.state(job) for job in jobs] == ["running", "failed", "failed"]

    def test_exactly_so_many_are_all_of_them(self, world: World) -> None:
        world.webhook("wh_1", None)
        world.overdue()
        assert len(world.reconcile(limit=1)) == 2

    def test_everything_in_flight_is_checked_page_by_page(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scan_store, "PAGE", 2)
        jobs = [world.running(f"r{number}") for number in range(5)]
        world.sql("UPDATE aihandoff.jobs SET updated_at = '2026-01-01' WHERE job_id <= 3")
        world.tasks = {f"r{number}": TaskState.ENDED for number in (0, 2, 4)}
        found = world.reconcile()
        assert [finding.job_id for finding in found] == [jobs[number].job_id for number in (0, 2, 4)]

    def test_a_connection_that_does_not_answer_is_not_waited_for_again_and_again(self, world: World) -> None:
        for number in range(4):
            world.overdue(f"r{number}", words="stuck=in_progress retrieve=drop times=99")
        other = world.overdue("other", conn_id="second")
        found = world.reconcile()
        assert [finding.failed for finding in found] == [True] * 4 + [False]
        assert "did not answer" in str(found[2].done)
        assert world.state(other) == "failed"

    def test_the_steps_of_one_kind_have_a_time_limit(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(findings, "PATIENCE", -1.0)
        world.webhook("wh_1", "resp_1")
        world.overdue()
        assert [(one.kind, one.done is None) for one in world.reconcile()] == [
            ("webhook due", True),
            ("past its deadline", False),
        ]

    def test_an_unavailable_ledger_ends_the_run(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        jobs = [world.in_review(f"r{number}") for number in range(5)]
        taken: list[int] = []

        def expire(job_id: int, **_: Any) -> Any:
            taken.append(job_id)
            raise LedgerUnavailable("the ledger's database gave no connection.")

        monkeypatch.setattr(world.ledger.reviews, "expire", expire)
        with pytest.raises(LedgerUnavailable):
            world.reconcile()
        assert taken == [job.job_id for job in jobs[: run._UNREACHABLE]]

    def test_a_ledger_that_is_unavailable_for_every_step_is_an_error(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.in_review()

        def expire(job_id: int, **_: Any) -> Any:
            raise LedgerUnavailable("the ledger's database gave no connection.")

        monkeypatch.setattr(world.ledger.reviews, "expire", expire)
        with pytest.raises(LedgerUnavailable):
            world.reconcile()

    def test_a_ledger_that_stumbles_now_and_then_makes_steps_that_failed(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stumbles = [True, True, False] * 2
        for number in range(len(stumbles)):
            world.in_review(f"r{number}")
        ended = world.ledger.reviews.expire
        left = stumbles.copy()

        def expire(job_id: int, **arguments: Any) -> Any:
            if left.pop(0):
                raise LedgerUnavailable("the ledger's connection broke during a commit.")
            return ended(job_id, **arguments)

        monkeypatch.setattr(world.ledger.reviews, "expire", expire)
        assert [finding.failed for finding in world.reconcile()] == stumbles

    def test_each_finding_is_one_line_of_the_log(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        job = world.overdue()
        with caplog.at_level("INFO", logger=run.__name__):
            world.reconcile()
        lines = [record.message for record in caplog.records if record.name == run.__name__]
        assert len(lines) == 1
        assert lines[0].startswith(f"past its deadline: job {job.job_id}; publishing r1:")

    def test_an_empty_ledger_has_nothing_to_reconcile(self, world: World) -> None:
        assert world.reconcile(inbox_retention=MONTH) == []
