"""The HTTP server of the receiver that runs alone: strangers can hold no connection for long, nor keep others out.

A connection has to send a whole head within :data:`HEAD_TIMEOUT`, again after each answer; the receiver itself bounds
the body. Where there are too many, the oldest one that has not sent a whole request makes room for a new one.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
from functools import partial
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

#: Connections at the same time, after which new ones take the place of old ones that have sent no whole request.
MAX_CONNECTIONS = 1000

#: Requests and connections after which a request is answered 503: OpenAI delivers it again.
_MAX_REQUESTS = 2 * MAX_CONNECTIONS

#: Open files that the process asks for: connections, those in their TLS handshake, and a burst of new ones.
_FILES = 8192

#: Seconds for the TLS handshake, for the head of a request, and between two requests.
HANDSHAKE_TIMEOUT, HEAD_TIMEOUT, KEEP_ALIVE = 5.0, 5.0, 5


class BoundedProtocol(H11Protocol):
    """One connection. H11, and not what uvicorn chooses: it tells how much of a request has come."""

    _oldest_first: ClassVar[dict[BoundedProtocol, None]] = {}

    _timer: asyncio.TimerHandle | None = None
    _seen: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and make room."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_TIMEOUT, self._check)
        if len(self.connections) >= MAX_CONNECTIONS:
            oldest = next((each for each in self._oldest_first if each.waits_for_client), None)
            if oldest is not None:
                oldest.drop()
        self._oldest_first[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
        self._oldest_first.pop(self, None)
        super().connection_lost(exc)

    @property
    def waits_for_client(self) -> bool:
        """Whether no whole request is being answered."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def drop(self) -> None:
        """Close the connection at once, without an answer."""
        self._oldest_first.pop(self, None)
        self.connections.discard(self)
        self.transport.abort()

    def _check(self) -> None:
        """Drop a connection that has begun no request since the last check."""
        if self.waits_for_client and self.cycle is self._seen:
            self.drop()
            return
        self._seen = self.cycle
        self._timer = self.loop.call_later(HEAD_TIMEOUT, self._check)


class BoundedServer(uvicorn.Server):
    """Serves an app to strangers. From here on, the garbage collector leaves out what the process has imported.

    :param options: further ones of ``uvicorn.Config``.
    """

    def __init__(self, app: Any, **options: Any) -> None:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            loop="asyncio",
            lifespan="off",
            ws="none",
            limit_concurrency=_MAX_REQUESTS,
            timeout_keep_alive=KEEP_ALIVE,
            **options,
        )
        config.load()
        super().__init__(config)
        # What was imported stays until the process ends. Not in `startup`, in which no connection is accepted yet.
        gc.collect()
        gc.freeze()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, with enough open files."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        if self.config.ssl:
            loop: Any = asyncio.get_running_loop()
            loop.create_server = partial(loop.create_server, ssl_handshake_timeout=HANDSHAKE_TIMEOUT)
        await super().startup(sockets)
