"""Servers for tests that talk on a socket as a test says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Talk = Callable[[socket.socket], None]


@contextmanager
def listening(talk: Talk) -> Iterator[int]:
    """A server that talks as the test says on each connection, one after the other; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        talk(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def dripping(text: bytes, rest: bytes = b"x") -> Talk:
    """Answer a byte at a time, and never end.

    :param rest: what comes after the text, time and again.
    """

    def drip(connection: socket.socket) -> None:
        for byte in text + rest * (10_000 // len(rest)):
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    return drip


def silent(connection: socket.socket) -> None:
    """Take everything, and say nothing until the other side ends it."""
    while connection.recv(4096):
        pass
