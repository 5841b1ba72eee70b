"""What limits of speed add to one submission, and how many permissions many connections get from one limit.

Run it with `.venv/bin/python -m benchmarks.rate_limits [--submissions 500] [--connections 1 16] [--waiting 10000]`.
PostgreSQL is the one from the wheel, with its durable defaults. The submissions with limits and those without are
measured alternately, so that whatever else the machine does happens to both. No provider is asked.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, JobSpec, Owner
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure
from demo.postgres import open_postgres

PROGRAM = Actor.program("benchmark")
OWNER = Owner("benchmark", "run", "draft", -1, "ti", 1)
LEASE = timedelta(seconds=45)
LIMITED, FREE, STOPPED = "limited", "free", "stopped"

#: More than is measured: nothing waits, but where a limit of 0 lets it.
PLENTY = 10**9


def main() -> None:
    """Measure both, and print them."""
    parser = argparse.ArgumentParser(description="Measure what limits of speed cost.")
    parser.add_argument("--submissions", type=int, default=500, help="how many are measured (default: 500)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16], help="that ask at once (default: 1 16)")
    parser.add_argument("--waiting", type=int, default=10_000, help="how many wait beside them (default: 10,000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        postgres = open_postgres(Path(folder) / "postgres")
        postgres.start()
        try:
            postgres.create_database("ledger")
            conninfo = dict(postgres.connection_kwargs("ledger"))
            schema.upgrade(conninfo)
            with Ledger(conninfo) as ledger:
                set_limits(ledger)
                one_submission(ledger, arguments.submissions)
                many_connections(ledger, conninfo, arguments.connections, arguments.submissions)
                fill_queue(conninfo, arguments.waiting)
                print(f"With {arguments.waiting:,} that wait for the same limit:")
                one_submission(ledger, arguments.submissions)
        finally:
            postgres.destroy()


def set_limits(ledger: Ledger) -> None:
    """Limit one connection in every way, so that nothing waits; and stop another."""
    for measure in Measure:
        ledger.rate_limits.set(LimitKind.OPENAI, LIMITED, measure, PLENTY, reason="benchmark", actor=PROGRAM)
    ledger.rate_limits.set(LimitKind.OPENAI, STOPPED, Measure.REQUESTS, 0, reason="benchmark", actor=PROGRAM)


def one_submission(ledger: Ledger, number: int) -> None:
    """Print the median of a permission over the connection with limits, and over the one without."""
    seconds: dict[str, list[float]] = {LIMITED: [], FREE: []}
    for index in range(number):
        for conn_id, taken in seconds.items():
            job_id = opened(ledger, f"{time.time_ns()}-{index}", conn_id)
            start = time.perf_counter()
            ledger.submission.intend(job_id, 1, actor=PROGRAM, lease=LEASE, tokens=1000)
            taken.append(time.perf_counter() - start)
            ledger.cancels.cancel(job_id, actor=PROGRAM, reason="benchmark")
    limited, free = (statistics.median(taken) * 1000 for taken in seconds.values())
    print(f"one permission: {limited:.2f} ms with three limits, {free:.2f} ms without: {limited / free:.2f} times")


def many_connections(ledger: Ledger, conninfo: dict[str, Any], counts: list[int], number: int) -> None:
    """Print how many permissions a second so many connections get, with limits and without."""
    for conn_id in (LIMITED, FREE):
        for count in counts:
            ids = [opened(ledger, f"{time.time_ns()}-{count}-{index}", conn_id) for index in range(number)]

            def work(share: list[int]) -> None:
                with Ledger(conninfo) as own:
                    for job_id in share:
                        own.submission.intend(job_id, 1, actor=PROGRAM, lease=LEASE, tokens=1000)

            with ThreadPoolExecutor(count) as threads:
                start = time.perf_counter()
                list(threads.map(work, [ids[index::count] for index in range(count)]))
                passed = time.perf_counter() - start
            print(f"{count} connections, {conn_id}: {number / passed:.0f} permissions a second")


def opened(ledger: Ledger, key: str, conn_id: str) -> int:
    """A new job over a connection."""
    spec = JobSpec(
        job_type="benchmark",
        job_key=key,
        input={"input": "Write a note."},
        request={"input": "Write a note."},
        conn_id=conn_id,
        requested_by="benchmark",
        permissions={},
        approval="required",
        approval_reason=None,
        max_revisions=3,
        deadline=timedelta(hours=1),
        owner=OWNER,
    )
    return ledger.submission.open(spec).job.job_id


def fill_queue(conninfo: dict[str, Any], number: int) -> None:
    """Let so many wait for the limit on requests."""
    with psycopg.connect(**conninfo) as connection, Ledger(conninfo) as ledger:
        ids = [opened(ledger, f"waiting-{index}", STOPPED) for index in range(number)]
        connection.execute(
            """INSERT INTO aihandoff.rate_waits
                (limit_id, job_id, revision_id, priority, flow, weight, tag, since, asks_at, here)
            SELECT limit_id, job_id, revision_id, 'batch', 'benchmark', 1, row_number() OVER (), now(),
                now() + interval '1 h', false
            FROM aihandoff.revisions, aihandoff.rate_limits
            WHERE job_id = ANY(%s) AND name = %s AND measure = 'requests'""",
            [ids, LIMITED],
        )


if __name__ == "__main__":
    main()
