"""OpenAI's client for threads that send many requests at the same time: several of it, each with few connections.

Before and after each request, the connection pool of a client asks every idle connection whether it was closed, and
lets one thread do that at a time. With some thirty connections in one pool, threads wait for each other more than for
the server.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from openai import DefaultHttpxClient, OpenAI
from openai.resources.responses import Responses

#: How many requests one client sends at the same time, before there is another one.
_EACH = 4


class Clients:
    """A client, and others like it with connections of their own, as many as are needed. Safe to share by threads.

    :param first: with its credentials, address and time-outs, which the others share.
    """

    def __init__(self, first: OpenAI) -> None:
        self._clients = [first]
        self._opened: list[DefaultHttpxClient] = []
        self._sending = [0]
        self._lock = threading.Lock()

    @contextmanager
    def responses(self) -> Iterator[Responses]:
        """OpenAI's API of responses, for one request: by the client that has the fewest under way."""
        with self._lock:
            place = min(range(len(self._sending)), key=self._sending.__getitem__)
            if self._sending[place] >= _EACH:
                place = self._open()
            self._sending[place] += 1
        try:
            yield self._clients[place].responses
        finally:
            with self._lock:
                self._sending[place] -= 1

    def close(self) -> None:
        """Close the connections of all but the first."""
        for opened in self._opened:
            opened.close()

    def _open(self) -> int:
        opened = DefaultHttpxClient()
        self._opened.append(opened)
        self._clients.append(self._clients[0].copy(http_client=opened))
        self._sending.append(0)
        return len(self._clients) - 1
