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


@contextmanager
def stalling(to: tuple[str, int], at: bytes, *, deliver: bool) -> Iterator[int]:
    """A way to a server that stops in the middle, without an end of the connection; yields its port.

    :param at: what the client sends, after which nothing comes back.
    :param deliver: the server still gets that.
    """

    def talk(client: socket.socket) -> None:
        with socket.create_connection(to) as server:
            stalled = threading.Event()

            def back() -> None:
                with suppress(OSError):
                    while (data := server.recv(65536)) and not stalled.is_set():
                        client.sendall(data)

            thread = threading.Thread(target=back, daemon=True)
            thread.start()
            while data := client.recv(65536):
                if at in data:
                    stalled.set()
                if deliver or not stalled.is_set():
                    server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)

    with listening(talk) as port:
        yield port


def silent(connection: socket.socket) -> None:
    """Take everything, and say nothing until the other side ends it."""
    while connection.recv(4096):
        pass
