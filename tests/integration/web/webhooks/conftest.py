"""The receiver of webhooks in Airflow's API server, and what posts to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import Mount

from airflow_provider_aihandoff.web.api.webhook_receiver import Receiver
from tests.unit.core.webhooks.signing import SECRET, signed

PATH = "/aihandoff/webhooks/openai/openai_default"
EVENT = {"object": "event", "id": "evt_1", "type": "response.completed", "data": {"id": "resp_1"}}
BODY = json.dumps(EVENT).encode()
JSON = {"Content-Type": "application/json"}

UseLedger = Callable[[dict[str, Any]], None]
UseSecrets = Callable[..., None]


@pytest.fixture
def use_secrets(monkeypatch: pytest.MonkeyPatch) -> UseSecrets:
    """Make these the webhook secrets of a connection."""

    def use(secrets: Any, conn_id: str = "openai_default") -> None:
        extra = {} if secrets is None else {"webhook_secrets": secrets}
        connection = {"conn_type": "openai", "password": "sk-of-the-tests", "extra": extra}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))

    use([SECRET])
    return use


@pytest.fixture
def receiver(airflow: FastAPI, monkeypatch: pytest.MonkeyPatch, use_secrets: UseSecrets) -> Iterator[Receiver]:
    """The receiver of the API server, as it is when the server starts."""
    (app,) = [route.app for route in airflow.routes if isinstance(route, Mount) and route.path == "/aihandoff"]
    assert isinstance(app, FastAPI)
    kept, fresh = app.state.receiver, Receiver()
    app.state.receiver = fresh
    monkeypatch.setattr(fresh._polls, "start", lambda *args: True)
    yield fresh
    app.state.receiver = kept
    if fresh._intake._opened:
        fresh._intake._opened.close()


@pytest.fixture
def openai(stranger: TestClient, receiver: Receiver) -> TestClient:
    """What posts to the receiver: a client that is not logged in."""
    stranger.headers = {}
    return stranger


def send(client: TestClient, body: bytes = BODY, /, *secrets: str, path: str = PATH, **headers: str) -> Any:
    """Deliver as OpenAI does; given headers replace those of the signature."""
    own = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(path, content=body, headers={**JSON, **signed(body, *secrets), **own})


def rows(conninfo: dict[str, Any]) -> list[tuple[Any, ...]]:
    with psycopg.connect(**conninfo) as connection:
        return connection.execute(
            "SELECT webhook_id, conn_id, event_type, response_id, disposition, deliveries FROM aihandoff.inbox"
        ).fetchall()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("airflow_provider_aihandoff")]


def assert_nothing_secret(text: str, body: bytes) -> None:
    for value in (SECRET.removeprefix("whsec_"), signed(body)["webhook-signature"], "resp_1", "evt_1"):
        assert value not in text


async def deliver(app: FastAPI, receive: Callable[[], Any], prefix: str = "", **more: str) -> int:
    """One request, as a server hands it to the app; the status of the answer.

    :param more: headers beside those of the signature.
    """
    said = {**JSON, **signed(BODY), **{name.replace("_", "-"): value for name, value in more.items()}}
    headers = [(name.lower().encode(), value.encode()) for name, value in said.items()]
    path = f"{prefix}/webhooks/openai/openai_default"
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers,
        "state": {},
    }  # fmt: skip
    sent: list[Any] = []

    async def send_message(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send_message)
    return int(sent[0]["status"])
