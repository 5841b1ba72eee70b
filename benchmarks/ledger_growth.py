"""How many rows and bytes a job takes in the ledger, and what becomes of tables and indexes over a million jobs.

Run it with `.venv/bin/python -m benchmarks.ledger_growth [--jobs 1000000] [--each 200]`. PostgreSQL is the one from the
wheel. First it makes some jobs of each of the three pipelines, with the operators of their own Dags, a person who
decides, and webhooks, and prints what a job has left in the ledger. Then it makes a million jobs of
tickets, as copies that go through every version of every row that real ones went through (see `ledger_copies`), and
prints at each power of ten: bytes a job, dead rows, how often autovacuum has run, and how many blocks a real set of 20
more jobs has touched. At the end it rewrites every table and index, and prints what that would give back.

Only sizes and counts are printed, no times, so the server does not sync to disk, and other work on the machine does no
harm. Copies come far faster than jobs do. So autovacuum looks every two seconds whether there is something to do, and
works as slowly as by default: it leaves at least as much behind as in production.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.ledger import Ledger
from benchmarks import pipelines
from benchmarks.ledger_copies import Copier, record, recorded
from benchmarks.ledger_sizes import Sizes, sizes, wait_for_autovacuum
from benchmarks.task_runs import only_errors
from demo.business import seed
from demo.postgres import Postgres, open_postgres

#: As fast as it goes: nothing here has to survive a crash.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "4GB",
    "autovacuum_naptime": "2s",  # copies come so much faster than jobs do
}

#: Jobs whose courses are copied, and jobs that are copied side by side.
COPIED, SIDE_BY_SIDE = 10, 5_000

#: The number of the first copy, beyond the ids of all real jobs.
FIRST_COPY = 100_000

#: Real jobs that are made at each size, to see what they touch.
PROBED = 20

#: The tables that a job leaves something in, the largest first.
SHOWN = 6


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1_000_000, help="how many in the end (default: 1,000,000)")
    parser.add_argument("--each", type=int, default=200, help="real jobs of each pipeline (default: 200)")
    options = parser.parse_args()
    only_errors()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgres = open_postgres(folder / "postgres", SETTINGS)
        postgres.start()
        try:
            with pipelines.business(folder, postgres, tickets=seed.MOST_TICKETS // 10):
                report_jobs(postgres, options.each)
                report_growth(postgres, options.jobs)
        finally:
            postgres.destroy()


# What one job leaves.


def report_jobs(postgres: Postgres, number: int) -> None:
    """Print what a job of each pipeline has left."""
    tickets = seed.tickets(number)[-number:]
    made: dict[str, Callable[[Ledger], None]] = {
        "publishing": lambda ledger: _each(number, lambda at: pipelines.publish(ledger, at)),
        "report": lambda ledger: _each(number, lambda at: pipelines.report(ledger, at)),
        "ticket, in a set": lambda ledger: pipelines.classify(ledger, tickets, 1),
    }
    for what, make in made.items():
        database = f"ledger_{what.partition(',')[0]}"
        conninfo = new_ledger(postgres, database)
        before = sizes(conninfo)
        with Ledger(conninfo, max_size=2) as ledger:
            make(ledger)
        print_job(what, before, sizes(conninfo), number)


def new_ledger(postgres: Postgres, database: str) -> dict[str, Any]:
    """An empty ledger, which the operators find."""
    postgres.create_database(database)
    conninfo = postgres.connection_kwargs(database)
    schema.upgrade(conninfo)
    pipelines.use_ledger(postgres, database)
    return conninfo


def _each(number: int, make: Callable[[int], None]) -> None:
    for at in range(number):
        make(at)


def print_job(what: str, before: Sizes, after: Sizes, number: int) -> None:
    """Print one pipeline: the whole, and its largest tables."""
    rows = {name: _left(before, after, name, number) for name in after.tables}
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    wal, commits = (after.wal - before.wal) / number, (after.commits - before.commits) / number
    print(f"\n{what}: {number:,} jobs, each with {commits:,.1f} transactions and {wal / 1024:,.1f} KiB of WAL")
    print(f"{'a job has':28}{'inserts':>9}{'updates':>9}{'of them HOT':>13}{'rows, bytes':>13}{'indexes':>9}")
    largest = sorted(rows, key=lambda name: -sum(rows[name][3:]))[:SHOWN]
    for name, figures in {"in all": total, **{name: rows[name] for name in largest}}.items():
        inserts, updates, hot, heap, indexes = figures
        print(f"{name:28}{inserts:9.1f}{updates:9.1f}{hot:13.1f}{heap:13,.0f}{indexes:9,.0f}", flush=True)


def _left(before: Sizes, after: Sizes, name: str, number: int) -> tuple[float, ...]:
    old, new = before.tables[name], after.tables[name]
    changes = (new.inserts - old.inserts, new.updates - old.updates, new.hot - old.hot)
    return tuple(each / number for each in (*changes, new.heap - old.heap, new.indexes - old.indexes))


# What becomes of many.


def report_growth(postgres: Postgres, jobs: int) -> None:
    """Print the ledger at each size, and what a rewrite would give back."""
    conninfo = new_ledger(postgres, "ledger_growth")
    tickets = iter(seed.tickets(seed.MOST_TICKETS // 10))
    with psycopg.connect(**conninfo, autocommit=True) as connection:
        record(connection)
        _probe(conninfo, tickets, 0, COPIED)
        copies = recorded(connection)
    print(f"\n{'jobs':>10}{'bytes a job':>13}{'rows':>9}{'indexes':>9}{'dead rows':>12}{'vacuums':>9}", end="")
    print(f"{'blocks a job':>14}{'rows scanned a job':>20}")
    first, made = FIRST_COPY, COPIED
    for number, size in enumerate(checkpoints(jobs), start=1):
        with psycopg.connect(**conninfo, autocommit=True) as connection:
            connection.execute("SET session_replication_role = replica")  # what triggers did is among the versions
            end = Copier(connection, copies, min(SIDE_BY_SIDE, size)).make(first, size - made)
        made, first = made + end - first, end
        wait_for_autovacuum(conninfo)
        _probe(conninfo, tickets, 2 * number, PROBED)
        before = sizes(conninfo)
        _probe(conninfo, tickets, 2 * number + 1, PROBED)
        after = sizes(conninfo)
        made += 2 * PROBED
        print_size(made, before, after)
    print_rewrite(conninfo)


def checkpoints(jobs: int) -> Iterator[int]:
    """The powers of ten from a thousand, and the last size."""
    size = 1_000
    while size < jobs:
        yield size
        size *= 10
    yield jobs


def _probe(conninfo: Mapping[str, Any], tickets: Iterator[Mapping[str, Any]], number: int, jobs: int) -> None:
    """Make real jobs, as a set."""
    with Ledger(conninfo, max_size=2) as ledger:
        pipelines.classify(ledger, [next(tickets) for _ in range(jobs)], number)


def print_size(jobs: int, before: Sizes, after: Sizes) -> None:
    """Print one line."""
    scanned = sum(after.tables[name].read_through - before.tables[name].read_through for name in after.tables)
    vacuums = sum(table.vacuums for table in after.tables.values())
    heap = after.bytes - after.index_bytes
    print(f"{jobs:10,}{after.bytes / jobs:13,.0f}{heap / jobs:9,.0f}{after.index_bytes / jobs:9,.0f}", end="")
    print(
        f"{after.dead:12,}{vacuums:9}{(after.blocks - before.blocks) / PROBED:14,.0f}{scanned / PROBED:20,.1f}",
        flush=True,
    )


def print_rewrite(conninfo: Mapping[str, Any]) -> None:
    """Rewrite everything, and print how much smaller it is."""
    before = sizes(conninfo)
    with psycopg.connect(**conninfo, autocommit=True) as connection:
        for name in before.tables:
            connection.execute(psycopg.sql.SQL("VACUUM FULL aihandoff.{}").format(psycopg.sql.Identifier(name)))
    after = sizes(conninfo)
    print(f"\n{'beside freshly written ones':32}{'MiB':>9}{'rewritten':>11}{'times':>10}")
    rows = {"rows": (before.bytes - before.index_bytes, after.bytes - after.index_bytes)}
    rows["indexes"] = (before.index_bytes, after.index_bytes)
    worst = sorted(before.indexes, key=lambda name: after.indexes[name] - before.indexes[name])[:SHOWN]
    rows |= {f"  {name}": (before.indexes[name], after.indexes[name]) for name in worst}
    for name, (old, new) in rows.items():
        print(f"{name:32}{old / 2**20:9,.1f}{new / 2**20:11,.1f}{old / max(new, 1):10,.2f}")


if __name__ == "__main__":
    main()
