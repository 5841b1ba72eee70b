"""Eight processes at a time submit against one budget and die at every point: what was billed is never more than it."""

from __future__ import annotations

import itertools
import threading
import time
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
from airflow_provider_aihandoff.core.generation.openai.facts import OpenAIFacts
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus
from airflow_provider_aihandoff.testing import OpenAIStandIn
from chaos.attempts import Attempt
from chaos.forks import Fault, Forks
from chaos.work import Work
from chaos.world import World
from demo.postgres import Postgres
from tests.bill import BOOKS

#: Processes at a time.
PROCESSES = 8

#: One request can cost about 0.015 USD and costs about a tenth of that.
AMOUNT = Decimal("0.30")

#: Where a process dies while it asks, sends and stores: not in what is tried over a connection with conversations.
DEATHS = tuple(
    point
    for point in POINTS
    if point.startswith(("submit.", "output.")) and "handle" not in point and "resolve" not in point
)

#: Enough of them that the budget becomes short.
WORKS = 4 * len(DEATHS)


class Bill:
    """One ledger with a budget, and one OpenAI that keeps the bill."""

    def __init__(self, conninfo: dict[str, Any], stand_in: OpenAIStandIn, ledger: Ledger, forks: Forks) -> None:
        self.conninfo, self.stand_in, self.ledger, self.forks = conninfo, stand_in, ledger, forks

    def billed(self) -> Decimal:
        """What all responses have cost that were ever made, known or not."""
        total = Decimal(0)
        for made in list(self.stand_in.responses().responses):
            body = made.response
            response = ModelResponse(body["id"], ResponseStatus.COMPLETED, usage=body.get("usage"), model=body["model"])
            total += OpenAIFacts().price(response, {}) or Decimal(0)
        return total

    def query(self, sql: str) -> list[dict[str, Any]]:
        with psycopg.connect(**self.conninfo, row_factory=dict_row, autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def bill(postgres: Postgres, tmp_path: Path) -> Iterator[Bill]:
    postgres.create_database("bill")
    conninfo = postgres.connection_kwargs("bill")
    schema.upgrade(conninfo)
    stand_in = OpenAIStandIn(delay_seconds=0.1)
    with ExitStack() as stack:
        openai = stack.enter_context(stand_in.serve())
        world = World({name: str(value) for name, value in conninfo.items()}, openai.base_url, "http://127.0.0.1:9")
        forks = stack.enter_context(Forks(world, home=str(tmp_path), log=str(tmp_path / "attempts.log")))
        ledger = stack.enter_context(Ledger(conninfo, max_size=2))
        yield Bill(dict(conninfo), stand_in, ledger, forks)


@pytest.mark.timeout(400)
def test_processes_that_die_everywhere_are_billed_no_more_than_the_budget_and_lose_none_of_it(bill: Bill) -> None:
    spec = checked_spec("all", AMOUNT, period="total", owner="alice")
    bill.ledger.budgets.add(spec, why="to be safe", actor=Actor.user("alice"))
    numbers, deaths = itertools.count(), itertools.cycle(DEATHS)
    turn, struck, works = threading.Lock(), set(), []

    def submit_and_die() -> None:
        """One process after the other: each work dies once, where it comes by the point, and is tried again."""
        while True:
            with turn:
                if (number := next(numbers)) >= WORKS:
                    return
                fault = Fault(next(deaths), "kill")
                work = Work(f"work-{number}", on_lost="resend", model=_model(fault.point, number))
                works.append(work)
            for attempt in range(1, 5):
                child = bill.forks.start(Attempt(work, "draft", attempt), None if fault.point in struck else fault)
                child.wait()
                if child.struck:
                    struck.add(fault.point)

    with ThreadPoolExecutor(PROCESSES) as processes:
        for future in [processes.submit(submit_and_die) for _ in range(PROCESSES)]:
            future.result()

    assert struck == set(DEATHS)
    _check(bill)
    assert bill.ledger.jobs(states=[JobState.QUEUED], limit=1000), "the budget was not short: nothing was tried"

    # What the dead have reserved comes back by itself, and those who were held go on.
    bill.query("UPDATE aihandoff.budget_reservations SET expires_at = clock_timestamp() WHERE response_id IS NULL")
    assert bill.ledger.reservations.expire() > 0
    before = bill.ledger.budgets.read("all").use.used_usd
    until = time.monotonic() + 120
    for number, work in itertools.cycle(enumerate(works)):
        bill.forks.start(Attempt(work, "draft", 3 + number)).wait()
        left = [r for r in bill.query(_OPEN) if r["response_id"] is not None]
        if (number == len(works) - 1 and not left) or time.monotonic() > until:
            break
    _check_books(bill)
    use = bill.ledger.budgets.read("all").use
    assert use.used_usd >= before
    assert use.reserved_usd == sum(row["amount_usd"] for row in bill.query(_OPEN))


_OPEN = "SELECT * FROM aihandoff.budget_reservations WHERE state = 'reserved'"


def _model(point: str, number: int) -> str:
    """What a process meets that is to die at a point. Others have their requests refused or lost as well."""
    refused, lost = "delay=0.1 create=429", "delay=0.1 create=drop_after_accept"
    if point.startswith("submit.refused"):
        return refused
    if point.startswith("submit.lost"):
        return lost
    return ("delay=0.1", "delay=0.1", "delay=0.1", refused, lost)[number % 5]


def _check(bill: Bill) -> None:
    _check_books(bill)
    use = bill.ledger.budgets.read("all").use
    assert bill.billed() <= use.used_usd <= AMOUNT


def _check_books(bill: Bill) -> None:
    (row,) = bill.query(BOOKS)
    assert row["reserved"] == row["reserved_rows"]
    assert row["settled"] == row["settled_rows"]
    assert row["allotted"] == row["amount"] == AMOUNT
    assert row["beyond"] == 0
