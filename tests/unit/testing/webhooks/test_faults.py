from __future__ import annotations

from datetime import timedelta
from http.client import IncompleteRead

import pytest

from airflow_provider_aihandoff.testing import OpenAIStandIn, RunningServer
from tests.unit.testing.conftest import Clock
from tests.waiting import until

from .receiver import Receiver, all_is_sent, create, kinds_and_statuses


class TestFaults:
    def test_duplicate_comes_twice_under_one_id(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver
    ) -> None:
        create(server, "delay=0 webhook=duplicate")
        until(lambda: all_is_sent(stand_in))
        first, second = receiver.received
        assert (first.id, first.body) == (second.id, second.body)
        assert first.verifies()
        assert second.verifies()
        assert sorted(kinds_and_statuses(stand_in)) == [("duplicate", 204), ("normal", 204)]

    def test_duplicates_are_under_way_at_the_same_time(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver
    ) -> None:
        receiver.answers.clear()
        create(server, "delay=0 webhook=duplicate")
        until(lambda: len(receiver.received) == 2)
        assert stand_in.webhooks().attempts == []
        receiver.answers.set()
        until(lambda: all_is_sent(stand_in))

    def test_again_is_a_second_event_for_the_same_end(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver
    ) -> None:
        create(server, "delay=0 webhook=again")
        until(lambda: all_is_sent(stand_in))
        first, second = receiver.received
        assert first.id != second.id
        assert first.event["id"] != second.event["id"]
        assert (first.type, first.response_id) == (second.type, second.response_id)
        assert second.verifies()

    def test_early_arrives_before_the_client_knows_the_response(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver
    ) -> None:
        known_by_then: list[bool] = []
        for _ in range(10):
            response_id = create(server, "webhook=early delay=60 status=failed")
            known_by_then.append(receiver.received[-1].response_id == response_id)
        assert known_by_then == [True] * 10
        assert {received.type for received in receiver.received} == {"response.failed"}
        assert all_is_sent(stand_in)

    def test_early_waits_for_the_answer_even_if_that_is_a_refusal(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver
    ) -> None:
        receiver.statuses = [404]
        create(server, "webhook=early")
        assert kinds_and_statuses(stand_in) == [("normal", 404)]

    def test_early_does_not_wait_for_ever(
        self, server: RunningServer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airflow_provider_aihandoff.testing.webhooks._CREATE_IS_HELD_BACK_SECONDS", 0.2)
        receiver.answers.clear()
        assert create(server, "webhook=early").startswith("resp_")
        receiver.answers.set()

    def test_early_comes_even_if_the_create_is_never_answered(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver
    ) -> None:
        with pytest.raises(IncompleteRead):
            create(server, "webhook=early create=drop_after_accept")
        [orphan] = stand_in.responses().responses
        assert [received.response_id for received in receiver.received] == [orphan.response["id"]]

    def test_forged_comes_before_the_right_one_with_a_wrong_signature(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver
    ) -> None:
        receiver.statuses = [401]
        create(server, "delay=0 webhook=forged")
        until(lambda: all_is_sent(stand_in))
        assert [received.verifies() for received in receiver.received] == [False, True]
        assert len({received.id for received in receiver.received}) == 1
        assert kinds_and_statuses(stand_in) == [("forged", 401), ("normal", 204)]

    def test_stale_is_signed_for_a_time_long_ago(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        receiver.statuses = [400]
        create(server, "delay=0 webhook=stale")
        until(lambda: all_is_sent(stand_in))
        stale, fresh = receiver.received
        assert [stale.verifies(), fresh.verifies()] == [False, True]
        assert 595 <= int(fresh.headers["webhook-timestamp"]) - int(stale.headers["webhook-timestamp"]) <= 605
        monkeypatch.setattr("standardwebhooks.webhooks.timedelta", lambda **_: timedelta(hours=1))
        assert stale.verifies()
        assert kinds_and_statuses(stand_in) == [("stale", 400), ("normal", 204)]

    def test_webhook_delay_puts_the_events_in_another_order(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock
    ) -> None:
        first, second = create(server, "delay=0 webhook_delay=5"), create(server, "delay=1")
        clock.advance(1)
        until(lambda: stand_in.webhooks().due == 0)
        clock.advance(4)
        until(lambda: all_is_sent(stand_in))
        assert [received.response_id for received in receiver.received] == [second, first]
