"""What the tests of budgets share: a budget of a whole ledger, jobs that ask for money, and a check of the books."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from airflow_provider_aihandoff.core.budgets.budget_spec import Budget, checked_spec
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.generation.submission_store import Intent
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from tests.bill import BOOKS, check_books
from tests.factories import LEASE, TEST, job_spec

Add = Callable[..., Budget]
Ask = Callable[..., Intent]

ALICE = Actor.user("alice")


@pytest.fixture
def query(conninfo: dict[str, Any]) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """Ask the ledger's database anything."""
    with psycopg.connect(**conninfo, row_factory=dict_row, autocommit=True) as connection:

        def run(sql: str, *values: Any) -> list[dict[str, Any]]:
            cursor = connection.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []

        yield run


@pytest.fixture
def books(query: Callable[..., list[dict[str, Any]]]) -> Callable[[], list[dict[str, Any]]]:
    """The books of all periods, after they were found to be right."""

    def check() -> list[dict[str, Any]]:
        rows = query(BOOKS)
        check_books(rows)
        return rows

    return check


@pytest.fixture
def add(ledger: Ledger) -> Add:
    """Add a budget: by default of 10 USD in total, for everything."""

    def added(amount: Any = 10, name: str = "all", **more: Any) -> Budget:
        values = {"period": "total", "owner": "alice", **more}
        return ledger.budgets.add(checked_spec(name, amount, **values), why="to be safe", actor=ALICE)

    return added


@pytest.fixture
def ask(ledger: Ledger) -> Ask:
    """Ask for the permission to send the request of a job, which can cost so much."""

    def asked(key: str, need: Any = 1, lease: timedelta = LEASE, **more: Any) -> Intent:
        opened = ledger.submission.open(job_spec(job_key=key, **more))
        worst = WorstCase(cost_usd=None if need is None else Decimal(str(need)))
        return ledger.submission.intend(opened.job.job_id, opened.job.revision, actor=TEST, lease=lease, worst=worst)

    return asked
