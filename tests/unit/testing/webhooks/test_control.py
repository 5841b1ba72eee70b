from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.testing import OpenAIStandIn, RunningServer
from tests.unit.testing.conftest import Clock, ask
from tests.waiting import until

from .receiver import Receiver, all_is_sent, create


class TestControl:
    def test_the_route_reports_what_the_method_does(
        self, server: RunningServer, stand_in: OpenAIStandIn, clock: Clock
    ) -> None:
        response_id = create(server, "delay=0")
        create(server)
        until(lambda: stand_in.webhooks().due == 0)
        report = ask(server, "GET", "/standin/webhooks", key=None).json
        [attempt] = report["attempts"]
        webhook_id = attempt.pop("webhook_id")
        assert webhook_id.startswith("wh_")
        assert attempt == {
            "event_type": "response.completed",
            "response_id": response_id,
            "at": clock.now,
            "status": 204,
            "kind": "normal",
            "last": True,
        }
        assert (report["pending"], report["due"]) == (1, 0)
        assert stand_in.webhooks().model_dump()["attempts"][0]["webhook_id"] == webhook_id

    @pytest.mark.parametrize(
        ("data", "about"), [({"id": "resp_foreign"}, "resp_foreign"), ({"id": 7}, None), ({}, None)]
    )
    def test_any_event_can_be_sent(
        self,
        server: RunningServer,
        stand_in: OpenAIStandIn,
        receiver: Receiver,
        data: dict[str, Any],
        about: str | None,
    ) -> None:
        receiver.statuses = [418]
        body = {"type": "batch.completed", "data": data}
        answer = ask(server, "POST", "/standin/webhooks", body, key=None)
        [received] = receiver.received
        assert (answer.status, answer.json["status"], answer.json["webhook_id"]) == (200, 418, received.id)
        assert received.verifies()
        assert (received.type, received.event["data"]) == ("batch.completed", data)
        [attempt] = stand_in.webhooks().attempts
        assert (attempt.kind, attempt.response_id, attempt.last) == ("direct", about, True)

    def test_an_event_can_be_sent_under_an_id_of_the_tests_choice(
        self, server: RunningServer, receiver: Receiver
    ) -> None:
        body = {"type": "response.completed", "data": {"id": "resp_1"}, "webhook_id": "wh_mine"}
        for _ in range(2):
            ask(server, "POST", "/standin/webhooks", body)
        assert [received.id for received in receiver.received] == ["wh_mine", "wh_mine"]

    def test_an_event_without_a_type_is_refused(self, server: RunningServer, receiver: Receiver) -> None:
        assert ask(server, "POST", "/standin/webhooks", {"data": {}}).status == 422
        assert receiver.received == []

    def test_reset_forgets_what_was_sent_and_what_was_to_be_sent(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock
    ) -> None:
        create(server, "delay=0")
        forgotten = create(server)
        until(lambda: stand_in.webhooks().due == 0)
        stand_in.reset()
        assert stand_in.webhooks().model_dump() == {"pending": 0, "due": 0, "attempts": []}
        clock.advance(10)
        create(server, "delay=0")
        until(lambda: all_is_sent(stand_in))
        assert forgotten not in {received.response_id for received in receiver.received}

    def test_an_attempt_under_way_at_a_reset_is_not_reported_later(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock
    ) -> None:
        receiver.answers.clear()
        create(server, "delay=0")
        until(lambda: receiver.received)
        stand_in.reset()
        receiver.answers.set()
        kept = create(server, "delay=0")
        until(lambda: all_is_sent(stand_in))
        assert [attempt.response_id for attempt in stand_in.webhooks().attempts] == [kept]
