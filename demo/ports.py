"""Chooses ports of this machine for servers, so that programs that start at the same time do not choose the same."""

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

HOST = "127.0.0.1"
TRIES = 20


def free_port(preferred: int = 0) -> int:
    """Return the preferred port if it is free, else another one.

    :raises OSError: when no port is free.
    """
    for port in (preferred, 0):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind((HOST, port))
            return int(candidate.getsockname()[1])
    raise OSError(f"No port of {HOST} is free.")


@contextmanager
def reserved_port(preferred: int = 0) -> Iterator[int]:
    """Give a free port that no other caller gets, from before the server listens until the context ends.

    The reservation is the UDP port of the same number, which the servers do not use: the kernel gives it to one
    process only, and frees it however that process ends.

    :raises OSError: when no port is free.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reservation:
        yield _reserve(reservation, preferred)


def _reserve(reservation: socket.socket, preferred: int) -> int:
    for attempt in range(TRIES):
        port = free_port(0 if attempt else preferred)
        with contextlib.suppress(OSError):
            reservation.bind((HOST, port))
            return port
    raise OSError(f"No port of {HOST} could be reserved.")
