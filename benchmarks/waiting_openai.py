"""OpenAI's ``GET /v1/responses/{id}`` and nothing else, in as little time as possible, with every request counted.

The stand-in that ships with the package does much more for each request, and would be what limits. Run as
``python -m benchmarks.waiting_openai PORT``. Beside the route of OpenAI there are ``/counts`` and ``/end/{id}``.
"""

from __future__ import annotations

import asyncio
import json
import sys

_PREFIX = "/v1/responses/"
_RESPONSE = {
    "object": "response",
    "created_at": 1,
    "model": "gpt-5.2",
    "background": True,
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
}


class Counts:
    """What was asked for so far, by whom, and which responses have ended."""

    def __init__(self) -> None:
        self.requests = 0
        self.seen: set[str] = set()
        self.ended: set[str] = set()
        self.connections: set[asyncio.BaseTransport] = set()

    def answer(self, path: str, transport: asyncio.BaseTransport) -> dict[str, object]:
        """Answer one request."""
        if path.startswith(_PREFIX):
            response_id = path.removeprefix(_PREFIX)
            self.requests += 1
            self.seen.add(response_id)
            self.connections.add(transport)
            return {**_RESPONSE, "id": response_id, "status": self.status(response_id)}
        if path.startswith("/end/"):
            self.ended.add(path.removeprefix("/end/"))
        return {"requests": self.requests, "seen": len(self.seen), "connections": len(self.connections)}

    def status(self, response_id: str) -> str:
        """What OpenAI says about a response."""
        return "completed" if response_id in self.ended else "in_progress"


class Connection(asyncio.Protocol):
    """One connection, kept alive; requests have no body."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._counts.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        """Answer whatever has arrived in full."""
        self._unread += data
        while b"\r\n\r\n" in self._unread:
            head, _, self._unread = self._unread.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode().partition("?")[0]
            body = json.dumps(self._counts.answer(path, self._transport)).encode()
            lines = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            self._transport.write(lines.encode() + body)


async def serve(port: int) -> None:
    """Listen until the process is ended."""
    counts = Counts()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(counts), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
