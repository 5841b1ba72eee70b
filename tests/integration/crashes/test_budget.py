"""Eight processes at a time submit against one budget and die at every point: what was billed is never more than it."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.crashpoints import POINTS
from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.testing import OpenAIStandIn
from chaos.attempts import Attempt
from chaos.forks import Fault, Forks
from chaos.work import Work
from chaos.world import World
from demo.postgres import Postgres
from tests.bill import BOOKS, bill_of, check_books

#: Processes at a time.
PROCESSES = 8

#: One request can cost about 0.0155 USD, and costs about 0.0130. All works together would cost about twice the amount.
AMOUNT = Decimal("0.70")

#: What the model writes: almost as much as it may.
TEXT = "It boils. " * 240

#: Where a process dies while it asks, sends and stores: not in what is tried over a connection with conversations.
DEATHS = tuple(
    point
    for point in POINTS
    if point.startswith(("submit.", "output.")) and "handle" not in point and "resolve" not in point
)

#: Enough of them that the budget becomes short; not before each death has come once, with what the dead have reserved.
WORKS = 7 * len(DEATHS)


class Bill:
    """One ledger with a budget, and one OpenAI that keeps the bill."""

    def __init__(self, conninfo: dict[str, Any], stand_in: OpenAIStandIn, ledger: Ledger, forks: Forks) -> None:
        self.conninfo, self.stand_in, self.ledger, self.forks = conninfo, stand_in, ledger, forks

    def query(self, sql: str) -> list[dict[str, Any]]:
        with psycopg.connect(**self.conninfo, row_factory=dict_row, autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def bill(postgres: Postgres, tmp_path: Path) -> Iterator[Bill]:
    postgres.create_database("bill")
    conninfo = postgres.connection_kwargs("bill")
    schema.upgrade(conninfo)
    stand_in = OpenAIStandIn(delay_seconds=0.1, responders=[lambda _: TEXT])
    with ExitStack() as stack:
        openai = stack.enter_context(stand_in.serve())
        world = World({name: str(value) for name, value in conninfo.items()}, openai.base_url, "http://127.0.0.1:9")
        forks = stack.enter_context(Forks(world, home=str(tmp_path), log=str(tmp_path / "attempts.log")))
        ledger = stack.enter_context(Ledger(conninfo, max_size=2))
        yield Bill(dict(conninfo), stand_in, ledger, forks)


@pytest.mark.timeout(500)
def test_processes_that_die_everywhere_are_billed_no_more_than_the_budget_and_lose_none_of_it(bill: Bill) -> None:
    spec = checked_spec("all", AMOUNT, period="total", owner="alice")
    bill.ledger.budgets.add(spec, why="to be safe", actor=Actor.user("alice"))
    numbers, deaths = itertools.count(), itertools.cycle(DEATHS)
    turn, struck, left = threading.Lock(), Counter[str](), {}

    def submit_and_die() -> None:
        """One process after the other: each work dies once, where it comes by the point, and is tried again."""
        while True:
            with turn:
                if (number := next(numbers)) >= WORKS:
                    return
                fault = Fault(next(deaths), "kill")
                work = Work(f"work-{number}", on_lost="resend", model=_model(fault.point, number))
                left[number] = work
            died = False  # an attempt that finds its response running does not come by the point: the next one does
            for attempt in range(1, 4):
                child = bill.forks.start(Attempt(work, "draft", attempt), None if died else fault)
                outcome = child.wait()
                died = died or child.struck
                struck[fault.point] += child.struck
                if outcome is not None and outcome.state in ("done", "failed"):
                    del left[number]
                    break
            _check_books(bill)

    with ThreadPoolExecutor(PROCESSES) as processes:
        for future in [processes.submit(submit_and_die) for _ in range(PROCESSES)]:
            future.result()

    assert [point for point in DEATHS if not struck[point]] == []
    billed = _check(bill)
    assert bill.ledger.jobs(states=[JobState.QUEUED], limit=1000), "the budget was not short: nothing was tried"

    # What the dead have reserved comes back by itself, to those who ask, and they go on.
    bill.query("UPDATE aihandoff.budget_reservations SET expires_at = clock_timestamp() WHERE response_id IS NULL")
    lost = bill.ledger.reservations.expired()
    assert lost > 0
    for attempt in (4, 5):
        for work in left.values():
            bill.forks.start(Attempt(work, "draft", attempt)).wait()
    assert bill.ledger.reservations.expired() == 0
    assert len(bill.query(_GIVEN_BACK)) == lost
    _check_books(bill)
    assert len(bill_of(bill.stand_in)) > billed, "no one has used what came back"


_GIVEN_BACK = "SELECT * FROM aihandoff.budget_reservations WHERE state = 'expired'"
_COUNTED = "SELECT * FROM aihandoff.budget_reservations WHERE state <> 'released'"


def _model(point: str, number: int) -> str:
    """What a process meets that is to die at a point. Others have their requests refused or lost as well."""
    refused, lost = "delay=0.1 create=429", "delay=0.1 create=drop_after_accept"
    if point.startswith("submit.refused"):
        return refused
    if point.startswith("submit.lost"):
        return lost
    return ("delay=0.1", "delay=0.1", "delay=0.1", refused, lost)[number % 5]


def _check(bill: Bill) -> int:
    """What OpenAI has billed is within the budget, and each response counts once; return how many there are."""
    _check_books(bill)
    costs = bill_of(bill.stand_in)
    use = bill.ledger.budgets.read("all").use
    assert sum(cost or 0 for cost in costs.values()) <= use.used_usd <= AMOUNT
    counted = bill.query(_COUNTED)
    named = Counter(row["response_id"] for row in counted if row["response_id"] is not None)
    assert set(named) <= set(costs)
    assert set(named.values()) <= {1}
    for row in counted:
        if row["state"] == "settled":
            assert row["cost_usd"] == costs[row["response_id"]]
    jobs = Counter(int(made.response["metadata"]["aihandoff_job"]) for made in bill.stand_in.responses().responses)
    reserved = Counter(row["job_id"] for row in counted)
    assert all(made <= reserved[job_id] for job_id, made in jobs.items()), "a response for which nothing was reserved"
    return len(costs)


def _check_books(bill: Bill) -> None:
    rows = bill.query(BOOKS)
    check_books(rows)
    assert all((row["amount"], row["beyond"]) == (AMOUNT, 0) for row in rows)
