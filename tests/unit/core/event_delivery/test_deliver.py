"""What a deliverer does with each answer, without a ledger."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from airflow_provider_aihandoff.core.errors import AddressRefused, LedgerUnavailable
from airflow_provider_aihandoff.core.event_delivery.cloud_event import OutgoingEvent
from airflow_provider_aihandoff.core.event_delivery.deliver import deliver_due, deliver_on, deliver_round
from airflow_provider_aihandoff.core.event_delivery.delivery_store import Taken
from airflow_provider_aihandoff.core.event_delivery.post import Answered, NotAnswered
from airflow_provider_aihandoff.core.event_delivery.subscription import EventSubscription, SubscriptionState
from airflow_provider_aihandoff.core.job_requests.job_request import Standing
from airflow_provider_aihandoff.core.ledger import Ledger

AT = datetime(2026, 2, 9, tzinfo=UTC)
SECRET = f"whsec_{base64.b64encode(b's' * 32).decode()}"
SUBSCRIPTION = EventSubscription(
    subscription_id=1,
    name="shop",
    url="https://hooks.shop.example/",
    job_types=[],
    states=[],
    secret_conn_id="shop_hook",
    state=SubscriptionState.ACTIVE,
    state_reason=None,
    created_at=AT,
    updated_at=AT,
    lease_token=UUID(int=3),
    lease_until=AT,
    rest_until=None,
    failures=0,
)
EVENT = OutgoingEvent(1, 17, None, 5, Standing.DONE, AT, 1, "note", "kettle", False, None, None)


class FakeOutbox:
    """An outbox that hands out what it was given, and keeps what is recorded."""

    def __init__(self, *batches: list[OutgoingEvent] | Exception, counts: bool = True) -> None:
        self.batches, self.counts = list(batches), counts
        self.recorded: list[tuple[Any, ...]] = []
        self.ended: dict[str, Any] = {}
        self.removed = 0

    def take(self, *, name: str | None, lease_seconds: float) -> Taken | None:
        if not self.batches:
            return None
        batch = self.batches.pop(0)
        if isinstance(batch, Exception):
            raise batch
        return Taken(SUBSCRIPTION, UUID(int=7), batch)

    def delivered(self, taken: Taken, event: OutgoingEvent) -> bool:
        self.recorded.append(("delivered", event.delivery_id))
        return self.counts

    def failed(self, taken: Taken, event: OutgoingEvent, why: str, *, retry_after: float | None) -> bool:
        self.recorded.append(("failed", event.delivery_id, why, retry_after))
        return self.counts

    def gone(self, taken: Taken, event: OutgoingEvent) -> bool:
        self.recorded.append(("gone", event.delivery_id))
        return self.counts

    def end(self, taken: Taken, unsent: list[OutgoingEvent], **said: bool) -> None:
        self.ended = {"unsent": len(unsent), **said}

    def remove_old(self) -> int:
        self.removed += 1
        return 0


class FakeLedger:
    """A ledger that is its outbox."""

    def __init__(self, outbox: FakeOutbox) -> None:
        self.outbox = outbox

    def now(self) -> datetime:
        return AT


def ledger_of(outbox: FakeOutbox) -> Ledger:
    return cast("Ledger", FakeLedger(outbox))


def answering(answer: Answered | Exception) -> Callable[[str, Mapping[str, str], bytes], Answered]:
    def post(url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return post


def secrets(conn_id: str) -> Sequence[object]:
    return [SECRET]


@pytest.mark.parametrize(
    ("answer", "recorded"),
    [
        (Answered(200), ("delivered", 1)),
        (Answered(299), ("delivered", 1)),
        (Answered(410), ("gone", 1)),
        (Answered(500), ("failed", 1, "the receiver has answered 500", None)),
        (Answered(429, 30.0), ("failed", 1, "the receiver has answered 429", 30.0)),
        (
            Answered(302),
            ("failed", 1, "the receiver has answered 302, and redirects are not followed", None),
        ),
        (NotAnswered("no answer came within 10 s"), ("failed", 1, "no answer came within 10 s", None)),
        (RuntimeError("a word that no one should read"), ("failed", 1, "it could not be sent (RuntimeError)", None)),
        (AddressRefused("the host has no address now."), ("failed", 1, "the host has no address now", None)),
    ],
)
def test_what_an_answer_means(answer: Answered | Exception, recorded: tuple[Any, ...]) -> None:
    outbox = FakeOutbox([EVENT])
    delivered = deliver_round(ledger_of(outbox), secrets_of=secrets, post=answering(answer))
    assert outbox.recorded == [recorded]
    assert delivered == int(recorded[0] == "delivered")


def test_it_is_signed_by_the_clock_of_the_ledger() -> None:
    signed = []

    def post(url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        signed.append(int(headers["webhook-timestamp"]))
        return Answered(200)

    deliver_round(ledger_of(FakeOutbox([EVENT])), secrets_of=secrets, post=post)
    assert 0 <= signed[0] - AT.timestamp() < 60


def test_an_event_whose_secret_cannot_be_read_is_not_sent_and_tried_again() -> None:
    def fails(conn_id: str) -> Sequence[object]:
        raise RuntimeError("the backend says: whsec_secret")

    for secrets_of in (fails, lambda conn_id: [], lambda conn_id: ["x"]):
        outbox = FakeOutbox([EVENT])
        deliver_round(ledger_of(outbox), secrets_of=secrets_of, post=answering(AssertionError("it was sent")))
        assert outbox.recorded == [("failed", 1, "the connection shop_hook has no secret that can be used", None)]


def test_a_receiver_where_everything_fails_is_left_alone_and_the_rest_is_not_tried() -> None:
    outbox = FakeOutbox([replace(EVENT, delivery_id=number) for number in range(32)])
    deliver_round(ledger_of(outbox), secrets_of=secrets, post=answering(NotAnswered("down")))
    assert outbox.ended["all_failed"]
    assert not outbox.ended["some_delivered"]
    assert len(outbox.recorded) + outbox.ended["unsent"] == 32
    assert outbox.ended["unsent"] > 8


def test_one_event_that_is_never_taken_holds_up_no_other() -> None:
    def post(url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        return Answered(400 if b'"job_id":1,' in body else 200)

    outbox = FakeOutbox([replace(EVENT, delivery_id=number, job_id=number) for number in range(32)])
    assert deliver_round(ledger_of(outbox), secrets_of=secrets, post=post) == 31
    assert outbox.ended == {"unsent": 0, "all_failed": False, "some_delivered": True}


def test_nothing_more_is_sent_once_the_lease_may_be_anothers() -> None:
    outbox = FakeOutbox([EVENT])
    deliver_round(
        ledger_of(outbox), secrets_of=secrets, post=answering(AssertionError("it was sent")), lease_seconds=0.0
    )
    assert (outbox.recorded, outbox.ended["unsent"]) == ([], 1)


def test_after_gone_nothing_more_is_sent() -> None:
    outbox = FakeOutbox([replace(EVENT, delivery_id=number) for number in range(32)], counts=False)
    deliver_round(ledger_of(outbox), secrets_of=secrets, post=answering(Answered(410)))
    assert outbox.ended["unsent"] > 8


def test_all_that_is_due_is_sent_and_what_is_old_removed() -> None:
    outbox = FakeOutbox([EVENT], [EVENT, EVENT])
    assert deliver_due(ledger_of(outbox), secrets_of=secrets, post=answering(Answered(204))) == 3
    assert outbox.removed == 1


def test_a_deliverer_goes_on_after_an_error_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_aihandoff.core.event_delivery.deliver.POLL_SECONDS", 0.001)
    outbox = FakeOutbox(LedgerUnavailable("the ledger is unavailable."), [EVENT], [EVENT])
    stop = threading.Event()

    def post(url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        if len(outbox.recorded) == 1:
            threading.Timer(0.02, stop.set).start()
        return Answered(204)

    began = time.monotonic()
    assert deliver_on(ledger_of(outbox), stop, secrets_of=secrets, post=post, removes=True) == 2
    assert time.monotonic() - began < 10
    assert outbox.removed == 1
