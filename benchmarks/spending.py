"""How long it takes to add up what was spent, by day and by anything else, on a ledger with many jobs.

Run it with `.venv/bin/python -m benchmarks.spending [jobs] [--plans]` (100,000 unless given; `--plans` also prints what
PostgreSQL does). The ledger is in PostgreSQL from the wheel, with its durable defaults. The jobs are spread over 90
days, each with one response, and a request of about 4 KB.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from airflow_provider_aihandoff.core.budgets.spending_store import query_of
from airflow_provider_aihandoff.core.budgets.spent_by import SpentBy
from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.ledger import Ledger
from demo.postgres import open_postgres

TIMES = 5
OF_PAGE = [by for by in SpentBy if by is not SpentBy.TAG]
DAYS = 90

_JOBS = """
    INSERT INTO aihandoff.jobs (job_type, job_key, state, input, input_digest, requested_by, permissions, approval,
        max_revisions, revision, dag_id, run_id, task_id, map_index, ti_id, try_number, event_seq, event_hash,
        created_at, updated_at, tags)
    SELECT 'type ' || n %% 12, 'job:' || n,
        (ARRAY['completed', 'completed', 'rejected', 'failed', 'review'])[1 + n %% 5], '{}', md5(n::text),
        'user ' || n %% 40, '{}', 'required', 3, 1, 'dag_' || n %% 25, 'run_' || n / 100, 'draft', -1,
        'ti_' || n, 1, 0, repeat('0', 64), now() - %(days)s::float * n / %(jobs)s * interval '1 day', now(),
        CASE WHEN n %% 3 = 0 THEN ARRAY['nightly', 'eu'] ELSE '{}' END
    FROM generate_series(1, %(jobs)s) AS n"""
_REVISIONS = """
    INSERT INTO aihandoff.revisions (job_id, number, author, author_kind, state, conn_id, request, request_digest,
        deadline, submissions, response_id, response_status, error, cost_usd, created_at, completed_at, model)
    SELECT job_id, 1, 'model', 'model', 'failed', 'openai_default',
        json_build_object('model', 'gpt-5.' || job_id % 4, 'input', repeat('It boils. ', 400)), input_digest,
        now(), 1, 'resp_' || job_id, 'failed', '{}', 0.01 * (job_id % 7), created_at, created_at, 'gpt-5.' || job_id % 4
    FROM aihandoff.jobs"""


def main() -> None:
    """Measure, and print the medians."""
    numbers = [each for each in sys.argv[1:] if each.isdigit()]
    jobs = int(numbers[0]) if numbers else 100_000
    with tempfile.TemporaryDirectory() as folder:
        postgres = open_postgres(Path(folder) / "postgres")
        postgres.start()
        try:
            postgres.create_database("ledger")
            conninfo = postgres.connection_kwargs("ledger")
            fill(conninfo, jobs)
            report(conninfo, jobs)
            if "--plans" in sys.argv:
                plans(conninfo)
        finally:
            postgres.destroy()


def fill(conninfo: dict[str, Any], jobs: int) -> None:
    """Add so many jobs."""
    schema.upgrade(conninfo)
    with psycopg.connect(**conninfo) as connection:
        connection.execute(_JOBS, {"jobs": jobs, "days": DAYS})
        connection.execute(_REVISIONS)
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE")


def report(conninfo: dict[str, Any], jobs: int) -> None:
    """Print what each question takes, for all of the time and for its last week."""
    print(f"{jobs:,} jobs in {DAYS} days; median of {TIMES}, in ms")
    with Ledger(conninfo) as ledger:
        for days in (DAYS + 1, 30, 7):
            since = ledger.now() - timedelta(days=days)
            for by in SpentBy:
                print(f"  {days:3} days by {by.value:10} {median(partial(ledger.spending.by, by, since=since)):8.0f}")
            page = partial(ledger.spending.report, list(SpentBy), since=since)
            print(f"  {days:3} days, the page   {median(page):8.0f}")


def plans(conninfo: dict[str, Any]) -> None:
    """Print how PostgreSQL finds the last week."""
    with Ledger(conninfo) as ledger, psycopg.connect(**conninfo) as connection:
        values = {"since": ledger.now() - timedelta(days=7), "dag_ids": None}
        for group in (OF_PAGE, [SpentBy.TAG]):
            for (line,) in connection.execute("EXPLAIN (ANALYZE, BUFFERS) " + query_of(group), values):
                print(line)


def median(ask: Callable[[], object]) -> float:
    """The median time of a question, in ms."""
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        ask()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


if __name__ == "__main__":
    main()
