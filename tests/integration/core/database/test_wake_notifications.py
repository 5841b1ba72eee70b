"""Waiting processes are notified of a change after its commit, and of nothing else; a lost message does no harm."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from airflow_provider_aihandoff.core.database import connection as connection_module
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import WAKE_CHANNEL, LedgerConnection
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, Reviewers
from airflow_provider_aihandoff.core.states import WAKING_JOB_EVENTS, JobEvent, JobState, ResponseStatus
from tests.factories import LEASE, OWNER, TEST, approve, ask, draft, effect_plan, job_spec, submit
from tests.integration.core.webhooks.inboxes import (
    USAGE,
    deliver,
    intend,
    lose,
    open_job,
    refuse,
    run,
    submitted,
)

END = "end of the test"
OTHER = {"model": "gpt-5.2", "input": "Write about the pan."}


class Listener:
    """A connection that listens."""

    def __init__(self, conninfo: dict[str, Any]) -> None:
        self._conninfo = conninfo
        self.connection = psycopg.connect(**conninfo, autocommit=True)
        self.connection.execute(f"LISTEN {WAKE_CHANNEL}")

    def heard(self) -> list[str]:
        """What has been sent so far."""
        with psycopg.connect(**self._conninfo, autocommit=True) as other:
            other.execute("SELECT pg_notify(%s, %s)", [WAKE_CHANNEL, END])
        heard: list[str] = []
        for message in self.connection.notifies(timeout=30):
            if message.payload == END:
                return heard
            heard.append(message.payload)
        raise AssertionError("the last message did not come")


@pytest.fixture
def listener(conninfo: dict[str, Any]) -> Iterator[Listener]:
    opened = Listener(conninfo)
    yield opened
    opened.connection.close()


@pytest.fixture
def one(conninfo: dict[str, Any]) -> Iterator[Ledger]:
    """The ledger over a single connection, so that each step meets what the one before has left."""
    with Ledger(conninfo) as opened:
        yield opened


def reviewed(ledger: Ledger) -> int:
    return ask(ledger, draft(ledger)).job_id


def decide(ledger: Ledger, job_id: int, verdict: Any) -> None:
    ledger.reviews.decide(
        job_id, verdict, digest=str(ledger.job(job_id).review_digest), person=Person("bob"), comment="Shorter."
    )


def edit(ledger: Ledger, job_id: int) -> None:
    digest = str(ledger.job(job_id).review_digest)
    ledger.reviews.edit(job_id, digest=digest, output="A pan.", person=Person("bob"))


def reassign(ledger: Ledger, job_id: int, _: dict[str, Any]) -> None:
    reviewers = Reviewers(Approvers(users=("carol",)))
    ledger.reassignments.reassign(job_id, reviewers, actor=TEST, reason="on holiday")


def changing(ledger: Ledger) -> int:
    """A job of which a reviewer wants another revision."""
    job_id = reviewed(ledger)
    decide(ledger, job_id, "request changes")
    return job_id


def expire(ledger: Ledger, job_id: int, conninfo: dict[str, Any]) -> None:
    run(conninfo, "UPDATE aihandoff.jobs SET review_deadline = now()")
    ledger.reviews.expire(job_id, digest=str(ledger.job(job_id).review_digest), fail=True)


def store(ledger: Ledger, job_id: int) -> None:
    ledger.outputs.store(job_id, 1, Output(ResponseStatus.COMPLETED, "A kettle.", usage=USAGE), actor=TEST)


def running(ledger: Ledger) -> int:
    return submit(ledger, job_spec()).job_id


def running_without_approval(ledger: Ledger) -> int:
    return submit(ledger, job_spec(approval="not required", approval_reason="internal drafts")).job_id


def approved(ledger: Ledger) -> int:
    return approve(ledger, ledger.job(reviewed(ledger))).job_id


def lost(ledger: Ledger) -> int:
    """A job that waits for a person after a lost request."""
    job_id = open_job(ledger, on_lost="ask").job_id
    token = ledger.submission.intend(job_id, 1, actor=TEST, lease=LEASE).token
    assert token is not None
    ledger.submission.submission_lost(job_id, 1, token=token, actor=TEST, reason="cut off")
    return job_id


def unknown(ledger: Ledger) -> int:
    """A job with an effect that may have been applied."""
    job_id = approved(ledger)
    claim = ledger.effects.claim(job_id, effect_plan(), lease=LEASE, actor=TEST)
    return ledger.effects.lose(claim, error="time-out", actor=TEST).job_id


Before = Callable[[Ledger], int]
Step = Callable[[Ledger, int, dict[str, Any]], Any]

#: How a job comes to be where the event can happen, the step that makes it happen, and the state it leads to.
WAKING: dict[JobEvent, tuple[Before, Step, JobState]] = {
    JobEvent.REVISED: (running, lambda ledger, *_: open_job(ledger, input=OTHER), JobState.QUEUED),
    JobEvent.SUBMIT_RESOLVED: (
        lost,
        lambda ledger, job, _: ledger.submission.resolve(job, send_again=True, seen=1, actor=TEST, why="?"),
        JobState.QUEUED,
    ),
    JobEvent.RESPONSE_ENDED: (running, lambda ledger, *_: deliver(ledger), JobState.RUNNING),
    JobEvent.OUTPUT_STORED: (running, lambda ledger, job, _: store(ledger, job), JobState.REVIEW),
    JobEvent.OUTPUT_ACCEPTED: (
        running_without_approval,
        lambda ledger, job, _: store(ledger, job),
        JobState.APPROVED,
    ),
    JobEvent.FAILED: (
        running,
        lambda ledger, job, _: ledger.outputs.fail(job, 1, actor=TEST, reason="?", error={"kind": "gone"}),
        JobState.FAILED,
    ),
    JobEvent.PLANNED: (
        lambda ledger: draft(ledger).job_id,
        lambda ledger, job, _: ask(ledger, ledger.job(job)),
        JobState.REVIEW,
    ),
    JobEvent.PLAN_CHANGED: (
        approved,
        lambda ledger, job, _: ask(ledger, ledger.job(job), effect_plan(body="other")),
        JobState.REVIEW,
    ),
    JobEvent.APPROVED: (reviewed, lambda ledger, job, _: decide(ledger, job, "approve"), JobState.APPROVED),
    JobEvent.REJECTED: (reviewed, lambda ledger, job, _: decide(ledger, job, "reject"), JobState.REJECTED),
    JobEvent.EDITED: (reviewed, lambda ledger, job, _: edit(ledger, job), JobState.REVIEW),
    JobEvent.CHANGES_REQUESTED: (
        reviewed,
        lambda ledger, job, _: decide(ledger, job, "request changes"),
        JobState.QUEUED,
    ),
    JobEvent.CHANGE_FAILED: (
        changing,
        lambda ledger, job, _: ledger.outputs.fail(job, 2, actor=TEST, reason="?", error={"kind": "gone"}),
        JobState.REVIEW,
    ),
    JobEvent.REASSIGNED: (reviewed, reassign, JobState.REVIEW),
    JobEvent.REVIEW_EXPIRED: (reviewed, expire, JobState.FAILED),
    JobEvent.CANCELLED: (
        running,
        lambda ledger, job, _: ledger.outputs.cancelled(
            job, 1, actor=TEST, reason="?", status=ResponseStatus.CANCELLED
        ),
        JobState.CANCELLED,
    ),
    JobEvent.EFFECT_RESOLVED: (
        unknown,
        lambda ledger, job, _: ledger.effects.resolve(
            1, applied=False, external_id=None, actor=Actor.program("bob"), why="looked"
        ),
        JobState.APPLYING,
    ),
}


class TestWoken:
    def test_each_event_that_may_end_a_wait_is_tested_here(self) -> None:
        assert set(WAKING) == WAKING_JOB_EVENTS

    @pytest.mark.parametrize("event", WAKING)
    def test_a_listener_is_notified_of_the_job_and_then_sees_the_change(
        self, one: Ledger, conninfo: dict[str, Any], event: JobEvent
    ) -> None:
        before, step, state = WAKING[event]
        job_id = before(one)
        listens = threading.Event()

        def listen() -> tuple[Any, ...] | None:
            with psycopg.connect(**conninfo, autocommit=True) as connection:
                connection.execute(f"LISTEN {WAKE_CHANNEL}")
                listens.set()
                [message] = connection.notifies(timeout=30, stop_after=1)
                return connection.execute(
                    """SELECT job_id, state, event FROM aihandoff.jobs JOIN aihandoff.events USING (job_id)
                    WHERE job_id = %s ORDER BY seq DESC LIMIT 1""",
                    [int(message.payload)],
                ).fetchone()

        with ThreadPoolExecutor(1) as threads:
            seen = threads.submit(listen)
            assert listens.wait(30)
            step(one, job_id, conninfo)
            assert seen.result(30) == (job_id, state, event)

    def test_a_webhook_that_came_early_wakes_with_the_step_that_stores_the_id(
        self, one: Ledger, listener: Listener
    ) -> None:
        job = open_job(one)
        intent = intend(one, job)
        deliver(one)
        assert listener.heard() == []
        submitted(one, job, intent)
        assert listener.heard() == [str(job.job_id)]


class TestNotWoken:
    def test_no_one_is_notified_of_any_other_event(self, one: Ledger, listener: Listener) -> None:
        job = open_job(one)
        open_job(one)
        refuse(one, job, intend(one, job))
        lose(one, job, intend(one, job))
        submitted(one, job, intend(one, job))
        one.outputs.request_cancel(job.job_id, owner=OWNER, actor=TEST, reason="killed")
        assert listener.heard() == []
        one.outputs.cancelled(job.job_id, 1, actor=TEST, reason="killed", status=ResponseStatus.CANCELLED)
        assert listener.heard() == ["1"]
        deliver(one)
        assert [line.event for line in one.record(job.job_id).events][-1] == "output late"
        assert listener.heard() == []

    def test_no_one_is_notified_of_the_effects_of_a_job(self, one: Ledger, listener: Listener) -> None:
        job_id = approved(one)
        listener.heard()
        claim = one.effects.claim(job_id, effect_plan(), lease=LEASE, actor=TEST)
        one.effects.confirm(claim, external_id="1", result={}, actor=TEST)
        assert one.job(job_id).state is JobState.COMPLETED
        assert listener.heard() == []

    def test_a_step_that_changes_nothing_notifies_no_one(self, one: Ledger, listener: Listener) -> None:
        job_id = running(one)
        deliver(one)
        assert listener.heard() == [str(job_id)]
        deliver(one)
        deliver(one, "wh_2")
        assert listener.heard() == []

    def test_no_one_is_notified_of_a_rolled_back_transaction_then_or_with_the_next_step(
        self, one: Ledger, listener: Listener
    ) -> None:
        job = one.job(running(one))

        def work(connection: LedgerConnection) -> None:
            history.move(connection, job, JobEvent.CANCELLED, actor=TEST)
            raise RuntimeError("half-way")

        with pytest.raises(RuntimeError):
            one._database.transact(work)
        assert one.job(job.job_id).state is JobState.RUNNING
        one.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
        assert listener.heard() == []


BROKEN = {
    "fails": "SELECT 1/0, %s",
    "ends the connection": "SELECT pg_terminate_backend(pg_backend_pid()), %s",
    "is no statement": "NOTIFY %s",
}


class TestLost:
    @pytest.fixture(params=BROKEN, autouse=True)
    def broken(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection_module, "_WAKE", BROKEN[request.param])

    def test_a_step_is_done_although_its_notification_cannot_be_sent(
        self, one: Ledger, listener: Listener, caplog: pytest.LogCaptureFixture
    ) -> None:
        job_id = running(one)
        deliver(one)
        assert one.revision(job_id, 1).response_status == "completed"
        assert "No notification of a change in the ledger was sent" in caplog.text
        assert listener.heard() == []

    def test_the_next_steps_are_transactions_as_ever(self, one: Ledger) -> None:
        job = one.job(running(one))
        deliver(one)

        def work(connection: LedgerConnection) -> None:
            assert connection.info.transaction_status is TransactionStatus.INTRANS
            connection.execute("DELETE FROM aihandoff.inbox")
            raise RuntimeError("half-way")

        with pytest.raises(RuntimeError):
            one._database.transact(work)
        assert one.inbox.read("wh_1").job_id == job.job_id

    def test_a_notification_that_could_not_be_sent_is_not_sent_with_the_next_step(
        self, one: Ledger, listener: Listener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = open_job(one)
        intent = intend(one, job)
        deliver(one)
        submitted(one, job, intent)
        monkeypatch.undo()
        open_job(one)
        assert listener.heard() == []


def test_after_a_message_the_next_step_is_a_transaction(one: Ledger, listener: Listener) -> None:
    job_id = running(one)
    deliver(one)
    assert listener.heard() == [str(job_id)]
    status = one._database.transact(lambda connection: connection.info.transaction_status)
    assert status is TransactionStatus.INTRANS
