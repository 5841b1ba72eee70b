"""A receiver of webhooks on loopback, and a stand-in that sends to it."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from airflow_provider_aihandoff.testing import OpenAIStandIn, RunningServer
from airflow_provider_aihandoff.testing.serving import HEALTH_PATH, serve
from tests.unit.testing.conftest import ask

SECRET = "whsec_" + base64.b64encode(b"the first secret of this test").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"the secret that is rotated in").decode()


@dataclass(frozen=True)
class Received:
    """One request, as it arrived."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def type(self) -> str:
        return str(self.event["type"])

    @property
    def response_id(self) -> str:
        return str(self.event["data"]["id"])

    def verifies(self, secret: str = SECRET) -> bool:
        try:
            Webhook(secret).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


@dataclass
class Receiver:
    """Answers with `statuses`, one after the other, and with 204 when there are none left."""

    statuses: list[int] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    forwarded: int = 0
    """Requests that followed a redirect."""
    answers: threading.Event = field(default_factory=threading.Event)
    """While cleared, requests wait."""

    def __post_init__(self) -> None:
        self.answers.set()
        self.app = FastAPI(openapi_url=None)
        self.app.add_api_route(HEALTH_PATH, self._health)
        self.app.add_api_route("/hook", self._receive, methods=["POST"], response_class=Response)
        self.app.add_api_route("/elsewhere", self._forward, methods=["GET", "POST"])

    @contextmanager
    def serving(self, port: int = 0) -> Iterator[str]:
        """The URL for webhooks, for as long as the context lasts."""
        with serve(self.app, "127.0.0.1", port) as running:
            yield f"{running.url}/hook"

    async def _health(self) -> dict[str, str]:
        return {}

    async def _receive(self, request: Request) -> Response:
        self.received.append(Received(dict(request.headers), await request.body()))
        status = self.statuses.pop(0) if self.statuses else 204
        if not self.answers.is_set():
            await asyncio.to_thread(self.answers.wait, 20)
        return Response(status_code=status, headers={"location": "/elsewhere"} if 300 <= status < 400 else None)

    async def _forward(self) -> None:
        self.forwarded += 1


def create(server: RunningServer, faults: str = "", **parameters: Any) -> str:
    """Create a background response; its id."""
    body = {"model": "m", "input": f"[[standin: {faults}]]" if faults else "i", "background": True} | parameters
    return str(ask(server, "POST", "/v1/responses", body, timeout=20).json["id"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def all_is_sent(stand_in: OpenAIStandIn) -> bool:
    return stand_in.webhooks().pending == 0


def kinds_and_statuses(stand_in: OpenAIStandIn) -> list[tuple[str, int | None]]:
    return [(attempt.kind, attempt.status) for attempt in stand_in.webhooks().attempts]
