"""What tests of the inbox need often: deliveries, reads of the history, and ledgers that wait at the right moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import psycopg

from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.generation.submission_store import Intent
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Event, InboxEntry, Job, Revision
from airflow_provider_aihandoff.core.states import JobEvent, ResponseStatus
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from tests.factories import LEASE, TEST, job_spec

T = TypeVar("T")
USAGE = {"input_tokens": 10, "output_tokens": 5}
BILLED = Output(ResponseStatus.COMPLETED, usage=USAGE, cost_usd=Decimal("0.25"))
OVER = timedelta(0)

#: A deadlock is noticed at once, and not after PostgreSQL's second.
IMPATIENT = {"options": "-c deadlock_timeout=50ms"}

_BLOCKED = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""


def webhook(webhook_id: str = "wh_1", response_id: str | None = "resp_1", status: str = "completed") -> Delivery:
    """A webhook that says how a response has ended."""
    event = {"object": "event", "id": "evt_1", "type": f"response.{status}", "data": {"id": response_id}}
    return Delivery(webhook_id, "openai_default", f"response.{status}", response_id, event)


def deliver(ledger: Ledger, *args: Any, **kwargs: Any) -> InboxEntry:
    return ledger.inbox.receive(webhook(*args, **kwargs)).entry


def open_job(ledger: Ledger, **changes: Any) -> Job:
    return ledger.submission.open(job_spec(**changes)).job


def intend(ledger: Ledger, job: Job, lease: timedelta = LEASE, **changes: Any) -> Intent:
    return ledger.submission.intend(job.job_id, job.revision, actor=TEST, lease=lease, **changes)


def submitted(ledger: Ledger, job: Job, intent: Intent, response_id: str = "resp_1") -> Revision | None:
    assert intent.token is not None
    return ledger.submission.submitted(
        job.job_id,
        intent.revision.number,
        token=intent.token,
        response_id=response_id,
        status=ResponseStatus.QUEUED,
        actor=Actor.program("worker"),
    )


def lose(ledger: Ledger, job: Job, intent: Intent, wait: timedelta = OVER) -> None:
    """The request was sent, and no answer came."""
    assert intent.token is not None
    ledger.submission.submission_lost(
        job.job_id, job.revision, token=intent.token, actor=TEST, reason="time-out", orphan_wait=wait
    )


def refuse(ledger: Ledger, job: Job, intent: Intent) -> None:
    """The request was refused: nothing runs, as far as is known."""
    assert intent.token is not None
    ledger.submission.not_submitted(job.job_id, job.revision, token=intent.token, actor=TEST, reason="503")


def adopt(ledger: Ledger, job_id: int, webhook_id: str = "wh_1", **changes: Any) -> InboxEntry:
    """OpenAI was asked about the response of a webhook, and named this job."""
    found: dict[str, Any] = {
        "number": 1,
        "created_at": datetime.now(UTC),
        "output": BILLED,
        "actor": Actor.program("webhook:test"),
    }
    return ledger.inbox.adopt(webhook_id, job_id=job_id, **{**found, **changes})


def lines(ledger: Ledger, job_id: int, event: JobEvent) -> list[Event]:
    return [line for line in ledger.record(job_id).events if line.event == event]


def count(ledger: Ledger, job_id: int, event: JobEvent) -> int:
    return len(lines(ledger, job_id, event))


def run(conninfo: Mapping[str, Any], statement: str, *values: Any) -> None:
    with psycopg.connect(**conninfo) as connection:
        connection.execute(statement, values)


def check_histories(ledger: Ledger) -> None:
    """No history of the ledger is broken."""
    for job in ledger.jobs(limit=10_000):
        record = ledger.record(job.job_id)
        assert first_break(record.events, record.job) is None


class Race:
    """Runs one step up to a certain point, lets the other one begin there, and then lets both end.

    The first step goes on as soon as the second one waits for a lock, or has ended because it did not have to.
    """

    def __init__(self, conninfo: Mapping[str, Any]) -> None:
        self._observer = psycopg.connect(**conninfo, autocommit=True)
        self._threads = ThreadPoolExecutor(2)
        self._first = threading.local()
        self._reached, self._second = threading.Event(), Future[Any]()

    def close(self) -> None:
        self._threads.shutdown()
        self._observer.close()

    def pause(self) -> None:
        """The point: called by the first step, it lets the second one begin. Called by the second, it does nothing."""
        if not getattr(self._first, "runs", False):
            return
        self._reached.set()
        while not self._second.done() and not self._blocked():
            pass

    def _blocked(self) -> bool:
        row = self._observer.execute(_BLOCKED).fetchone()
        return row is not None and row[0] > 0

    def run(self, first: Callable[[], T], second: Callable[[], Any]) -> tuple[T, Any]:
        """Return what the two steps return."""
        self._reached, self._second = threading.Event(), Future()

        def begin() -> T:
            self._first.runs = True
            try:
                return first()
            finally:
                self._first.runs = False
                self._reached.set()

        ahead = self._threads.submit(begin)
        assert self._reached.wait(30)
        try:
            self._second.set_result(second())
        except Exception as error:  # noqa: BLE001 - raised below, when the first has ended
            self._second.set_exception(error)
        return ahead.result(30), self._second.result()


@contextmanager
def race(conninfo: Mapping[str, Any]) -> Iterator[Race]:
    opened = Race(conninfo)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def pausing_at_commit(conninfo: Mapping[str, Any], race: Race) -> Iterator[Ledger]:
    """A ledger whose first step pauses when it has done everything but the commit."""
    with Ledger({**conninfo, **IMPATIENT}) as ledger:
        commit = ledger._database._commit

        def pause_and_commit(connection: LedgerConnection) -> None:
            race.pause()
            commit(connection)

        ledger._database._commit = pause_and_commit  # type: ignore[method-assign]
        yield ledger
