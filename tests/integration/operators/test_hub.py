"""Where all that waits in a triggerer meets: one connection, three ways to learn of an end, and whatever can break.

One event loop, a real PostgreSQL, OpenAI over HTTP.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from airflow.jobs.triggerer_job_runner import TriggerCommsDecoder
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import ConnectionResult, _RequestFrame, _ResponseFrame

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.database.connection import WAKE_CHANNEL
from airflow_provider_aihandoff.core.errors import LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job, Revision
from airflow_provider_aihandoff.core.sets.set_record import LeftOut
from airflow_provider_aihandoff.core.sets.set_store import SetSpec
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from airflow_provider_aihandoff.testing import OpenAIStandIn
from airflow_provider_aihandoff.triggers import hub as hub_module
from airflow_provider_aihandoff.triggers import polling, wake_queries
from airflow_provider_aihandoff.triggers.approval import ApprovalTrigger
from airflow_provider_aihandoff.triggers.hub import Hub, hub_for
from airflow_provider_aihandoff.triggers.polling import Poller
from airflow_provider_aihandoff.triggers.response import OpenAIBackgroundResponseTrigger
from airflow_provider_aihandoff.triggers.set_wait import SetTrigger
from airflow_provider_aihandoff.triggers.waits import PolledWait, ResponseWait
from demo.postgres import Postgres, PostgresServer
from tests import factories
from tests.airflow_compat import start_reader
from tests.factories import OWNER, effect_plan, in_an_hour, job_spec
from tests.integration.operators.conftest import postgres_connection
from tests.recorder import recording
from tests.target import Answer, Target

pytestmark = pytest.mark.usefixtures("connections")

Trigger = OpenAIBackgroundResponseTrigger | ApprovalTrigger | SetTrigger
Options = Callable[..., None]

LEDGER = "AIRFLOW_CONN_AIHANDOFF_LEDGER"
NEVER = 3600
"""Seconds: longer than any test, so that it is not this that ends a wait."""

APPLICATION_NAME = "the hub of these tests"
COUNT_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
END_CONNECTIONS = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = %s"


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Options:
    """Set options of the configuration."""

    def options(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"AIRFLOW__AIHANDOFF__{name.upper()}", str(value))

    return options


@pytest.fixture(autouse=True)
def _only_notifications(
    connections: None, conninfo: dict[str, Any], options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a test does not set itself, happens never or at once. The hub's connection has a name of its own."""
    options(sweep_interval=NEVER, poll_interval_with_webhooks=NEVER, webhook_silence=NEVER, poll_rate=1000)
    monkeypatch.setenv(LEDGER, ledger_connection(conninfo))
    monkeypatch.setattr(hub_module, "_GATHER", 0.05)


def ledger_connection(conninfo: dict[str, Any], *, connect_timeout: int = 5, **changes: Any) -> str:
    extra = {"application_name": APPLICATION_NAME, "connect_timeout": connect_timeout}
    return postgres_connection(conninfo, extra=extra, **changes)


@pytest.fixture
def other(conninfo: dict[str, Any]) -> Iterator[psycopg.Connection[Any]]:
    """Another user's connection to the ledger."""
    with psycopg.connect(**conninfo, autocommit=True) as connection:
        yield connection


def hub_connections(other: psycopg.Connection[Any]) -> int:
    row = other.execute(COUNT_CONNECTIONS, [APPLICATION_NAME]).fetchone()
    assert row is not None
    return int(row[0])


def running(ledger: Ledger, number: int = 1) -> list[int]:
    """The ids of new jobs whose responses run: the first one is made as jobs are, the others are its copies."""
    first = factories.submit(ledger, job_spec(job_key="the first"), "resp_first")
    job = ", ".join(field.name for field in fields(Job) if field.name not in ("job_id", "job_key"))
    names = [field.name for field in fields(Revision) if field.name not in ("revision_id", "job_id", "response_id")]
    revision = ", ".join(names)
    with psycopg.connect(**ledger._database.conninfo) as connection:
        rows = connection.execute(
            f"""
            INSERT INTO aihandoff.jobs (job_key, {job})
            SELECT 'copy:' || n, {job} FROM aihandoff.jobs, generate_series(1, %s) AS n WHERE job_id = %s
            RETURNING job_id""",  # noqa: S608
            [number, first.job_id],
        ).fetchall()
        connection.execute(
            f"""
            INSERT INTO aihandoff.revisions (job_id, response_id, {revision})
            SELECT copy.job_id, 'resp_' || copy.job_id, {revision}
            FROM aihandoff.revisions AS r CROSS JOIN unnest(%s::bigint[]) AS copy (job_id) WHERE r.job_id = %s""",  # noqa: S608
            [[row[0] for row in rows], first.job_id],
        )
    return [row[0] for row in rows]


def response_trigger(job_id: int, **changes: Any) -> OpenAIBackgroundResponseTrigger:
    kwargs = {
        "job_id": job_id,
        "revision": 1,
        "response_id": f"resp_{job_id}",
        "openai_conn_id": "openai_default",
        "ledger_conn_id": "aihandoff_ledger",
        "deadline": in_an_hour().isoformat(),
        "not_before": datetime.now(UTC).isoformat(),
        "poll_interval": NEVER,
    }
    return OpenAIBackgroundResponseTrigger(**{**kwargs, **changes})


def asked(ledger: Ledger) -> Job:
    """A job that waits for a decision."""
    return factories.ask(ledger, factories.draft(ledger, job_spec(job_key="asked"), response_id="resp_asked"))


def approval_trigger(job: Job, **changes: Any) -> ApprovalTrigger:
    kwargs = {
        "job_id": job.job_id,
        "digest": job.review_digest,
        "ledger_conn_id": "aihandoff_ledger",
        "until": in_an_hour().isoformat(),
        "not_before": datetime.now(UTC).isoformat(),
    }
    return ApprovalTrigger(**{**kwargs, **changes})


def webhook(ledger: Ledger, job_id: int, status: str = "completed") -> None:
    """Take in the webhook that a job's response has ended, as the receiver does."""
    ledger.inbox.receive(
        Delivery(
            webhook_id=f"wh_{job_id}",
            conn_id="openai_default",
            event_type=f"response.{status}",
            response_id=f"resp_{job_id}",
            body={},
        )
    )


