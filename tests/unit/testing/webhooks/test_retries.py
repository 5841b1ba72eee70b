from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from airflow_provider_aihandoff.testing import OpenAIStandIn, RunningServer
from tests.unit.testing.conftest import Clock, ask
from tests.waiting import until

from .receiver import SECRET, Receiver, all_is_sent, create, free_port, kinds_and_statuses


def has_attempts(stand_in: OpenAIStandIn, number: int) -> bool:
    return len(stand_in.webhooks().attempts) == number


class TestRetries:
    def test_a_refusal_is_tried_again_under_the_same_id_until_it_is_taken(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock
    ) -> None:
        receiver.statuses = [500, 429, 404]
        create(server, "delay=0")
        for attempts, wait in enumerate((1, 2, 4), 1):
            until(partial(has_attempts, stand_in, attempts))
            assert stand_in.webhooks().due == 1
            clock.advance(wait)
        until(lambda: all_is_sent(stand_in))
        assert kinds_and_statuses(stand_in) == [("normal", status) for status in (500, 429, 404, 204)]
        assert [attempt.last for attempt in stand_in.webhooks().attempts] == [False, False, False, True]
        assert len({(received.id, received.body) for received in receiver.received}) == 1
        assert all(received.verifies() for received in receiver.received)

    def test_the_timestamp_of_a_webhook_is_that_of_the_attempt(
        self,
        server: RunningServer,
        stand_in: OpenAIStandIn,
        receiver: Receiver,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        receiver.statuses = [500]
        create(server, "delay=0")
        until(lambda: len(stand_in.webhooks().attempts) == 1)
        started = time.time()
        monkeypatch.setattr("airflow_provider_aihandoff.testing.webhook_endpoint.time.time", lambda: started + 100)
        clock.advance(1)
        until(lambda: all_is_sent(stand_in))
        first, second = (int(received.headers["webhook-timestamp"]) for received in receiver.received)
        assert second - first >= 100 - 1
        assert receiver.received[1].verifies()

    def test_a_redirect_is_a_failure_and_not_followed(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock
    ) -> None:
        receiver.statuses = [302, 307, 308]
        create(server, "delay=0")
        for attempts in (1, 2, 3):
            until(partial(has_attempts, stand_in, attempts))
            clock.advance(30)
        until(lambda: all_is_sent(stand_in))
        assert [attempt.status for attempt in stand_in.webhooks().attempts] == [302, 307, 308, 204]
        assert receiver.forwarded == 0

    def test_a_receiver_that_starts_late_gets_it_all_the_same(self, clock: Clock, receiver: Receiver) -> None:
        port = free_port()
        url = f"http://127.0.0.1:{port}/hook"
        stand_in = OpenAIStandIn(webhook_url=url, webhook_secrets=[SECRET], clock=clock)
        with stand_in.serve() as server:
            create(server, "delay=0")
            until(lambda: stand_in.webhooks().attempts)
            assert [attempt.status for attempt in stand_in.webhooks().attempts] == [None]
            with receiver.serving(port):
                clock.advance(1)
                until(lambda: all_is_sent(stand_in))
        assert len(receiver.received) == 1

    def test_proxies_of_the_environment_are_not_asked(
        self, url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        stand_in = OpenAIStandIn(webhook_url=url, webhook_secrets=[SECRET], delay_seconds=0)
        with stand_in.serve() as server:
            create(server)
            until(lambda: stand_in.webhooks().attempts)
        assert [attempt.status for attempt in stand_in.webhooks().attempts] == [204]

    def test_no_answer_in_time_is_a_failure(
        self,
        server: RunningServer,
        stand_in: OpenAIStandIn,
        receiver: Receiver,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("airflow_provider_aihandoff.testing.webhook_endpoint._ANSWERED_WITHIN_SECONDS", 0.2)
        receiver.answers.clear()
        create(server, "delay=0")
        until(lambda: stand_in.webhooks().attempts)
        receiver.answers.set()
        clock.advance(1)
        until(lambda: all_is_sent(stand_in))
        assert kinds_and_statuses(stand_in) == [("normal", None), ("normal", 204)]

    def test_a_delivery_is_given_up_after_three_days(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock
    ) -> None:
        receiver.statuses = [500] * 10
        create(server, "delay=0")
        until(lambda: stand_in.webhooks().attempts)
        clock.advance(73 * 3600)
        until(lambda: all_is_sent(stand_in))
        assert [(attempt.status, attempt.last) for attempt in stand_in.webhooks().attempts] == [
            (500, False),
            (500, True),
        ]

    def test_a_delete_of_the_response_ends_the_attempts(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock
    ) -> None:
        receiver.statuses = [500]
        response_id = create(server, "delay=0")
        until(lambda: stand_in.webhooks().attempts)
        ask(server, "DELETE", f"/v1/responses/{response_id}")
        clock.advance(30)
        create(server, "delay=0")
        until(lambda: all_is_sent(stand_in))
        assert Counter(received.response_id for received in receiver.received)[response_id] == 1


def test_thousands_that_end_at_once_are_all_delivered_while_the_api_answers(
    server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock
) -> None:
    count = 3000
    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(lambda _: create(server), range(count)))
    clock.advance(10)
    while len({received.id for received in receiver.received}) < count:
        clock.advance(1)  # where this machine is so slow that one is not answered in time, it is sent again
        asked_at = time.monotonic()
        assert ask(server, "GET", f"/v1/responses/{min(ids)}").status == 200
        assert time.monotonic() - asked_at < 5
        time.sleep(0.1)
    assert len(ids) == count
