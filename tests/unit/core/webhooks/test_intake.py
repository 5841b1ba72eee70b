"""Deliveries that wait together are recorded together. A ledger that is unavailable costs one delivery a second."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import psycopg
import pytest

from airflow_provider_aihandoff.core.errors import IllegalTransition, LedgerSchemaError, LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from airflow_provider_aihandoff.core.webhooks.intake import (
    ALONE,
    AT_ONCE,
    BATCH,
    BATCHES,
    MAX_INSIDE,
    PATIENCE,
    PAUSE,
    Intake,
    NotNow,
)

#: Waits for what threads do.
SOON = 60


def delivery(number: int = 1, response: int | None = None) -> Delivery:
    """A webhook; of a response of its own, unless one is given."""
    about = number if response is None else response
    return Delivery(f"wh_{number}", "openai_default", "response.completed", f"resp_{about}", {})


DELIVERY = delivery()


def receipt(of: Delivery) -> Any:
    """What stands for the receipt of a delivery."""
    return f"receipt of {of.webhook_id}"


RECEIPT = receipt(DELIVERY)


class Stub:
    """A ledger that does as the test says, and counts.

    It leaves each delivery of a response in :attr:`left` to be recorded alone, and refuses each in :attr:`refused`.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = self.opened = self.closed = self.inside = self.most_inside = 0
        self.left: set[str] = set()
        self.refused: set[str] = set()
        self.slow: set[str] = set()
        self.batches: list[list[str]] = []
        self.order: list[str] = []
        self.now = 1000.0
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def receive(self, delivery: Delivery) -> Any:
        """Record one alone."""
        self._call([delivery])
        return receipt(delivery)

    def receive_together(self, deliveries: Sequence[Delivery]) -> list[Any]:
        """Record a batch."""
        with self._lock:
            self.batches.append([each.webhook_id for each in deliveries])
        taken = [each for each in deliveries if each.response_id not in self.left]
        self._call(taken)
        return [receipt(each) if each in taken else None for each in deliveries]

    def _call(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            self.calls += 1
            self.inside += 1
            self.most_inside = max(self.inside, self.most_inside)
        if not self.slow or self.slow & {each.response_id for each in deliveries}:
            self.gate.wait(SOON)
        with self._lock:
            self.inside -= 1
            if self.error:
                raise self.error
            if self.refused & {each.response_id for each in deliveries}:
                raise psycopg.DataError("holds: secret words")
            self.order += [each.webhook_id for each in deliveries]

    def check_schema(self) -> None:
        self._call([])

    def open(self) -> Ledger:
        with self._lock:
            self.opened += 1
        time.sleep(0.05)
        return cast("Ledger", Opened(self))

    def clock(self) -> float:
        return self.now


class Batches:
    """The batches of a stub."""

    def __init__(self, stub: Stub) -> None:
        self.receive = stub.receive_together


class Opened:
    """What opening returns: another one each time."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self.inbox, self.inbox_batches, self.check_schema = stub, Batches(stub), stub.check_schema

    def close(self) -> None:
        self._stub.closed += 1


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def intake(stub: Stub) -> Intake:
    return Intake(stub.open, clock=stub.clock)


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not what():  # noqa: ASYNC110  threads do it, and it is no event
            await asyncio.sleep(0.005)


async def refusal(intake: Intake, of: Delivery = DELIVERY) -> str:
    with pytest.raises(NotNow) as caught:
        await intake.receive(of)
    return caught.value.why


def send(intake: Intake, deliveries: Sequence[Delivery]) -> list[asyncio.Task[Any]]:
    """Deliver them at once."""
    return [asyncio.create_task(intake.receive(each)) for each in deliveries]


async def busy(intake: Intake, stub: Stub) -> list[asyncio.Task[Any]]:
    """Two deliveries that are being recorded until the gate opens, one in each thread for batches."""
    stub.gate.clear()
    sent = []
    for number in range(BATCHES):
        sent += send(intake, [delivery(-1 - number)])
        await until(lambda number=number: stub.inside == number + 1)  # type: ignore[misc]
    return sent


async def test_deliveries_that_wait_are_recorded_together_and_each_gets_its_own_receipt(
    intake: Intake, stub: Stub
) -> None:
    first = await busy(intake, stub)
    deliveries = [delivery(number) for number in range(20)]
    waiting = send(intake, deliveries)
    await asyncio.sleep(2 * PATIENCE)
    stub.gate.set()
    assert await asyncio.gather(*waiting) == [receipt(each) for each in deliveries]
    assert stub.batches == [["wh_-1"], ["wh_-2"], [each.webhook_id for each in deliveries]]
    await asyncio.gather(*first)


async def test_a_delivery_does_not_wait_for_others_to_come(intake: Intake, stub: Stub) -> None:
    for number in range(3):
        assert await intake.receive(delivery(number)) == receipt(delivery(number))
    assert stub.batches == [["wh_0"], ["wh_1"], ["wh_2"]]


async def test_a_batch_is_bounded_in_number_and_what_is_over_begins_another_one(intake: Intake, stub: Stub) -> None:
    stub.gate.clear()
    waiting = send(intake, [delivery(number) for number in range(1 + 2 * BATCH)])
    await until(lambda: stub.inside == BATCHES)
    stub.gate.set()
    await asyncio.gather(*waiting)
    sizes = [len(batch) for batch in stub.batches]
    # The first two begin at one moment, each in a thread of its own.
    assert (sorted(sizes[:BATCHES]), sizes[BATCHES:]) == ([1, BATCH], [BATCH])


async def test_a_batch_that_hangs_holds_up_no_others(intake: Intake, stub: Stub) -> None:
    stub.slow = {"resp_0"}
    stub.gate.clear()
    (hanging,) = send(intake, [delivery(0)])
    await until(lambda: stub.inside == 1)
    others = [delivery(number) for number in range(1, 4)]
    assert await asyncio.gather(*send(intake, others)) == [receipt(each) for each in others]
    assert not hanging.done()
    stub.gate.set()
    assert await hanging == "receipt of wh_0"


async def test_deliveries_that_a_batch_leaves_are_recorded_alone_and_keep_no_batch_waiting(
    intake: Intake, stub: Stub
) -> None:
    stub.left = stub.slow = {f"resp_{number}" for number in range(2 * ALONE)}
    stub.gate.clear()
    alone = send(intake, [delivery(number) for number in range(2 * ALONE)])
    await until(lambda: stub.inside == ALONE)
    assert await intake.receive(delivery(100)) == receipt(delivery(100))
    assert not any(each.done() for each in alone)
    stub.gate.set()
    assert await asyncio.gather(*alone) == [f"receipt of wh_{number}" for number in range(2 * ALONE)]


async def test_a_delivery_that_the_ledger_refuses_fails_none_of_those_that_came_with_it(
    intake: Intake, stub: Stub
) -> None:
    first = await busy(intake, stub)
    stub.refused = {"resp_3"}
    waiting = send(intake, [delivery(number) for number in range(6)])
    await asyncio.sleep(0)
    stub.gate.set()
    answers = await asyncio.gather(*first, *waiting, return_exceptions=True)
    assert [str(each) for each in answers[BATCHES:]] == [
        "the ledger's database refused: DataError." if number == 3 else f"receipt of wh_{number}" for number in range(6)
    ]
    assert await intake.receive(delivery(10)) == receipt(delivery(10))


async def test_a_job_that_stays_locked_refuses_its_own_webhook_alone(
    intake: Intake, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_in_vain(of: Delivery) -> Any:
        raise LedgerUnavailable("rolled back: lock time-out") from psycopg.errors.LockNotAvailable()

    stub.left = {"resp_1"}
    monkeypatch.setattr(stub, "receive", wait_in_vain)
    assert "lock time-out" in await refusal(intake)
    assert await intake.receive(delivery(2)) == receipt(delivery(2))


async def test_a_batch_that_waits_for_a_lock_in_vain_is_a_ledger_that_is_unavailable(
    intake: Intake, stub: Stub
) -> None:
    """It waits for no job, so that it is a table that is locked."""
    stub.error = LedgerUnavailable("rolled back: lock time-out")
    stub.error.__cause__ = psycopg.errors.LockNotAvailable()
    await refusal(intake)
    for number in range(20):
        assert "unavailable" in await refusal(intake, delivery(number))
    assert stub.calls == 1


async def test_a_trial_that_the_ledger_refuses_finds_out_that_it_works(intake: Intake, stub: Stub) -> None:
    stub.error = psycopg.OperationalError("down")
    await refusal(intake)
    stub.error, stub.refused = None, {"resp_1"}
    stub.now += PAUSE
    assert "refused" in await refusal(intake)
    stub.gate.clear()
    waiting = send(intake, [delivery(number) for number in range(2, 6)])
    await until(lambda: stub.inside > 0)
    stub.gate.set()
    assert await asyncio.gather(*waiting) == [receipt(delivery(number)) for number in range(2, 6)]


async def test_an_error_that_no_one_expects_is_raised_to_the_delivery_that_has_it(intake: Intake, stub: Stub) -> None:
    stub.error = RuntimeError("a defect")
    with pytest.raises(RuntimeError):
        await intake.receive(DELIVERY)
    stub.error = None
    assert await intake.receive(DELIVERY) == RECEIPT


async def test_deliveries_about_one_response_are_recorded_one_after_the_other_as_they_came(
    intake: Intake, stub: Stub
) -> None:
    stub.left = {"resp_1"}
    deliveries = [delivery(number, response=number % 2) for number in range(30)]
    assert await asyncio.gather(*send(intake, deliveries)) == [receipt(each) for each in deliveries]
    for response in (0, 1):
        mine = [each.webhook_id for each in deliveries if each.response_id == f"resp_{response}"]
        assert [each for each in stub.order if each in mine] == mine
    assert all(len(batch) <= 2 for batch in stub.batches)


async def test_a_delivery_whose_request_was_cancelled_is_recorded_if_that_has_begun_and_otherwise_not(
    intake: Intake, stub: Stub
) -> None:
    begun = await busy(intake, stub)
    waiting = send(intake, [delivery(number) for number in range(3)])
    await asyncio.sleep(0)
    for each in (begun[0], waiting[1]):
        each.cancel()
    stub.gate.set()
    await asyncio.gather(*begun, *waiting, return_exceptions=True)
    await until(lambda: len(stub.order) == 4)  # no one waits for the one that was cancelled when it had begun
    assert sorted(stub.order) == ["wh_-1", "wh_-2", "wh_0", "wh_2"]
    assert await intake.receive(delivery(-1)) == receipt(delivery(-1))
    assert intake._inside == 0


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
    stub.left = {f"resp_{number}" for number in range(0, MAX_INSIDE, 2)}
    stub.gate.clear()
    deliveries = [delivery(number) for number in range(MAX_INSIDE)]
    waiting = send(intake, deliveries)
    await until(lambda: stub.inside == BATCHES)
    assert "too many" in await refusal(intake, delivery(MAX_INSIDE))
    stub.gate.set()
    assert await asyncio.gather(*waiting) == [receipt(each) for each in deliveries]
    assert stub.most_inside <= AT_ONCE
    assert await intake.receive(DELIVERY) == RECEIPT


async def test_deliveries_that_waited_do_not_try_a_ledger_that_has_failed_meanwhile(intake: Intake, stub: Stub) -> None:
    stub.error = LedgerUnavailable("unavailable")
    stub.gate.clear()
    waiting = [asyncio.create_task(refusal(intake, delivery(number))) for number in range(MAX_INSIDE)]
    await until(lambda: stub.inside == BATCHES)
    stub.gate.set()
    await asyncio.gather(*waiting)
    assert stub.calls <= 2 * AT_ONCE


async def test_the_ledger_is_opened_once_by_the_first_delivery(intake: Intake, stub: Stub) -> None:
    await asyncio.gather(*(intake.receive(delivery(number)) for number in range(AT_ONCE)))
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
