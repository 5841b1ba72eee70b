"""A ledger that is unavailable costs one delivery a second, and no more threads than the receiver has."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, cast

import psycopg
import pytest

from airflow_provider_aihandoff.core.errors import IllegalTransition, LedgerSchemaError, LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from airflow_provider_aihandoff.core.webhooks.intake import AT_ONCE, MAX_WAITING, PAUSE, Intake, NotNow

RECEIPT: Any = object()
DELIVERY = Delivery("wh_1", "openai_default", "response.completed", "resp_1", {})


class Stub:
    """A ledger that does as the test says, and counts."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = self.opened = self.closed = self.inside = self.most_inside = 0
        self.now = 1000.0
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def receive(self, delivery: Delivery) -> Any:
        with self._lock:
            self.calls += 1
            self.inside += 1
            self.most_inside = max(self.inside, self.most_inside)
        self.gate.wait(60)
        with self._lock:
            self.inside -= 1
        if self.error:
            raise self.error
        return RECEIPT

    def check_schema(self) -> None:
        self.receive(DELIVERY)

    def open(self) -> Ledger:
        with self._lock:
            self.opened += 1
        time.sleep(0.05)
        return cast("Ledger", Opened(self))

    def clock(self) -> float:
        return self.now


class Opened:
    """What opening returns: another one each time."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self.inbox, self.check_schema = stub, stub.check_schema

    def close(self) -> None:
        self._stub.closed += 1


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def intake(stub: Stub) -> Intake:
    return Intake(stub.open, clock=stub.clock)


async def all_threads_inside(stub: Stub) -> None:
    async with asyncio.timeout(60):
        while stub.inside < AT_ONCE:  # noqa: ASYNC110  threads set it, and it is no event
            await asyncio.sleep(0.01)


async def refusal(intake: Intake) -> str:
    with pytest.raises(NotNow) as caught:
        await intake.receive(DELIVERY)
    return caught.value.why


@pytest.mark.parametrize(
    "error", [LedgerUnavailable("unavailable"), LedgerSchemaError("old"), psycopg.OperationalError("x")]
)
async def test_after_a_failure_nothing_is_tried_for_a_second_and_then_once(
    intake: Intake, stub: Stub, error: Exception
) -> None:
    stub.error = error
    await refusal(intake)
    for _ in range(20):
        await refusal(intake)
    assert stub.calls == 1
    stub.now += PAUSE
    stub.gate.clear()
    trial = asyncio.create_task(refusal(intake))
    await asyncio.sleep(0.05)
    for _ in range(20):
        await refusal(intake)
    stub.gate.set()
    await trial
    assert stub.calls == 2
    await refusal(intake)
    assert stub.calls == 2


async def test_a_ledger_that_is_back_is_used_again(intake: Intake, stub: Stub) -> None:
    stub.error = LedgerUnavailable("unavailable")
    await refusal(intake)
    stub.error, stub.now = None, stub.now + PAUSE
    assert await intake.receive(DELIVERY) == RECEIPT
    assert await intake.receive(DELIVERY) == RECEIPT


async def test_threads_and_waiting_deliveries_are_bounded(intake: Intake, stub: Stub) -> None:
    stub.gate.clear()
    waiting = [asyncio.create_task(intake.receive(DELIVERY)) for _ in range(AT_ONCE + MAX_WAITING)]
    await all_threads_inside(stub)
    assert "too many" in await refusal(intake)
    stub.gate.set()
    assert set(await asyncio.gather(*waiting)) == {RECEIPT}
    assert stub.most_inside == AT_ONCE
    assert await intake.receive(DELIVERY) == RECEIPT


async def test_deliveries_that_waited_for_a_thread_do_not_try_a_ledger_that_has_failed_meanwhile(
    intake: Intake, stub: Stub
) -> None:
    stub.error = LedgerUnavailable("unavailable")
    stub.gate.clear()
    waiting = [asyncio.create_task(refusal(intake)) for _ in range(AT_ONCE + MAX_WAITING)]
    await all_threads_inside(stub)
    stub.gate.set()
    await asyncio.gather(*waiting)
    assert stub.calls <= 2 * AT_ONCE


async def test_the_ledger_is_opened_once_by_the_first_delivery(intake: Intake, stub: Stub) -> None:
    await asyncio.gather(*(intake.receive(DELIVERY) for _ in range(AT_ONCE)))
    await intake.receive(DELIVERY)
    assert stub.opened - stub.closed == 1


async def test_one_delivery_that_the_ledger_refuses_does_not_stop_the_others(intake: Intake, stub: Stub) -> None:
    for error in (psycopg.DataError("holds: secret words"), IllegalTransition("moved at the same time.")):
        stub.error = error
        assert "secret words" not in await refusal(intake)
    stub.error = None
    assert await intake.receive(DELIVERY) == RECEIPT


async def test_messages_of_the_database_are_kept_out_of_the_log(intake: Intake, stub: Stub) -> None:
    stub.error = psycopg.OperationalError("while writing: secret words")
    assert await refusal(intake) == "the connection to the ledger's database broke: OperationalError."


async def test_health_asks_the_ledger_once_a_second_at_most(intake: Intake, stub: Stub) -> None:
    for _ in range(20):
        await intake.check()
    assert stub.calls == 1
    stub.now += PAUSE + 0.1
    stub.error = LedgerUnavailable("unavailable")
    for _ in range(20):
        with pytest.raises(NotNow):
            await intake.check()
    assert stub.calls == 2
