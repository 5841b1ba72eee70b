"""What is signed is recorded before it is answered; what is no delivery costs next to nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseHook
from fastapi import FastAPI
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.web.api import webhook_receiver
from airflow_provider_aihandoff.web.api.webhook_receiver import Receiver
from airflow_provider_aihandoff.web.app import build_receiver
from tests.factories import job_spec, submit
from tests.integration.web.webhooks.conftest import (
    BODY,
    EVENT,
    JSON,
    PATH,
    UseSecrets,
    deliver,
    rows,
    send,
)
from tests.unit.core.webhooks.signing import OTHER_SECRET, signed


def test_a_signed_webhook_is_in_the_inbox_before_it_is_answered(openai: TestClient, ledger: Ledger) -> None:
    answer = send(openai)
    assert (answer.status_code, answer.json()) == (200, {"disposition": "quarantined"})
    entry = ledger.inbox.read("wh_1")
    assert (entry.conn_id, entry.event_type, entry.response_id) == ("openai_default", "response.completed", "resp_1")
    assert entry.body == EVENT


def test_an_expected_webhook_is_applied_and_a_second_delivery_changes_nothing(
    openai: TestClient, ledger: Ledger
) -> None:
    revision = submit(ledger, job_spec())
    assert send(openai).json() == {"disposition": "applied"}
    events = ledger.record(revision.job_id).events
    answer = send(openai)
    assert (answer.status_code, answer.json()) == (200, {"disposition": "applied"})
    assert ledger.record(revision.job_id).events == events
    assert ledger.inbox.read("wh_1").deliveries == 2


def test_an_event_of_another_type_is_answered_with_200(openai: TestClient, conninfo: dict[str, Any]) -> None:
    assert send(openai, b'{"type": "batch.completed"}').json() == {"disposition": "ignored"}
    assert rows(conninfo) == [("wh_1", "openai_default", "batch.completed", None, "ignored", 1)]


@pytest.mark.parametrize("event_type", ["safety.warning_issued", "safety_identifier.blocked", "safety.alert.created"])
def test_a_safety_notice_is_kept_for_a_person_and_logged_once(
    openai: TestClient, ledger: Ledger, event_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"type": event_type, "data": {"id": "C-abc123"}}).encode()
    for _ in range(2):
        assert send(openai, body).json() == {"disposition": "quarantined"}
    entry = ledger.inbox.read("wh_1")
    assert (entry.response_id, entry.note) == (None, "a safety notice by OpenAI about C-abc123")
    assert [event_type in record.message for record in caplog.records if record.levelname == "WARNING"] == [True]


@pytest.mark.parametrize("conn_id", ["other", "openai_default%00", "..", "%2e%2e", "openai_default%0a", "a" * 5000])
def test_a_connection_that_is_not_configured_is_never_read(
    openai: TestClient, conn_id: str, monkeypatch: pytest.MonkeyPatch, conninfo: dict[str, Any]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(BaseHook, "get_connection", lambda conn_id: asked.append(conn_id))
    answer = send(openai, path=f"/aihandoff/webhooks/openai/{conn_id}")
    assert answer.status_code == 404
    assert asked == []
    assert rows(conninfo) == []


def test_webhook_connections_come_from_the_configuration(
    openai: TestClient, receiver: Receiver, use_secrets: UseSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__WEBHOOK_CONN_IDS", " openai_eu , openai_us,")
    use_secrets([OTHER_SECRET], "openai_eu")
    assert send(openai, BODY, OTHER_SECRET, path="/aihandoff/webhooks/openai/openai_eu").status_code == 200
    assert send(openai).status_code == 404
    assert send(openai, path="/aihandoff/webhooks/openai/").status_code == 404


def test_the_secret_of_one_connection_verifies_nothing_for_another(
    openai: TestClient, use_secrets: UseSecrets, monkeypatch: pytest.MonkeyPatch, conninfo: dict[str, Any]
) -> None:
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__WEBHOOK_CONN_IDS", "openai_default,openai_eu")
    use_secrets([OTHER_SECRET], "openai_eu")
    assert send(openai, BODY, OTHER_SECRET).status_code == 400
    assert rows(conninfo) == []


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
def test_a_body_that_is_not_json_is_not_read(openai: TestClient, kind: str) -> None:
    assert send(openai, Content_Type=kind).status_code == 415


def test_a_content_type_may_have_a_charset(openai: TestClient) -> None:
    assert send(openai, Content_Type="Application/JSON; charset=utf-8").status_code == 200


@pytest.mark.usefixtures("receiver")
async def test_a_body_over_the_limit_is_refused_by_its_length_unread(airflow: FastAPI) -> None:
    async def receive() -> Any:
        raise AssertionError("it was read")

    assert await deliver(airflow, receive, "/aihandoff", content_length="65537") == 413
    assert await deliver(airflow, receive, "/aihandoff", content_length="9" * 5000) == 413


@pytest.mark.usefixtures("receiver")
async def test_a_body_over_the_limit_in_chunks_is_cut_off(airflow: FastAPI) -> None:
    taken: list[int] = []

    async def endless() -> Any:
        taken.append(len(taken))
        assert len(taken) < 100
        return {"type": "http.request", "body": b" " * 16_384, "more_body": True}

    assert await deliver(airflow, endless, "/aihandoff") == 413
    assert len(taken) < 10


def test_a_body_at_the_limit_is_accepted(openai: TestClient) -> None:
    event = {**EVENT, "filler": ""}
    event["filler"] = "x" * (65_536 - len(json.dumps(event)))
    assert send(openai, json.dumps(event).encode()).status_code == 200


def test_the_body_limit_is_configurable(openai: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__WEBHOOK_BODY_LIMIT", "10")
    assert send(openai).status_code == 413


async def test_a_slow_body_times_out(use_secrets: UseSecrets, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(webhook_receiver, "READ_TIMEOUT", 0.05)
    assert await deliver(build_receiver(Receiver(["openai_default"])), never) == 408


async def test_a_sender_that_disconnects_is_not_an_error(
    use_secrets: UseSecrets, caplog: pytest.LogCaptureFixture
) -> None:
    async def gone() -> Any:
        return {"type": "http.disconnect"}

    assert await deliver(build_receiver(Receiver(["openai_default"])), gone) == 400
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH"])
def test_the_receiver_allows_only_post(openai: TestClient, method: str) -> None:
    answer = openai.request(method, PATH)
    assert (answer.status_code, answer.headers["content-type"]) == (405, "application/problem+json")


def test_the_receiver_needs_neither_a_login_nor_a_page_of_this_site(openai: TestClient) -> None:
    answer = send(openai, Origin="https://elsewhere.test", Sec_Fetch_Site="cross-site")
    assert answer.status_code == 200


def test_openai_is_polled_once_for_an_orphaned_response(
    openai: TestClient, receiver: Receiver, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, str]] = []

    def start(conn_id: str, webhook_id: str) -> bool:
        started.append((conn_id, webhook_id))
        return True

    monkeypatch.setattr(receiver._polls, "start", start)
    send(openai)
    send(openai)
    assert started == [("openai_default", "wh_1")]
    submit(ledger, job_spec(), "resp_2")
    applied = json.dumps({**EVENT, "data": {"id": "resp_2"}}).encode()
    for body in (applied, b'{"type": "batch.completed"}', b'{"type": "response.completed"}'):
        identified = signed(body, webhook_id=f"wh_{len(body)}")
        assert openai.post(PATH, content=body, headers={**JSON, **identified}).status_code == 200
    assert started == [("openai_default", "wh_1")]


def test_a_poll_uses_a_provider_of_the_connection_without_retries(
    openai: TestClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, int, float]] = []

    def find_owner(ledger: Ledger, webhook_id: str, provider: Any) -> None:
        client = provider._responses._client
        asked.append((ledger.inbox.read(webhook_id).webhook_id, client.api_key, client.max_retries, client.timeout))

    monkeypatch.setattr(webhook_receiver, "find_owner", find_owner)
    send(openai)
    receiver._poll("openai_default", "wh_1")
    assert asked == [("wh_1", "sk-of-the-tests", 0, 30)]
