"""The receiver without an API server around it."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.web.api import webhook_receiver
from airflow_provider_aihandoff.web.api.webhook_receiver import Receiver
from airflow_provider_aihandoff.web.app import build_receiver
from tests.integration.web.webhooks.conftest import (
    UseLedger,
    UseSecrets,
    send,
)


def test_the_standalone_receiver_serves_only_its_path_and_its_health(
    stranger: TestClient, use_secrets: UseSecrets, use_ledger: UseLedger, conninfo: dict[str, Any]
) -> None:
    receiver = Receiver(["openai_default"])
    alone = TestClient(build_receiver(receiver), raise_server_exceptions=False)
    assert alone.get("/health").json() == {"status": "ok"}
    assert send(alone, path="/webhooks/openai/openai_default").status_code == 200
    for path in ("/", "/jobs/1", "/api/v1/jobs", "/docs", "/openapi.json", "/static/icon.svg"):
        answer = alone.get(path)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert "Content-Security-Policy" in answer.headers
    assert receiver._intake._opened is not None
    receiver._intake._opened.close()
    use_ledger({**conninfo, "port": 1})
    down = TestClient(build_receiver(Receiver(["openai_default"])), raise_server_exceptions=False)
    assert down.get("/health").status_code == 503


def test_the_standalone_receiver_answers_an_unexpected_error_in_json(
    stranger: TestClient, use_secrets: UseSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(webhook_receiver, "parse", fail)
    monkeypatch.setattr(Receiver, "check", fail)
    alone = TestClient(build_receiver(Receiver(["openai_default"])), raise_server_exceptions=False)
    for answer in (send(alone, path="/webhooks/openai/openai_default"), alone.get("/health")):
        assert (answer.status_code, answer.json()["status"]) == (500, 500)
        assert "hunter2" not in answer.text
