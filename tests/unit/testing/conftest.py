from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from openai import OpenAI
from openai.types.responses import Response

from airflow_provider_aihandoff.testing import OpenAIStandIn, RunningServer


class Clock:
    """A clock that moves only when it is set."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    server: RunningServer, method: str, path: str, body: object = None, key: str | None = "any", timeout: float = 10
) -> Answer:
    """One plain HTTP request; `body` is sent as JSON, or as it is if it is bytes."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=timeout)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body)
        connection.request(method, path, sent, headers)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


@pytest.fixture(scope="package")
def shared() -> Iterator[tuple[Clock, OpenAIStandIn, RunningServer]]:
    """One server for all tests; every response takes 10 seconds of the clock."""
    clock = Clock()
    stand_in = OpenAIStandIn(delay_seconds=10, clock=clock)
    with stand_in.serve() as running:
        yield clock, stand_in, running


@pytest.fixture
def clock(shared: tuple[Clock, OpenAIStandIn, RunningServer]) -> Clock:
    shared[0].now = Clock.now
    return shared[0]


@pytest.fixture
def stand_in(shared: tuple[Clock, OpenAIStandIn, RunningServer], clock: Clock) -> OpenAIStandIn:
    shared[1].reset()
    return shared[1]


@pytest.fixture
def server(shared: tuple[Clock, OpenAIStandIn, RunningServer], stand_in: OpenAIStandIn) -> RunningServer:
    return shared[2]


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as opened:
        yield opened


@pytest.fixture
def create(client: OpenAI) -> Callable[..., Response]:
    """Create a background response."""

    def create(input: Any = "Say hello.", **parameters: Any) -> Response:
        defaults: dict[str, Any] = {"model": "gpt-5.2", "background": True, "store": True}
        response: Response = client.responses.create(input=input, **(defaults | parameters))
        return response

    return create


@pytest.fixture
def finish(create: Callable[..., Response], client: OpenAI, clock: Clock) -> Callable[..., Response]:
    """Create a background response and retrieve it after its end."""

    def finish(input: Any = "Say hello.", **parameters: Any) -> Response:
        response = create(input, **parameters)
        clock.advance(10)
        return client.responses.retrieve(response.id)

    return finish
