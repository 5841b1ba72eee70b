"""A business system for tests: a real HTTP server in a thread, which answers as it is set to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a target answers; without a status it hangs up after it has read the request.

    :param body: JSON, or bytes that are none.
    """

    status: int | None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


DROP = Answer(None)


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Target:
    """A business system that keeps every request that it gets, and answers as it is set to; otherwise 201."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: list[Answer] = []
        self.answer_by_path: dict[str, Answer] = {}
        """What takes precedence over `answers`."""
        self.hold: threading.Event | None = None
        """While it is set to an event that has not happened, no answer comes."""
        self.port = 0

    def reset(self) -> None:
        """Forget the requests, and answer 201 again."""
        self.received, self.answers, self.answer_by_path, self.hold = [], [], {}, None

    def next(self, path: str) -> Answer:
        if path in self.answer_by_path:
            return self.answer_by_path[path]
        return self.answers.pop(0) if self.answers else Answer(201, {"id": f"rec-{len(self.received)}"})


def _handler(target: Target) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            target.received.append(Received(self.command, self.path, dict(self.headers), body))
            answer, hold = target.next(self.path), target.hold
            if hold is not None:
                hold.wait(30)
            self.close_connection = True
            if answer.status is None:
                return
            content = answer.body if isinstance(answer.body, bytes) else b""
            if not content and answer.body is not None:
                content = json.dumps(answer.body).encode()
            self.send_response(answer.status)
            headers = {"Content-Length": str(len(content)), "Connection": "close", **answer.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815  the names of the base class

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def serve() -> Iterator[Target]:
    target = Target()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(target))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that gave up
    target.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    yield target
    server.shutdown()
    server.server_close()
