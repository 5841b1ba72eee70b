from __future__ import annotations

import time
from collections import Counter

import pytest

from airflow_provider_aihandoff.testing import OpenAIStandIn, RunningServer
from tests.unit.testing.conftest import Clock, ask
from tests.waiting import until

from .receiver import OTHER_SECRET, SECRET, Receiver, all_is_sent, create


class TestEvents:
    def test_the_event_for_the_end_of_a_response_is_the_one_of_openai(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock
    ) -> None:
        response_id = create(server)
        clock.advance(10)
        until(lambda: all_is_sent(stand_in))

        [received] = receiver.received
        assert received.verifies()
        assert not received.verifies(OTHER_SECRET)
        event_id = received.event["id"]
        assert received.event == {
            "object": "event",
            "id": event_id,
            "type": "response.completed",
            "created_at": int(clock.now),
            "data": {"id": response_id},
        }
        assert event_id.startswith("evt_")
        assert received.id.startswith("wh_")
        assert received.headers["content-type"] == "application/json"
        assert "stand-in" in received.headers["user-agent"]
        assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < 60

    @pytest.mark.parametrize("status", ["failed", "incomplete", "cancelled"])
    def test_the_event_type_follows_the_status_of_the_response(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, status: str
    ) -> None:
        create(server, f"delay=0 status={status}")
        until(lambda: all_is_sent(stand_in))
        assert [received.type for received in receiver.received] == [f"response.{status}"]

    def test_no_webhook_is_sent_before_the_end_of_the_response(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver
    ) -> None:
        running, ended = create(server), create(server, "delay=0")
        until(lambda: stand_in.webhooks().due == 0)
        assert [received.response_id for received in receiver.received] == [ended]
        assert stand_in.webhooks().pending == 1
        assert running != ended

    @pytest.mark.parametrize("faults", ["stuck=queued", "unknown_status", "webhook=none"])
    def test_some_responses_have_no_webhook(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock, faults: str
    ) -> None:
        create(server, faults)
        clock.advance(10)
        ended = create(server, "delay=0")
        until(lambda: all_is_sent(stand_in))
        assert [received.response_id for received in receiver.received] == [ended]

    def test_a_response_that_the_client_waited_for_has_no_event(
        self, server: RunningServer, stand_in: OpenAIStandIn
    ) -> None:
        create(server, background=False)
        create(server, "webhook=early", background=False)
        assert stand_in.webhooks().pending == 0

    @pytest.mark.parametrize("faults", ["", "stuck=in_progress"])
    def test_a_cancel_replaces_the_event(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock, faults: str
    ) -> None:
        response_id = create(server, faults)
        clock.advance(5)
        ask(server, "POST", f"/v1/responses/{response_id}/cancel")
        cancelled_at = int(clock.now)
        clock.advance(100)
        until(lambda: all_is_sent(stand_in))
        ask(server, "POST", f"/v1/responses/{response_id}/cancel")
        create(server, "delay=0")
        until(lambda: all_is_sent(stand_in))
        assert [received.type for received in receiver.received] == ["response.cancelled", "response.completed"]
        assert receiver.received[0].event["created_at"] == cancelled_at

    def test_complete_after_cancel_says_completed_once_at_the_cancel(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock
    ) -> None:
        response_id = create(server, "complete_after_cancel")
        ask(server, "POST", f"/v1/responses/{response_id}/cancel")
        until(lambda: all_is_sent(stand_in))
        clock.advance(100)
        create(server, "delay=0")
        until(lambda: all_is_sent(stand_in))
        assert Counter(received.response_id for received in receiver.received)[response_id] == 1
        assert receiver.received[0].type == "response.completed"

    def test_a_deleted_response_sends_nothing(
        self, server: RunningServer, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock
    ) -> None:
        deleted, kept = create(server), create(server)
        ask(server, "DELETE", f"/v1/responses/{deleted}")
        clock.advance(10)
        until(lambda: all_is_sent(stand_in))
        assert [received.response_id for received in receiver.received] == [kept]

    def test_without_a_url_nothing_is_sent_and_early_holds_nothing_back(self) -> None:
        stand_in = OpenAIStandIn(delay_seconds=0)
        with stand_in.serve() as server:
            create(server, "webhook=early")
            assert ask(server, "POST", "/standin/webhooks", {"type": "response.completed"}).status == 409
        assert stand_in.webhooks().model_dump() == {"pending": 0, "due": 0, "attempts": []}


class TestSecrets:
    def test_while_secrets_are_rotated_either_one_verifies(self, url: str, receiver: Receiver) -> None:
        stand_in = OpenAIStandIn(webhook_url=url, webhook_secrets=[SECRET, OTHER_SECRET], delay_seconds=0)
        with stand_in.serve() as server:
            create(server)
            until(lambda: all_is_sent(stand_in))
        [received] = receiver.received
        assert received.verifies(SECRET)
        assert received.verifies(OTHER_SECRET)
        assert [part[:3] for part in received.headers["webhook-signature"].split(" ")] == ["v1,", "v1,"]

    @pytest.mark.parametrize("secrets", [[], [""], ["whsec_"], ["whsec_!!!!"], [SECRET, "whsec_"], ["x"]])
    def test_a_webhook_url_needs_valid_secrets(self, secrets: list[str]) -> None:
        with pytest.raises(ValueError, match=r"[Ww]ebhook.* secret"):
            OpenAIStandIn(webhook_url="http://127.0.0.1/hook", webhook_secrets=secrets)

    def test_a_refused_secret_is_not_shown(self) -> None:
        with pytest.raises(ValueError, match="Webhook secret 1") as refused:
            OpenAIStandIn(webhook_url="http://127.0.0.1/hook", webhook_secrets=["abcde"])
        assert "abcde" not in str(refused.value)

    @pytest.mark.parametrize("url", ["", "localhost:80/hook", "ftp://host/hook", "http://", "http://[::1"])
    def test_a_url_that_cannot_be_posted_to_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match="is not a URL"):
            OpenAIStandIn(webhook_url=url, webhook_secrets=[SECRET])
