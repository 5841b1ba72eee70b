"""Runs an ASGI application on a socket of its own: in a thread for a test, or until the process is stopped."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

HEALTH_PATH = "/standin/health"

_STARTS_WITHIN_SECONDS = 30
_STOPS_WITHIN_SECONDS = 30
# How long a request that is never answered may hold up the end.
_GRACE_SECONDS = 1


@dataclass(frozen=True)
class RunningServer:
    """Where a stand-in listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The root, for the routes under `/standin`."""
        return f"http://{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as its `base_url`."""
        return f"{self.url}/v1"


def bind(host: str, port: int) -> tuple[socket.socket, RunningServer]:
    """Listen on `host` and `port` (0: any free one), so that connections wait for the server to start.

    Raises:
        OSError: the address cannot be used.
    """
    listener = socket.create_server((host, port))
    return listener, RunningServer(host, listener.getsockname()[1])


def run(app: FastAPI, listener: socket.socket, log_level: str) -> None:
    """Serve until the process gets SIGINT or SIGTERM."""
    config = uvicorn.Config(app, log_level=log_level, timeout_graceful_shutdown=_GRACE_SECONDS)
    uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def serve(app: FastAPI, host: str, port: int) -> Iterator[RunningServer]:
    """Serve in a thread for as long as the context lasts; it begins when the server answers.

    Raises:
        OSError: the address cannot be used, or the server does not answer in time.
    """
    listener, running = bind(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,  # the logging of the process belongs to the test
        log_level="critical",
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="openai-stand-in", daemon=True)
    thread.start()
    try:
        _wait_until_healthy(running)
        yield running
    finally:
        server.should_exit = True
        thread.join(_STOPS_WITHIN_SECONDS)


def _wait_until_healthy(running: RunningServer) -> None:
    """One request is enough: the socket listens already, so the request waits in line until the server runs."""
    connection = http.client.HTTPConnection(running.host, running.port, timeout=_STARTS_WITHIN_SECONDS)
    try:
        connection.request("GET", HEALTH_PATH)
        connection.getresponse().read()
    finally:
        connection.close()
