"""The stand-in's edge to HTTP: the log of requests, the headers of every answer, and answers that get lost."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_aihandoff.testing.state import LoggedRequest, State

STAND_IN_HEADER = "x-stand-in"
STAND_IN_NOTICE = "airflow-provider-aihandoff test double; not OpenAI; no model was called"

_LOGGED_PATHS = "/v1/"


@dataclass
class Exchange:
    """One request under way; a route notes what it did before the request is logged."""

    state: State
    clock: Callable[[], float]
    method: str
    path: str
    response_id: str | None = None
    fault: str | None = None
    after: int | None = None
    logged: bool = False

    def log(self, status: int | None) -> None:
        """Log the request, on the first call only; `status` None: the client gets no complete answer."""
        if self.logged or not self.path.startswith(_LOGGED_PATHS):
            return
        self.logged = True
        self.state.log(
            LoggedRequest(
                at=self.clock(),
                method=self.method,
                path=self.path,
                status=status,
                response_id=self.response_id,
                fault=self.fault,
                after=self.after,
            )
        )


def exchange_of(request: Request) -> Exchange:
    """The exchange that `ExchangeMiddleware` began for `request`."""
    exchange: Exchange = request.state.exchange
    return exchange


class ExchangeMiddleware:
    """Logs each request before its answer leaves, and marks each answer as the stand-in's.

    Args:
        app: the application.
        state: where requests are logged.
        clock: the time, in Unix seconds.
    """

    def __init__(self, app: ASGIApp, state: State, clock: Callable[[], float]) -> None:
        self._app = app
        self._state = state
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(self._state, self._clock, scope["method"], scope["path"])
        scope.setdefault("state", {})["exchange"] = exchange

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[STAND_IN_HEADER] = STAND_IN_NOTICE
                headers["x-request-id"] = f"req_{uuid.uuid4().hex}"
                exchange.log(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            exchange.log(500)
            raise


def html_page() -> Response:
    """What a proxy in front of an API sometimes answers: a page, with status 200."""
    return HTMLResponse("<!doctype html><title>Stand-in</title><p>Please wait while we check your browser.</p>")


class NoAnswer(Response):
    """Never answers: returns when the client has given up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait until the client disconnects."""
        scope["state"]["exchange"].log(None)
        while (await receive())["type"] != "http.disconnect":
            pass


class CutOffAnswer(Response):
    """Begins an answer and ends before its body, which makes the server close the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head of an answer alone."""
        scope["state"]["exchange"].log(None)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


class EventsAnswer(StreamingResponse):
    """Sends events as they come.

    Args:
        events: encoded.
        cut_off: the connection is closed after them, in the middle of the answer.
    """

    def __init__(self, events: AsyncIterator[str], *, cut_off: bool) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._cut_off = cut_off

    async def stream_response(self, send: Send) -> None:
        """Send the head of the answer, and each event."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self.body_iterator:
            sent = chunk.encode() if isinstance(chunk, str) else chunk
            await send({"type": "http.response.body", "body": sent, "more_body": True})
        if not self._cut_off:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
