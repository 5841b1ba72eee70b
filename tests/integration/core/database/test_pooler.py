"""The ledger through a real PgBouncer in transaction mode, which gives each transaction another session."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.database.connection import Database
from airflow_provider_aihandoff.core.errors import LedgerSchemaError, LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.limits import Limits
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec, submit
from tests.integration.core.webhooks.inboxes import webhook
from tests.pgbouncer import pgbouncer


@pytest.fixture
def pooled(conninfo: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The ledger's database through PgBouncer."""
    with pgbouncer(conninfo) as through:
        yield through


def pids(database: Database) -> set[int]:
    """Server processes that answer while others are busy."""

    def work(connection: psycopg.Connection[Any]) -> int:
        row = connection.execute("SELECT pg_backend_pid() AS pid, pg_sleep(0.05)").fetchone()
        assert row is not None
        return int(row["pid"])

    with ThreadPoolExecutor(4) as threads:
        return set(threads.map(lambda _: database.transact(work), range(12)))


def test_transactions_of_one_connection_run_in_different_sessions_here(pooled: dict[str, Any]) -> None:
    database = Database(pooled, max_size=4)
    assert len(pids(database)) > 1
    database.close()


def test_a_job_goes_all_the_way(pooled: dict[str, Any]) -> None:
    with Ledger(pooled, max_size=4) as ledger:
        ledger.check_schema()
        for number in range(12):  # more often than statements are run before they are prepared
            job = draft(ledger, job_spec(job_key=f"job {number}"), response_id=f"resp_{number}")
            job = approve(ledger, ask(ledger, job))
            claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
            ledger.effects.confirm(claim, external_id="rec-1", result={}, actor=TEST)
            assert ledger.record(job.job_id).job.state is JobState.COMPLETED


def test_webhooks_that_come_together_are_recorded(pooled: dict[str, Any]) -> None:
    with Ledger(pooled, max_size=4) as ledger:
        for turn in range(8):  # more often than statements are run before they are prepared
            numbers = range(turn * 5, turn * 5 + 5)
            for number in numbers:
                submit(ledger, job_spec(job_key=f"job {number}"), f"resp_{number}")
            receipts = ledger.inbox_batches.receive([webhook(f"wh_{n}", f"resp_{n}") for n in (*numbers, 1000 + turn)])
            assert [receipt and str(receipt.entry.disposition) for receipt in receipts] == [
                *["applied"] * 5,
                "quarantined",
            ]


def test_jobs_at_the_same_time_run_whatever_session_they_get(pooled: dict[str, Any]) -> None:
    with Ledger(pooled, max_size=8) as ledger, ThreadPoolExecutor(8) as threads:
        done = list(
            threads.map(lambda n: draft(ledger, job_spec(job_key=f"job {n}"), response_id=f"resp_{n}"), range(40))
        )
    assert {job.state for job in done} == {JobState.REVIEW}


def test_the_time_outs_hold_in_every_session_and_stay_in_none(pooled: dict[str, Any]) -> None:
    database = Database(pooled, max_size=4, limits=Limits(lock=1.5, statement=2.5, patience=0))
    query = "SELECT current_setting('lock_timeout') AS lock, current_setting('statement_timeout') AS statement"
    for _ in range(8):
        row = database.transact(lambda connection: connection.execute(query).fetchone())
        assert row == {"lock": "1500ms", "statement": "2500ms"}
    with psycopg.connect(**pooled, autocommit=True, prepare_threshold=None) as plain:
        for _ in range(8):
            assert plain.execute("SHOW lock_timeout").fetchone() == ("0",)
    database.close()


def test_statements_that_are_prepared_against_advice_end_in_words(pooled: dict[str, Any]) -> None:
    database = Database({**pooled, "prepare_threshold": 0}, max_size=4)

    def work(connection: psycopg.Connection[Any]) -> None:
        connection.execute("SELECT 1, pg_sleep(0.02)")

    with ThreadPoolExecutor(4) as threads, pytest.raises(LedgerUnavailable, match=r"pooler.*prepare_threshold.*null"):
        list(threads.map(lambda _: database.transact(work), range(200)))
    database.close()


def test_an_upgrade_is_refused_since_its_lock_would_stay_in_the_pool(
    pooled: dict[str, Any], conninfo: dict[str, Any]
) -> None:
    with pytest.raises(LedgerSchemaError, match=r"pooler.*over a connection that leads to the server itself"):
        schema.upgrade(pooled)
    with psycopg.connect(**conninfo) as connection:
        assert connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)
