"""The secrets of a connection: where they come from, and what happens where they are of no use."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.web.api.webhook_receiver import Receiver
from tests.integration.web.webhooks.conftest import (
    BODY,
    UseSecrets,
    lines,
    rows,
    send,
)
from tests.unit.core.webhooks.signing import OTHER_SECRET, SECRET


@pytest.mark.parametrize("secrets", [None, []])
def test_a_connection_without_secrets_is_a_404(
    openai: TestClient, use_secrets: UseSecrets, secrets: Any, caplog: pytest.LogCaptureFixture
) -> None:
    use_secrets(secrets)
    answer, unknown = send(openai), send(openai, path="/aihandoff/webhooks/openai/other")
    assert (answer.status_code, answer.content) == (404, unknown.content)
    assert any("openai_default" in line and "no secrets" in line for line in lines(caplog))


def test_a_missing_connection_is_answered_like_an_unknown_one(
    openai: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_OPENAI_DEFAULT")
    answer, unknown = send(openai), send(openai, path="/aihandoff/webhooks/openai/other")
    assert (answer.status_code, answer.content) == (404, unknown.content)
    assert any("openai_default" in line and "no connection" in line for line in lines(caplog))


@pytest.mark.parametrize("secrets", ["", "whsec_", [SECRET, "whsec_!!!!"], [SECRET, 7], {"a": SECRET}])
def test_an_unusable_secret_disables_the_receiver_and_is_not_shown(
    openai: TestClient,
    use_secrets: UseSecrets,
    secrets: Any,
    caplog: pytest.LogCaptureFixture,
    conninfo: dict[str, Any],
) -> None:
    use_secrets(secrets)
    for _ in range(3):
        answer = send(openai)
        assert (answer.status_code, int(answer.headers["Retry-After"]) > 0) == (503, True)
    (line,) = lines(caplog)
    assert "openai_default" in line
    assert "webhook secret 2 of 2" in line or "webhook secret 1 of 1" in line
    assert "!!!!" not in line
    assert rows(conninfo) == []


def test_a_single_secret_needs_no_list(openai: TestClient, use_secrets: UseSecrets) -> None:
    use_secrets(SECRET)
    assert send(openai).status_code == 200


def test_a_rotation_is_seen_within_a_minute(
    openai: TestClient, receiver: Receiver, use_secrets: UseSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(openai).status_code == 200
    use_secrets([OTHER_SECRET])
    assert send(openai, BODY, OTHER_SECRET).status_code == 400
    monkeypatch.setattr(receiver._keyring, "_clock", lambda: time.monotonic() + 60)
    assert send(openai, BODY, OTHER_SECRET).status_code == 200
    assert send(openai).status_code == 400


def test_known_secrets_stay_in_use_while_connections_cannot_be_read(
    openai: TestClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(openai).status_code == 200
    monkeypatch.delenv("AIRFLOW_CONN_OPENAI_DEFAULT")
    monkeypatch.setattr(receiver._keyring, "_clock", lambda: time.monotonic() + 61)
    assert send(openai).status_code == 200