def end_unnoticed(other: psycopg.Connection[Any], job_id: int) -> None:
    """End a response as a webhook does, without a notification, as if it got lost."""
    other.execute("UPDATE aihandoff.revisions SET response_status = 'completed' WHERE job_id = %s", [job_id])


class Fleet:
    """Triggers that run, and everything that they fire."""

    def __init__(self, triggers: Iterable[Trigger]) -> None:
        self.fired: list[dict[str, Any]] = []
        self.tasks = [asyncio.create_task(self._run(trigger)) for trigger in triggers]

    async def _run(self, trigger: Trigger) -> None:
        async for event in trigger.run():
            self.fired.append(event.payload)

    @property
    def jobs(self) -> list[int]:
        """The jobs whose triggers fired, one entry each time."""
        return sorted(event["job_id"] for event in self.fired)

    async def ended(self) -> list[dict[str, Any]]:
        """Everything that was fired, once all have ended."""
        async with asyncio.timeout(60):
            await asyncio.gather(*self.tasks)
        return self.fired

    async def cancel(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what it waits for happens elsewhere, and is no event
            await asyncio.sleep(0.01)


def hub() -> Hub:
    return hub_for("aihandoff_ledger")


async def caught_up() -> None:
    """Wait until the ledger has been asked about everything that waits: what changes now, has to be noticed."""
    await until(lambda: hub()._poller._may_poll.is_set() and not hub()._new)


def tasks_of_the_hub() -> list[asyncio.Task[Any]]:
    names = (Hub._run, Hub._follow, Poller.run, Poller._poll_due)
    codes = [name.__qualname__ for name in names]
    return [task for task in asyncio.all_tasks() if _name_of(task) in codes]


def _name_of(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "")


class TestOneForAll:
    async def test_hundreds_share_one_connection_and_each_fires_once_when_its_webhook_comes(
        self, ledger: Ledger, other: psycopg.Connection[Any], stand_in: OpenAIStandIn
    ) -> None:
        jobs = running(ledger, 250)
        job = asked(ledger)
        fleet = Fleet([*map(response_trigger, jobs), approval_trigger(job)])
        await caught_up()
        assert hub_connections(other) == 1
        statuses = dict(zip(jobs, ["completed", "failed", "incomplete", "cancelled", "completed"] * 50, strict=True))

        for job_id, status in statuses.items():
            await asyncio.to_thread(webhook, ledger, job_id, status)
        factories.approve(ledger, job)
        events = await fleet.ended()

        expected = [{"job_id": job_id, "revision": 1, "status": status} for job_id, status in statuses.items()]
        assert sorted(events, key=lambda event: event["job_id"]) == [*expected, {"job_id": job.job_id}]
        assert stand_in.responses().retrieves == 0
        await until(lambda: hub_connections(other) == 0)

    async def test_every_trigger_of_a_job_fires(self, ledger: Ledger) -> None:
        (job_id,) = running(ledger)
        fleet = Fleet(response_trigger(job_id) for _ in range(5))
        await caught_up()

        webhook(ledger, job_id)

        assert [event["status"] for event in await fleet.ended()] == ["completed"] * 5

    async def test_after_the_last_trigger_nothing_is_left_and_the_next_one_starts_again(
        self, ledger: Ledger, other: psycopg.Connection[Any]
    ) -> None:
        jobs = running(ledger, 3)
        for job_id in jobs:
            fleet = Fleet([response_trigger(job_id)])
            await caught_up()
            assert (hub_connections(other), len(tasks_of_the_hub())) == (1, 3)

            webhook(ledger, job_id)

            assert [event["job_id"] for event in await fleet.ended()] == [job_id]
            await until(lambda: not tasks_of_the_hub())
            await until(lambda: hub_connections(other) == 0)
            assert (hub()._waits, hub()._new, hub()._work) == ({}, set(), None)
            assert (hub()._poller._waits, hub()._poller._queue) == (set(), [])

    async def test_a_trigger_that_is_cancelled_leaves_nothing_behind(
        self, ledger: Ledger, other: psycopg.Connection[Any]
    ) -> None:
        (kept, *jobs) = running(ledger, 100)
        stays = Fleet([response_trigger(kept)])
        for _ in range(20):
            leave = Fleet(map(response_trigger, jobs))
            await asyncio.sleep(0)
            await leave.cancel()
            assert leave.fired == []
        await caught_up()

        assert list(hub()._waits) == [kept]
        assert len(hub()._poller._waits) == 1
        assert len(hub()._poller._queue) <= 2
        assert hub_connections(other) == 1
        webhook(ledger, kept)
        assert stays.fired == [] or stays.jobs == [kept]
        await stays.ended()
        assert stays.jobs == [kept]

    async def test_a_set_that_goes_on_while_one_of_its_responses_is_polled_ends_no_polling(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        first, second = running(ledger, 2)
        stays = Fleet([approval_trigger(job := asked(ledger))])
        begun, answered = asyncio.Event(), asyncio.Event()

        async def slow(wait: PolledWait) -> str:
            begun.set()
            await answered.wait()
            return "pending"

        monkeypatch.setattr(polling, "_poll", slow)
        waits = [
            ResponseWait(job_id, 1, f"resp_{job_id}", "openai_default", poll_interval)
            for job_id, poll_interval in ((first, NEVER), (second, 0.01))
        ]
        until_later = datetime.now(UTC) + timedelta(hours=1)
        goes_on = asyncio.create_task(hub().wait_for_some(waits, enough=1, until=until_later, anyway=False))
        await begun.wait()
        webhook(ledger, first)
        assert [(wait.job_id, status) for wait, status in await goes_on] == [(first, "completed")]
        (poll,) = (task for task in tasks_of_the_hub() if _name_of(task) == "Poller._poll_due")

        answered.set()
        await poll

        assert hub()._poller._queue == []
        assert "starts again" not in caplog.text
        factories.approve(ledger, job)
        assert [event["job_id"] for event in await stays.ended()] == [job.job_id]

    async def test_a_trigger_that_comes_as_the_last_one_leaves_waits_for_the_connection_to_close(
        self,
        ledger: Ledger,
        other: psycopg.Connection[Any],
        conninfo: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        jobs = running(ledger, 20)
        opened: list[wake_queries.AsyncConnection] = []
        too_soon: list[wake_queries.AsyncConnection] = []
        connect = wake_queries.connect

        async def one_at_a_time(conninfo: dict[str, Any]) -> wake_queries.AsyncConnection:
            too_soon.extend(connection for connection in opened if not connection.closed)
            opened.append(await connect(conninfo))
            return opened[-1]

        monkeypatch.setattr(wake_queries, "connect", one_at_a_time)
        last = Fleet([response_trigger(jobs[0])])
        for job_id, next_id in pairwise(jobs):
            await caught_up()
            with psycopg.connect(**conninfo) as holder:
                # The check that is under way ends only when it was cancelled at the server.
                holder.execute("LOCK TABLE aihandoff.revisions")
                other.execute(f"NOTIFY {WAKE_CHANNEL}, '{job_id}'")
                await until(lambda: opened[-1].pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE)
                await last.cancel()
                last = Fleet([response_trigger(next_id)])
                await asyncio.sleep(0)

        await caught_up()
        assert (len(opened), too_soon) == (len(jobs), [])
        webhook(ledger, jobs[-1])
        assert len(await last.ended()) == 1

    async def test_thousands_of_waits_do_not_block_the_other_triggers_of_the_process(
        self, ledger: Ledger, other: psycopg.Connection[Any], options: Options
    ) -> None:
        options(sweep_interval=0.1)
        jobs = running(ledger, 5000)
        busy: list[float] = []

        async def tick() -> None:
            while True:
                before = time.thread_time()  # of this thread only: other processes may hold it up
                await asyncio.sleep(0)
                busy.append(time.thread_time() - before)

        fleet = Fleet(map(response_trigger, jobs))
        await asyncio.sleep(0)  # all begin at once here; a triggerer begins a few at a time
        gc.collect()
        gc.freeze()  # going through all that Airflow has loaded is not what is measured
        ticking = asyncio.create_task(tick())
        await caught_up()
        other.execute("UPDATE aihandoff.revisions SET response_status = 'completed' WHERE job_id = ANY(%s)", [jobs])
        await until(lambda: len(fleet.fired) == 5000)
        ticking.cancel()
        gc.unfreeze()

        assert fleet.jobs == jobs
        assert max(busy) < 0.2  # above it, Airflow warns


class TestWhatEndsAWait:
    async def test_a_decision_is_noticed_at_once(self, ledger: Ledger) -> None:
        job = asked(ledger)
        fleet = Fleet([approval_trigger(job)])
        await caught_up()

        factories.approve(ledger, job)

        assert await fleet.ended() == [{"job_id": job.job_id}]

    async def test_a_changed_plan_is_noticed_at_once(self, ledger: Ledger) -> None:
        job = asked(ledger)
        fleet = Fleet([approval_trigger(job)])
        await caught_up()

        factories.ask(ledger, job, effect_plan(url="http://elsewhere"))

        assert await fleet.ended() == [{"job_id": job.job_id}]

    async def test_a_revision_that_replaces_the_running_one_is_noticed_at_once(self, ledger: Ledger) -> None:
        revision = factories.submit(ledger, job_spec(), "resp_1")
        fleet = Fleet([response_trigger(revision.job_id, response_id="resp_1")])
        await caught_up()

        ledger.submission.open(job_spec(input={"input": "Write about the pot."}))

        assert [event["status"] for event in await fleet.ended()] == ["settled"]

    async def test_a_decision_on_another_job_ends_nothing(self, ledger: Ledger) -> None:
        job = asked(ledger)
        (job_id,) = running(ledger)
        fleet = Fleet([approval_trigger(job), response_trigger(job_id)])
        await caught_up()

        webhook(ledger, job_id)
        await until(lambda: fleet.fired)

        assert fleet.jobs == [job_id]
        await fleet.cancel()

    @pytest.mark.parametrize("status", ["completed", "failed"])
    async def test_a_wait_for_what_has_already_ended_fires_at_once(self, ledger: Ledger, status: str) -> None:
        first, second = running(ledger, 2)
        job = asked(ledger)
        factories.approve(ledger, job)
        webhook(ledger, first, status)
        assert [event["status"] for event in await Fleet([response_trigger(first)]).ended()] == [status]

        keep = Fleet([response_trigger(second)])
        await caught_up()
        late = Fleet([response_trigger(first), approval_trigger(job)])  # the hub is at work already
        assert {event.get("status") for event in await late.ended()} == {status, None}
        await keep.cancel()

    async def test_a_notification_that_got_lost_costs_no_more_than_the_sweep(
        self, ledger: Ledger, other: psycopg.Connection[Any], options: Options
    ) -> None:
        options(sweep_interval=1)
        job = asked(ledger)
        jobs = running(ledger, 3)
        fleet = Fleet([*map(response_trigger, jobs), approval_trigger(job)])
        await caught_up()

        for job_id in jobs:
            end_unnoticed(other, job_id)
        other.execute("UPDATE aihandoff.jobs SET state = 'approved' WHERE job_id = %s", [job.job_id])

        await fleet.ended()
        assert fleet.jobs == sorted([*jobs, job.job_id])

    async def test_without_notification_and_sweep_nothing_is_noticed(
        self, ledger: Ledger, other: psycopg.Connection[Any]
    ) -> None:
        first, second = running(ledger, 2)
        fleet = Fleet([response_trigger(first), response_trigger(second)])
        await caught_up()

        end_unnoticed(other, first)
        webhook(ledger, second)
        await until(lambda: fleet.fired)

        assert fleet.jobs == [second]  # so it is the notification, and not a sweep, that the other tests see
        await fleet.cancel()

    async def test_a_deadline_ends_a_wait(self, ledger: Ledger) -> None:
        (job_id,) = running(ledger)
        job = asked(ledger)
        soon = datetime.now(UTC) + timedelta(seconds=0.5)

        fleet = Fleet(
            [response_trigger(job_id, deadline=soon.isoformat()), approval_trigger(job, until=soon.isoformat())]
        )

        assert sorted(event.get("status", "") for event in await fleet.ended()) == ["", "deadline"]
        assert datetime.now(UTC) >= soon

    @pytest.mark.parametrize("payload", ["hello", "", "-1", "1.5", "9" * 5000, "٣"])
    async def test_foreign_notifications_on_the_channel_break_nothing(
        self, ledger: Ledger, other: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture, payload: str
    ) -> None:
        (job_id,) = running(ledger)
        fleet = Fleet([response_trigger(job_id)])
        await caught_up()

        other.execute("SELECT pg_notify(%s, %s)", [WAKE_CHANNEL, payload])
        webhook(ledger, job_id)

        assert len(await fleet.ended()) == 1
        assert "cannot be followed" not in caplog.text

    async def test_a_burst_of_notifications_loses_none_and_delays_no_other_trigger(
        self, ledger: Ledger, other: psycopg.Connection[Any]
    ) -> None:
        jobs = running(ledger, 200)
        fleet = Fleet(map(response_trigger, jobs))
        await caught_up()
        used = time.process_time()

        with other.transaction():
            other.execute("UPDATE aihandoff.revisions SET response_status = 'completed' WHERE job_id = ANY(%s)", [jobs])
            other.execute(  # those of others, and ours among them
                "SELECT pg_notify(%s, CASE WHEN n %% 50 = 0 THEN (%s::bigint[])[n / 50] ELSE n + 1000000 END::text) "
                "FROM generate_series(1, 10000) AS n",
                [WAKE_CHANNEL, jobs],
            )
        await fleet.ended()

        assert fleet.jobs == jobs
        assert time.process_time() - used < 5


@dataclass
class Swept:
    """What the ledger was asked.

    :param one_by_one: the revisions about which it was asked one by one.
    :param others: what it said to each question about sets: those of which other responses run.
    """

    one_by_one: list[tuple[int, int]] = field(default_factory=list)
    others: list[set[int]] = field(default_factory=list)


class TestSets:
    """Of a set, the ledger is asked about all that run at once."""

    @pytest.fixture
    def job_set(self, ledger: Ledger) -> int:
        spec = SetSpec("publishing", "nightly", "alice", OWNER, timedelta(hours=1))
        return ledger.sets.open(spec, LeftOut()).set_id

    @pytest.fixture
    def swept(self, options: Options, monkeypatch: pytest.MonkeyPatch) -> Swept:
        """Sweeps follow each other at once."""
        options(sweep_interval=0.05)
        found, one_by_one, together = Swept(), wake_queries.ended_responses, wake_queries.others_run

        async def noted(connection: Any, revisions: Any) -> Any:
            found.one_by_one.extend(revisions)
            return await one_by_one(connection, revisions)

        async def noted_together(connection: Any, sets: Any) -> set[int]:
            found.others.append(await together(connection, sets))
            return found.others[-1]

        monkeypatch.setattr(wake_queries, "ended_responses", noted)
        monkeypatch.setattr(wake_queries, "others_run", noted_together)
        return found

    async def test_while_nothing_ends_a_sweep_asks_about_none_of_its_responses(
        self, ledger: Ledger, other: psycopg.Connection[Any], job_set: int, swept: Swept
    ) -> None:
        jobs = running_in(job_set, ledger, other, 4)
        fleet = Fleet([set_trigger(job_set)])
        await until(lambda: hub()._sets and not hub()._new)
        swept.one_by_one.clear()
        await until_more(swept.others, 3)
        assert swept.one_by_one == []

        webhook(ledger, jobs[0])  # one of four: the trigger goes on waiting
        await until(lambda: swept.one_by_one)
        await until_more(swept.others, 3)
        assert (set(swept.one_by_one), swept.others[-1], fleet.fired) == ({(jobs[0], 1)}, set(), [])

        webhook(ledger, jobs[1])
        assert [event["set_id"] for event in await fleet.ended()] == [job_set]
        assert hub()._sets == []

    @pytest.mark.usefixtures("swept")
    async def test_ends_that_nothing_notified_are_found_by_the_sweep(
        self, ledger: Ledger, other: psycopg.Connection[Any], job_set: int
    ) -> None:
        jobs = running_in(job_set, ledger, other, 4)
        fleet = Fleet([set_trigger(job_set)])
        await until(lambda: hub()._sets and not hub()._new)

        end_unnoticed(other, jobs[0])
        put(other, jobs[1], "failed")

        assert [event["set_id"] for event in await fleet.ended()] == [job_set]

    @pytest.mark.usefixtures("swept")
    async def test_one_that_ends_is_found_though_as_many_run(
        self, ledger: Ledger, other: psycopg.Connection[Any], job_set: int
    ) -> None:
        first, _, later = running_in(job_set, ledger, other, 3)
        put(other, later, "queued")
        fleet = Fleet([set_trigger(job_set)])
        await until(lambda: hub()._sets and not hub()._new)

        with other.transaction():
            end_unnoticed(other, first)
            put(other, later, "running")

        assert [event["set_id"] for event in await fleet.ended()] == [job_set]

    async def test_while_others_run_as_well_its_own_are_asked_about_one_by_one(
        self, ledger: Ledger, other: psycopg.Connection[Any], job_set: int, swept: Swept
    ) -> None:
        *waited, later = running_in(job_set, ledger, other, 4)
        put(other, later, "queued")
        fleet = Fleet([set_trigger(job_set)])
        await until(lambda: hub()._sets and not hub()._new)
        swept.one_by_one.clear()

        put(other, later, "running")
        await until(lambda: swept.one_by_one)
        assert {job_id for job_id, _ in swept.one_by_one} == set(waited)
        assert swept.others[-1] == {job_set}
        await fleet.cancel()


def running_in(set_id: int, ledger: Ledger, other: psycopg.Connection[Any], number: int) -> list[int]:
    """The ids of new jobs of a set whose responses run."""
    jobs = running(ledger, number)
    other.execute("UPDATE aihandoff.jobs SET set_id = %s WHERE job_id = ANY(%s)", [set_id, jobs])
    return jobs


def put(other: psycopg.Connection[Any], job_id: int, state: str) -> None:
    """Put a job and its revision into a state, without a notification."""
    other.execute("UPDATE aihandoff.jobs SET state = %s WHERE job_id = %s", [state, job_id])
    other.execute("UPDATE aihandoff.revisions SET state = %s WHERE job_id = %s", [state, job_id])


def set_trigger(set_id: int) -> SetTrigger:
    return SetTrigger(
        set_id=set_id,
        phase="draft",
        ledger_conn_id="aihandoff_ledger",
        not_before=datetime.now(UTC).isoformat(),
        until=in_an_hour().isoformat(),
        until_anyway=False,
        poll_interval=NEVER,
    )


async def until_more(found: list[Any], number: int) -> None:
    """Wait until there are so many more of these."""
    wanted = len(found) + number
    await until(lambda: len(found) >= wanted)


class TestRestart:
    @pytest.fixture
    def server(self, postgres: Postgres, conninfo: dict[str, Any]) -> Iterator[PostgresServer]:
        """The server of the session, to be restarted."""
        if not isinstance(postgres, PostgresServer):
            pytest.skip("the server that was given is not ours to restart")
        yield postgres
        postgres.start()

    @pytest.mark.parametrize("end", ["stop", "kill"])
    async def test_no_wait_is_lost_or_fires_twice_when_the_server_restarts_while_webhooks_arrive(
        self, server: PostgresServer, ledger: Ledger, options: Options, stand_in: OpenAIStandIn, end: str
    ) -> None:
        options(sweep_interval=10)
        jobs = running(ledger, 200)
        first, second = jobs[:100], jobs[100:]
        fleet = Fleet(map(response_trigger, jobs))
        await caught_up()
        delivered: list[int] = []

        def deliver() -> None:
            """As OpenAI does: again, until it was taken."""
            for job_id in first:
                while True:
                    try:
                        webhook(ledger, job_id)
                    except LedgerUnavailable:
                        continue
                    delivered.append(job_id)
                    break

        receiver = asyncio.create_task(asyncio.to_thread(deliver))
        await until(lambda: len(delivered) > 20)
        await asyncio.to_thread(getattr(server, end))
        assert len(delivered) < 100
        await asyncio.to_thread(server.start)
        await receiver
        await until(lambda: len(fleet.fired) >= 100, seconds=10)  # the sweep

        assert fleet.jobs == first
        for job_id in second:
            await asyncio.to_thread(webhook, ledger, job_id)
        assert [event["status"] for event in await fleet.ended()] == ["completed"] * 200
        assert fleet.jobs == jobs
        assert stand_in.responses().retrieves == 0

    async def test_waits_that_end_while_no_connection_listens_are_caught_up_from_the_ledger(
        self, ledger: Ledger, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        jobs = running(ledger, 50)
        fleet = Fleet(map(response_trigger, jobs))
        await caught_up()
        good, wrong = (
            ledger_connection(ledger._database.conninfo),
            postgres_connection(ledger._database.conninfo, port=1),
        )

        monkeypatch.setenv(LEDGER, wrong)
        other.execute(END_CONNECTIONS, [APPLICATION_NAME])
        await until(lambda: not hub()._poller._may_poll.is_set())
        for job_id in jobs:
            webhook(ledger, job_id)
        assert fleet.fired == []
        monkeypatch.setenv(LEDGER, good)

        await fleet.ended()
        assert fleet.jobs == jobs

    async def test_a_connection_that_is_cut_off_again_and_again_loses_nothing(
        self, ledger: Ledger, other: psycopg.Connection[Any]
    ) -> None:
        jobs = running(ledger, 60)
        fleet = Fleet(map(response_trigger, jobs))
        await caught_up()

        for job_id in jobs:
            await asyncio.to_thread(webhook, ledger, job_id)
            if job_id % 20 == 0:
                await asyncio.to_thread(other.execute, END_CONNECTIONS, [APPLICATION_NAME])

        await fleet.ended()
        assert fleet.jobs == jobs

    async def test_a_connection_that_is_cut_off_within_a_check_loses_nothing(
        self, ledger: Ledger, other: psycopg.Connection[Any], conninfo: dict[str, Any]
    ) -> None:
        (job_id,) = running(ledger)
        fleet = Fleet([response_trigger(job_id)])
        await caught_up()
        with psycopg.connect(**conninfo) as holder:
            holder.execute("UPDATE aihandoff.revisions SET response_status = 'completed' WHERE job_id = %s", [job_id])
            holder.execute("LOCK TABLE aihandoff.revisions")
            other.execute("SELECT pg_notify(%s, %s)", [WAKE_CHANNEL, str(job_id)])
            await until(lambda: _waits_for_a_lock(other))
            other.execute(END_CONNECTIONS, [APPLICATION_NAME])

        await fleet.ended()
        assert fleet.jobs == [job_id]

    @pytest.mark.parametrize("broken", [{"port": 1}, {"password": "another"}, {"host": "no.such.host.invalid"}])
    async def test_a_ledger_that_cannot_be_reached_at_first_is_waited_for_and_its_connection_read_again(
        self,
        ledger: Ledger,
        conninfo: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        broken: dict[str, Any],
    ) -> None:
        (job_id,) = running(ledger)
        webhook(ledger, job_id)
        monkeypatch.setenv(LEDGER, ledger_connection(conninfo, **broken))
        fleet = Fleet([response_trigger(job_id)])
        await until(lambda: "cannot be followed" in caplog.text)
        assert fleet.fired == []

        monkeypatch.setenv(LEDGER, ledger_connection(conninfo))

        assert [event["status"] for event in await fleet.ended()] == ["completed"]
        assert conninfo["password"] not in caplog.text

    async def test_a_server_that_takes_a_connection_and_never_answers_is_given_up(
        self,
        ledger: Ledger,
        conninfo: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        (job_id,) = running(ledger)
        webhook(ledger, job_id)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            monkeypatch.setenv(LEDGER, ledger_connection(conninfo, port=port, connect_timeout=2))
            fleet = Fleet([response_trigger(job_id)])
            used, ticks = time.process_time(), 0
            while "cannot be followed: ConnectionTimeout" not in caplog.text:
                await asyncio.sleep(0.01)
                ticks += 1
            assert ticks > 20  # the loop goes on meanwhile
            assert time.process_time() - used < 1.5  # and does not spin
            monkeypatch.setenv(LEDGER, ledger_connection(conninfo))
            assert len(await fleet.ended()) == 1

    @pytest.mark.parametrize("table", ["alembic_version", "revisions", "inbox"])
    async def test_a_server_that_hangs_is_given_up_and_tried_again(
        self,
        ledger: Ledger,
        conninfo: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        table: str,
    ) -> None:
        monkeypatch.setattr(hub_module, "_QUERY_TIMEOUT", 0.5)
        (job_id,) = running(ledger)
        with psycopg.connect(**conninfo) as holder:
            holder.execute(f"LOCK TABLE aihandoff.{table}")
            fleet = Fleet([response_trigger(job_id)])
            await until(lambda: caplog.text.count("cannot be followed: TimeoutError") > 1)
        webhook(ledger, job_id)
        await fleet.ended()
        assert fleet.jobs == [job_id]

    async def test_waits_go_on_while_the_schema_is_behind_and_end_after_its_upgrade(
        self,
        ledger: Ledger,
        other: psycopg.Connection[Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        jobs = running(ledger, 2)
        other.execute("UPDATE aihandoff.alembic_version SET version_num = '0001'")
        try:
            fleet = Fleet(map(response_trigger, jobs))
            await until(lambda: "cannot be followed: LedgerSchemaError" in caplog.text)
            assert hub_connections(other) == 0
        finally:
            other.execute("UPDATE aihandoff.alembic_version SET version_num = %s", [schema.head_version()])

        for job_id in jobs:
            end_unnoticed(other, job_id)
        await fleet.ended()
        assert fleet.jobs == jobs

    @pytest.mark.parametrize("part", ["follower", "poller"])
    @pytest.mark.parametrize("error", [RuntimeError("a bug"), asyncio.CancelledError()], ids=["raises", "is cancelled"])
    async def test_an_unexpected_error_starts_the_work_again(
        self,
        ledger: Ledger,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        part: str,
        error: BaseException,
    ) -> None:
        monkeypatch.setattr(hub_module, "_RECONNECT_CAP", 0.1)
        times = [1, 2]

        def broken(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def breaks_at_first(*arguments: Any) -> Any:
                if times:
                    times.pop()
                    raise error
                return await method(*arguments)

            return breaks_at_first

        if part == "follower":
            monkeypatch.setattr(Hub, "_follow", broken(Hub._follow))
        else:
            monkeypatch.setattr(Poller, "_until_due", broken(Poller._until_due))
        polled, noticed = running(ledger, 2)
        polls = record_polls(monkeypatch, lambda _: "completed")
        fleet = Fleet([response_trigger(polled, poll_interval=0.01), response_trigger(noticed)])

        await until(lambda: fleet.jobs == [polled])
        webhook(ledger, noticed)

        await fleet.ended()
        assert fleet.jobs == [polled, noticed]
        assert caplog.text.count("failed, and starts again") == 2
        assert {wait.job_id for _, wait in polls} == {polled}

    async def test_a_connection_that_breaks_while_it_closes_is_dropped(
        self, ledger: Ledger, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        follow_on = Hub._follow_on

        async def breaks_as_it_closes(self: Hub, connection: wake_queries.AsyncConnection) -> None:
            try:
                await follow_on(self, connection)
            except asyncio.CancelledError:
                raise RuntimeError("closing failed") from None

        monkeypatch.setattr(Hub, "_follow_on", breaks_as_it_closes)
        monkeypatch.setattr(hub_module, "_CLOSE_TIMEOUT", 0.5)
        (job_id,) = running(ledger)
        fleet = Fleet([response_trigger(job_id)])
        await caught_up()
        await fleet.cancel()

        await until(lambda: hub_connections(other) == 0)
        monkeypatch.setattr(Hub, "_follow_on", follow_on)
        webhook(ledger, job_id)
        assert len(await Fleet([response_trigger(job_id)]).ended()) == 1


def _waits_for_a_lock(other: psycopg.Connection[Any]) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"
    return other.execute(query, [APPLICATION_NAME]).fetchone() is not None


Poll = tuple[float, ResponseWait]


def record_polls(monkeypatch: pytest.MonkeyPatch, answer: Callable[[ResponseWait], str]) -> list[Poll]:
    """When OpenAI is asked about which wait. It answers at once."""
    polls: list[Poll] = []

    async def poll(wait: ResponseWait) -> str:
        polls.append((asyncio.get_running_loop().time(), wait))
        return answer(wait)

    monkeypatch.setattr(polling, "_poll", poll)
    return polls


def received(ledger: Ledger, conn_id: str) -> None:
    """A webhook that arrives on a connection, about something else."""
    ledger.inbox.receive(Delivery(f"wh_{time.monotonic_ns()}", conn_id, "batch.completed", None, {}))


class TestPolling:
    @pytest.fixture
    def slow_openai(self, target: Target, monkeypatch: pytest.MonkeyPatch) -> Target:
        """An OpenAI that answers when it is let."""
        openai = {"conn_type": "openai", "password": "any", "host": f"http://127.0.0.1:{target.port}/v1"}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(openai))
        target.hold = threading.Event()
        return target

    @staticmethod
    def response(job_id: int, status: Any) -> Answer:
        return Answer(200, {"id": f"resp_{job_id}", "object": "response", "status": status, "output": []})

    async def test_each_poll_is_counted_by_its_outcome(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = iter(["pending", "missing", "completed"])
        record_polls(monkeypatch, lambda wait: next(answers))
        (job_id,) = running(ledger)
        with recording() as recorded:
            await Fleet([response_trigger(job_id, poll_interval=0.01)]).ended()
        outcomes = [(labels["conn_id"], labels["outcome"]) for labels, _ in recorded.of(signals.POLLS)]
        assert outcomes == [("openai_default", outcome) for outcome in ("pending", "missing", "completed")]

    async def test_a_triggerer_sends_its_metrics_where_airflows_go(self, conninfo: dict[str, Any]) -> None:
        signals.use(None)
        hub_for("a ledger of its own")
        assert signals.is_used()
        signals.use(None)

    async def test_no_more_than_eight_requests_are_under_way(self, ledger: Ledger, slow_openai: Target) -> None:
        jobs = running(ledger, 40)
        fleet = Fleet(response_trigger(job_id, poll_interval=0.01) for job_id in jobs)
        await until(lambda: len(slow_openai.received) >= 8)
        busy_until = time.monotonic() + 1
        await until(lambda: len(slow_openai.received) > 8 or time.monotonic() > busy_until)
        assert len(slow_openai.received) == 8

        assert slow_openai.hold is not None
        slow_openai.hold.set()  # each answer is one of a response that is not found

        await until(lambda: len({received.path for received in slow_openai.received}) == 40)
        await fleet.cancel()

    async def test_a_response_is_not_asked_about_while_an_answer_is_awaited(
        self, ledger: Ledger, slow_openai: Target, options: Options
    ) -> None:
        options(sweep_interval=0.05, webhook_silence=0.5)
        (job_id,) = running(ledger)
        fleet = Fleet([response_trigger(job_id, poll_interval=0.05)])
        await until(lambda: slow_openai.received)

        received(ledger, "openai_default")  # they arrive, and fall silent: both change when to poll
        await until(lambda: "openai_default" in hub()._poller._webhooks.arriving)
        await until(lambda: "openai_default" not in hub()._poller._webhooks.arriving)
        busy_until = time.monotonic() + 1
        await until(lambda: len(slow_openai.received) > 1 or time.monotonic() > busy_until)

        assert len(slow_openai.received) == 1
        slow_openai.answers = [self.response(job_id, "completed")] * 2
        assert slow_openai.hold is not None
        slow_openai.hold.set()
        await until(lambda: fleet.fired)

    async def test_the_ledger_has_when_a_connection_was_polled_last(
        self, ledger: Ledger, slow_openai: Target, other: psycopg.Connection[Any], options: Options
    ) -> None:
        def polls() -> dict[str, datetime]:
            return dict(other.execute("SELECT conn_id, polled_at FROM aihandoff.polls").fetchall())

        options(sweep_interval=0.05)
        (job_id,) = running(ledger)
        slow_openai.answer_by_path = {f"/v1/responses/resp_{job_id}": self.response(job_id, "in_progress")}
        fleet = Fleet([response_trigger(job_id, poll_interval=0.05)])
        await until(lambda: slow_openai.received)
        assert polls() == {}, "no answer has come yet"

        assert slow_openai.hold is not None
        slow_openai.hold.set()
        await until(lambda: "openai_default" in polls())
        first = polls()
        await until(lambda: polls()["openai_default"] > first["openai_default"])
        assert set(polls()) == {"openai_default"}
        await fleet.cancel()

    async def test_the_ledger_has_when_a_response_was_last_seen_to_run(
        self, ledger: Ledger, slow_openai: Target, options: Options
    ) -> None:
        options(sweep_interval=0.05)
        seen, missing = running(ledger, 2)
        path = "/v1/responses/resp_{}"
        slow_openai.answer_by_path = {path.format(seen): self.response(seen, "in_progress")}
        assert slow_openai.hold is not None
        slow_openai.hold.set()  # what is not found is answered at once, too
        sent = ledger.signs.of_job(seen)
        assert sent is not None
        assert sent.last == sent.since

        fleet = Fleet([response_trigger(job_id, poll_interval=0.05) for job_id in (seen, missing)])
        await until(lambda: (sign := ledger.signs.of_job(seen)) is not None and sign.last > sign.since)
        first = ledger.signs.of_job(seen)
        await until(lambda: ledger.signs.of_job(seen).last > first.last)  # type: ignore[union-attr]
        await until(lambda: path.format(missing) in {received.path for received in slow_openai.received})
        quiet = ledger.signs.of_job(missing)
        assert quiet is not None
        assert quiet.last == quiet.since, "a 404 is no sign"
        await fleet.cancel()

    async def test_polling_never_exceeds_the_rate(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, options: Options
    ) -> None:
        rate = 40
        options(poll_rate=rate)
        polls = record_polls(monkeypatch, lambda _: "pending")
        fleet = Fleet(response_trigger(job_id, poll_interval=0.01) for job_id in running(ledger, 50))
        await until(lambda: len(polls) > 100)
        await fleet.cancel()

        times = [at for at, _ in polls]
        for number in range(1, 60):
            spans = [last - first for first, last in zip(times, times[number:], strict=False)]
            # A window holds what may come at once, and the rate. The timer of the loop is a little early or late.
            assert min(spans) >= (number - 8) / rate - 0.03
        assert len({wait for _, wait in polls}) == 50  # and every wait is polled

    async def test_the_polling_interval_grows_by_a_quarter_up_to_six_times_as_much(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        intervals: list[float] = []

        def without_jitter(interval: float) -> float:
            intervals.append(interval)
            return interval

        monkeypatch.setattr(polling, "jittered", without_jitter)
        polls = record_polls(monkeypatch, lambda _: "completed" if len(polls) > 12 else "pending")
        (job_id,) = running(ledger)

        await Fleet([response_trigger(job_id, poll_interval=0.01)]).ended()

        assert intervals[:2] == [0.01, 0.01]
        assert intervals[-1] == pytest.approx(0.06)
        growth = [after / before for before, after in pairwise(intervals[1:]) if after < 0.06]
        assert growth == pytest.approx([1.25] * len(growth))

    async def test_polling_is_rare_where_webhooks_arrive_and_frequent_elsewhere(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, polling.__name__)
        received(ledger, "with_webhooks")
        polls = record_polls(monkeypatch, lambda _: "pending")
        first, second = running(ledger, 2)
        fleet = Fleet(
            [
                response_trigger(first, openai_conn_id="with_webhooks", poll_interval=0.01),
                response_trigger(second, openai_conn_id="without", poll_interval=0.01),
            ]
        )
        await until(lambda: len(polls) > 10)

        assert {wait.conn_id for _, wait in polls} == {"without"}
        assert "Webhooks arrive on with_webhooks" in caplog.text
        await fleet.cancel()

    async def test_a_connection_that_falls_silent_is_polled_soon_and_spread(
        self,
        ledger: Ledger,
        monkeypatch: pytest.MonkeyPatch,
        options: Options,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        options(sweep_interval=0.1, webhook_silence=1)
        polls = record_polls(monkeypatch, lambda _: "pending")
        received(ledger, "openai_default")
        silent_at = asyncio.get_running_loop().time() + 1
        fleet = Fleet(response_trigger(job_id, poll_interval=1) for job_id in running(ledger, 50))

        await until(lambda: len({wait for _, wait in polls}) == 50)

        times = [at for at, _ in polls][:50]
        assert times[0] >= silent_at + 0.7  # a fifth of the interval less, and a timer that is a little early
        assert times[-1] - times[0] > 0.1
        assert caplog.text.count("Webhooks have fallen silent on openai_default") == 1
        await fleet.cancel()

    async def test_a_connection_on_which_nothing_is_waited_for_is_not_called_silent(
        self,
        ledger: Ledger,
        monkeypatch: pytest.MonkeyPatch,
        options: Options,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        options(sweep_interval=0.05, webhook_silence=0.5)
        record_polls(monkeypatch, lambda _: "pending")
        received(ledger, "openai_default")
        first, second = running(ledger, 2)
        keep = Fleet([response_trigger(second, openai_conn_id="another")])
        leave = Fleet([response_trigger(first)])
        await until(lambda: "openai_default" in hub()._poller._webhooks.arriving)

        await leave.cancel()
        await until(lambda: "openai_default" not in hub()._poller._webhooks.arriving)

        assert "fallen silent" not in caplog.text
        await keep.cancel()

        received(ledger, "openai_default")
        last = Fleet([response_trigger(first)])
        await until(lambda: "openai_default" in hub()._poller._webhooks.arriving)
        await last.cancel()
        late = datetime.now(UTC) + timedelta(seconds=0.6)
        await until(lambda: datetime.now(UTC) > late)
        again = Fleet([response_trigger(first, poll_interval=0.01)])  # the next night
        await caught_up()
        assert "fallen silent" not in caplog.text
        await again.cancel()

    async def test_polling_stops_while_the_ledger_is_unavailable(
        self,
        ledger: Ledger,
        other: psycopg.Connection[Any],
        conninfo: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        polls = record_polls(monkeypatch, lambda _: "pending")
        fleet = Fleet(response_trigger(job_id, poll_interval=0.01) for job_id in running(ledger, 20))
        await until(lambda: len(polls) > 20)
        monkeypatch.setenv(LEDGER, ledger_connection(conninfo, port=1))
        other.execute(END_CONNECTIONS, [APPLICATION_NAME])
        await until(lambda: not hub()._poller._may_poll.is_set())

        before = len(polls)
        await until(lambda: caplog.text.count("cannot be followed") >= 3)
        assert len(polls) == before

        monkeypatch.setenv(LEDGER, ledger_connection(conninfo))
        await until(lambda: len(polls) > before + 20)
        await fleet.cancel()

    @pytest.mark.parametrize("status", [{"a": 1}, [], 7, None, "completed "])
    async def test_a_poll_waits_after_an_absurd_answer(
        self, ledger: Ledger, slow_openai: Target, caplog: pytest.LogCaptureFixture, status: Any
    ) -> None:
        (job_id,) = running(ledger)
        slow_openai.answers = [self.response(job_id, status), self.response(job_id, "completed")]
        assert slow_openai.hold is not None
        slow_openai.hold.set()

        fleet = Fleet([response_trigger(job_id, poll_interval=0.01)])

        assert [event["status"] for event in await fleet.ended()] == ["completed"]
        assert "starts again" not in caplog.text

    @pytest.mark.parametrize("error", [RuntimeError("a bug"), asyncio.CancelledError()], ids=["raises", "is cancelled"])
    async def test_a_poll_that_breaks_is_made_again(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        monkeypatch.setattr(hub_module, "_RECONNECT_CAP", 0.1)

        def answer(wait: ResponseWait) -> str:
            if len(polls) <= 20:
                raise error
            return "completed"

        polls = record_polls(monkeypatch, answer)
        jobs = running(ledger, 10)
        fleet = Fleet(response_trigger(job_id, poll_interval=0.01) for job_id in jobs)

        await fleet.ended()
        assert fleet.jobs == jobs

    async def test_polls_that_are_postponed_again_and_again_take_no_more_memory(self) -> None:
        poller = Poller()
        waits = [ResponseWait(n, 1, f"resp_{n}", "openai_default", NEVER) for n in range(100)]
        for wait in waits:
            poller.add(wait)

        for _ in range(50):
            poller.watch({"openai_default": 0})
            poller.watch({})

        assert len(poller._queue) <= 200
        assert {entry[2] for entry in poller._queue} == set(waits)
        for wait in waits:
            poller.remove(wait)
        assert poller._queue == []

    async def test_the_sdk_is_imported_in_a_thread_before_the_first_poll(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order: list[str] = []
        monkeypatch.setattr(polling, "load_sdk", lambda: order.append(threading.current_thread().name))

        def answer(_: Any) -> str:
            order.append("poll")
            return "completed"

        polls = record_polls(monkeypatch, answer)
        (job_id,) = running(ledger)

        await Fleet([response_trigger(job_id, poll_interval=0.01)]).ended()

        assert len(polls) == 1
        assert order[1:] == ["poll"]
        assert order[0] != threading.main_thread().name


class TestTriggerer:
    async def test_the_hub_gets_connections_from_the_supervisor_though_its_work_belongs_to_no_trigger(
        self, ledger: Ledger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(LEDGER)
        asked_for: Counter[str] = Counter()

        async def supervise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Answers what a triggerer asks."""
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                request = decoder.decode(await reader.readexactly(size))
                body = request.body or {}
                asked_for[body["type"]] += 1
                if body["type"] == "GetConnection":
                    fields = {
                        "conn_id": body["conn_id"],
                        "conn_type": "postgres",
                        "host": conninfo["host"],
                        "port": conninfo["port"],
                        "login": conninfo["user"],
                        "password": conninfo["password"],
                        "schema": conninfo["dbname"],
                        "extra": json.dumps({"application_name": APPLICATION_NAME}),
                    }
                    answer = ConnectionResult.model_validate(fields).model_dump(by_alias=True)
                else:
                    answer = None
                writer.write(_ResponseFrame(request.id, answer, None).as_bytes())

        import msgspec

        decoder = msgspec.msgpack.Decoder(_RequestFrame)
        async with await asyncio.start_server(supervise, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            comms = TriggerCommsDecoder(
                async_writer=writer, async_reader=reader, socket=writer.get_extra_info("socket")
            )
            await start_reader(comms)
            monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
            (job_id,) = running(ledger)
            fleet = Fleet([response_trigger(job_id)])
            await caught_up()
            webhook(ledger, job_id)
            assert len(await fleet.ended()) == 1
            writer.close()
        assert asked_for["GetConnection"] == 1
