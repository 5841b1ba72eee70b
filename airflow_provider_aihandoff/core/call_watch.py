"""The time of one call to a target as a whole.

A time-out of a client library bounds each wait for the next bytes: a target that sends one now and then holds a worker,
and its claim, without end. So the connection is cut when the time of the whole call is over.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from typing import Protocol


class HasFileno(Protocol):
    """A socket, or what has one."""

    def fileno(self) -> int:
        """The number of the open file."""


class CallWatch:
    """The time of one call, and the socket that it ends on.

    :param begin_seconds: within which what is to be written must begin to leave.
    :param call_seconds: after which the connection is cut.
    """

    def __init__(self, begin_seconds: float, call_seconds: float) -> None:
        self.left = False
        self.over = False
        self._begin_until = time.monotonic() + begin_seconds
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._timer = threading.Timer(call_seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def connected(self, connection: HasFileno) -> None:
        """Keep a second handle on the connection: TLS takes the first one."""
        with self._lock:
            self._release()
            self._handle = socket.socket(fileno=os.dup(connection.fileno()))
            if self.over:
                self._shut()

    def begin(self) -> None:
        """What is to be written is about to leave.

        :raises TimeoutError: it took too long to get here, and another attempt may begin before this one ends.
        """
        if not self.left and time.monotonic() >= self._begin_until:
            raise TimeoutError("it took too long to connect")
        self.left = True

    def close(self) -> None:
        """End the watch."""
        self._timer.cancel()
        with self._lock:
            self._release()

    def _cut(self) -> None:
        with self._lock:
            self.over = True
            self._shut()

    def _shut(self) -> None:
        if self._handle is not None:
            with suppress(OSError):  # the other side was faster
                self._handle.shutdown(socket.SHUT_RDWR)

    def _release(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None
