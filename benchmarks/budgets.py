"""What a budget and limits add to one submission, and how many reservations one budget takes from many connections.

Run it with `.venv/bin/python -m benchmarks.budgets` on a quiet machine, some minutes. It has a PostgreSQL of its own
that writes to the disk as in production.

Each submission is that of a job: open, intend, submitted, output stored. Those without, with a budget, with a budget
and a limit on requests a minute, and with a budget and all three limits take turns, so that all meet the same machine.
The reservations from 16 connections are transactions of their own, each with one reservation. In a second round half of
the connections also settle what they have reserved, each in a further transaction. Beside each round, in the same run,
as many transactions that insert a row of the same size, which waits for no other; and as many that count in one row, as
a budget without stripes would, and so wait for each other.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.budgets.reservation_store import Request, settle, take
from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, JobSpec, Owner
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure
from airflow_provider_aihandoff.core.states import ResponseStatus
from demo.postgres import open_postgres

SUBMISSIONS = 500
RESERVATIONS, CONNECTIONS = 10_000, 16

BENCHMARK = Actor.program("benchmark")
AMOUNT = Decimal(1_000_000)
#: More than is measured: nothing waits.
PLENTY = 10**9
NEED = Decimal("0.25")
WORST = WorstCase(cost_usd=NEED)


def main() -> None:
    """Measure, and print the tables."""
    with tempfile.TemporaryDirectory() as folder:
        server = open_postgres(Path(folder) / "data", {})
        server.start()
        try:
            server.create_database("budgets")
            conninfo = {name: str(value) for name, value in server.connection_kwargs("budgets").items()}
            schema.upgrade(conninfo)
            report_submissions(submissions(conninfo))
            report_reservations(reservations(conninfo))
        finally:
            server.stop()


def submissions(conninfo: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds of each submission, by what is about it."""
    seconds: dict[str, list[float]] = {kind: [] for kind in (_PLAIN, *_CONNECTIONS)}
    with Ledger(conninfo) as ledger:
        spec = checked_spec("about some", AMOUNT, scope={"tag": "bounded"}, owner="benchmark")
        ledger.budgets.add(spec, why="to measure", actor=BENCHMARK)
        for kind, measures in _LIMITED.items():
            for measure in measures:
                ledger.rate_limits.set(
                    LimitKind.OPENAI, _CONNECTIONS[kind], measure, PLENTY, reason="to measure", actor=BENCHMARK
                )
        for number in range(SUBMISSIONS + 20):
            for kind in seconds:
                began = time.perf_counter()
                _submit(ledger, kind, number)
                seconds[kind].append(time.perf_counter() - began)
    return {kind: found[20:] for kind, found in seconds.items()}


_PLAIN, _BOUNDED, _ONE_LIMIT, _ALL_LIMITS = (
    "without a budget",
    "with a budget",
    "with a budget and a limit",
    "with a budget and three limits",
)
_LIMITED = {_ONE_LIMIT: [Measure.REQUESTS], _ALL_LIMITS: list(Measure)}
_CONNECTIONS = {_BOUNDED: "free", _ONE_LIMIT: "one_limit", _ALL_LIMITS: "three_limits"}


def _submit(ledger: Ledger, kind: str, number: int) -> None:
    opened = ledger.submission.open(_spec(kind, number))
    job_id = opened.job.job_id
    intent = ledger.submission.intend(job_id, 1, actor=BENCHMARK, lease=timedelta(seconds=45), worst=WORST, tokens=1000)
    assert intent.token is not None
    response_id = f"resp_{uuid4().hex}"
    where: dict[str, Any] = {"token": intent.token, "response_id": response_id, "actor": BENCHMARK}
    ledger.submission.submitted(job_id, 1, status=ResponseStatus.QUEUED, **where)
    output = Output(ResponseStatus.COMPLETED, "It boils.", cost_usd=Decimal("0.1"))
    ledger.outputs.store(job_id, 1, output, actor=BENCHMARK, response_id=response_id)


def _spec(kind: str, number: int) -> JobSpec:
    asked = {"model": "gpt-5.2", "input": "Write about the kettle."}
    return JobSpec(
        job_type=kind,
        job_key=str(number),
        input=asked,
        request=asked,
        conn_id=_CONNECTIONS.get(kind, "free"),
        requested_by="alice",
        permissions={},
        approval="required",
        approval_reason=None,
        max_revisions=1,
        deadline=timedelta(hours=1),
        tags=("bounded",) if kind in _CONNECTIONS else (),
        owner=Owner("dag", "run", "draft", -1, "ti", 1),
    )


def reservations(conninfo: dict[str, Any]) -> dict[str, tuple[float, list[float]]]:
    """Seconds for all reservations together and of each one; and the same for inserts beside them."""
    with Ledger(conninfo) as ledger:
        spec = checked_spec("hot", AMOUNT, scope={"tag": "hot"}, period="total", owner="benchmark")
        budget = ledger.budgets.add(spec, why="to measure", actor=BENCHMARK)
        ledger.budgets.raise_once("hot", Decimal(1), why="it makes the period", actor=BENCHMARK)
        jobs = [ledger.submission.open(_spec("hot", number)).job.job_id for number in range(CONNECTIONS)]
    with psycopg.connect(**conninfo) as connection:
        connection.execute(_BESIDE)
        connection.execute(_ONE_ROW)
        row = connection.execute(
            "SELECT window_id FROM aihandoff.budget_windows WHERE budget_id = %s", [budget.budget_id]
        ).fetchone()
    assert row is not None
    found = {}
    with get_context("spawn").Pool(CONNECTIONS) as pool:
        first = 0
        for settled, suffix in ((False, ""), (True, _SETTLED)):
            for what, do in (("inserts", _insert), (_COUNTED, _count), ("reservations", _reserve)):
                work = [
                    (conninfo, budget.budget_id, row[0], job_id, first, settled and number % 2 == 0)
                    for number, job_id in enumerate(jobs)
                ]
                pool.map(_warm_up, work, chunksize=1)
                began = time.perf_counter()
                each = pool.starmap(do, work, chunksize=1)
                found[what + suffix] = (time.perf_counter() - began, [one for some in each for one in some])
            first += RESERVATIONS
    return found


_COUNTED, _SETTLED = "inserts that count in one row", ", half settled"


_BESIDE = "CREATE TABLE beside AS SELECT * FROM aihandoff.budget_reservations WHERE false"
_INSERT_BESIDE = """
    INSERT INTO beside VALUES (%s, %s, %s, 0, %s, %s, NULL, 0.25, NULL, false, 'reserved', clock_timestamp(),
        clock_timestamp(), NULL)"""


_ONE_ROW = "CREATE TABLE one_row AS SELECT 0.0 AS reserved_usd, 0.0 AS settled_usd"
_COUNT_RESERVED = "UPDATE one_row SET reserved_usd = reserved_usd + 0.25"
_COUNT_SETTLED = "UPDATE one_row SET reserved_usd = reserved_usd - 0.25, settled_usd = settled_usd + 0.1"


def _warm_up(_: Any) -> None:
    time.sleep(0.5)  # so that every process of the pool takes one


def _insert(
    conninfo: dict[str, str], budget_id: int, window_id: int, job_id: int, first: int, settles: bool
) -> list[float]:
    database, seconds = Database(conninfo), []
    for number in range(first, first + RESERVATIONS // CONNECTIONS):
        values = [uuid4(), budget_id, window_id, job_id, number]
        began = time.perf_counter()
        database.transact(lambda connection: connection.execute(_INSERT_BESIDE, values))  # noqa: B023
        seconds.append(time.perf_counter() - began)
        if settles:
            database.transact(lambda connection: connection.execute(_INSERT_BESIDE, values))  # noqa: B023
    database.close()
    return seconds


def _count(
    conninfo: dict[str, str], budget_id: int, window_id: int, job_id: int, first: int, settles: bool
) -> list[float]:
    database, seconds = Database(conninfo), []

    def work(connection: LedgerConnection, statement: str, values: list[Any]) -> None:
        connection.execute(statement)
        connection.execute(_INSERT_BESIDE, values)

    for number in range(first, first + RESERVATIONS // CONNECTIONS):
        values = [uuid4(), budget_id, window_id, job_id, number]
        began = time.perf_counter()
        database.transact(partial(work, statement=_COUNT_RESERVED, values=values))
        seconds.append(time.perf_counter() - began)
        if settles:
            database.transact(partial(work, statement=_COUNT_SETTLED, values=values))
    database.close()
    return seconds


def _reserve(
    conninfo: dict[str, str], budget_id: int, window_id: int, job_id: int, first: int, settles: bool
) -> list[float]:
    database, seconds = Database(conninfo), []
    deadline = datetime.now(UTC) + timedelta(hours=1)
    for number in range(first, first + RESERVATIONS // CONNECTIONS):
        request = Request(uuid4(), job_id, number, NEED, deadline)

        def work(connection: LedgerConnection, request: Request = request) -> bool:
            return take(connection, request, budget_id=budget_id, window_id=window_id)

        began = time.perf_counter()
        while not database.transact(work):  # others hold each stripe at the moment
            pass
        seconds.append(time.perf_counter() - began)
        if settles:
            database.transact(lambda connection: settle(connection, job_id, number, None, Decimal("0.1")))  # noqa: B023
    database.close()
    return seconds


def report_submissions(seconds: dict[str, list[float]]) -> None:
    """Print medians, and what the budget adds."""
    medians = {kind: 1000 * statistics.median(found) for kind, found in seconds.items()}
    print(f"{'one submission, from open to output':40} {'median ms':>9} {'p99 ms':>9} {'added ms':>9} {'ratio':>6}")
    for kind, found in seconds.items():
        late, added, ratio = statistics.quantiles(found, n=100)[98], medians[kind] - medians[_PLAIN], medians[kind]
        print(f"{kind:40} {medians[kind]:9.2f} {1000 * late:9.2f} {added:9.2f} {ratio / medians[_PLAIN]:6.2f}")
    print()


def report_reservations(found: dict[str, tuple[float, list[float]]]) -> None:
    """Print the rates, and how long one took."""
    print(f"{f'{RESERVATIONS:,} from {CONNECTIONS} connections':50} {'a second':>9} {'median ms':>9} {'p99 ms':>9}")
    for what, (seconds, each) in found.items():
        median, late = statistics.median(each), statistics.quantiles(each, n=100)[98]
        print(f"{what:50} {len(each) / seconds:9.0f} {1000 * median:9.2f} {1000 * late:9.2f}")
    rates = {what: len(each) / seconds for what, (seconds, each) in found.items()}
    for suffix in ("", _SETTLED):
        for what in ("inserts", _COUNTED):
            ratio = rates["reservations" + suffix] / rates[what + suffix]
            print(f"{f'reservations to {what}{suffix}':50} {ratio:9.2f}")


if __name__ == "__main__":
    main()
