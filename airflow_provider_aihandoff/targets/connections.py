"""Airflow connections of the outside systems: read once for many writes, and missing where a write is about to use one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.errors import EffectNotNow

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

#: Seconds for which a connection that was read is used again by the other writes of a set. Airflow may ask its API
#: server, and a vault, for each reading.
_KEPT = 1.0


class _Kept:
    """The connections that the tasks of this process which write many have read a moment ago."""

    def __init__(self) -> None:
        self._lock, self._users = Lock(), 0
        self._found: dict[str, tuple[float, Connection]] = {}

    def use(self, more: int) -> None:
        """One task more, or less, that writes many."""
        with self._lock:
            self._users += more
            if not self._users:
                self._found.clear()

    def read(self, conn_id: str) -> Connection:
        from airflow.providers.common.compat.sdk import BaseHook

        found = self._found.get(conn_id) if self._users else None
        if found is not None and time.monotonic() - found[0] < _KEPT:
            return found[1]
        asked, connection = time.monotonic(), BaseHook.get_connection(conn_id)
        with self._lock:
            if self._users:
                self._found[conn_id] = asked, connection
        return connection


_kept = _Kept()


@contextmanager
def kept() -> Iterator[None]:
    """While many writes are planned or made: each connection is read at most once a second, and not for each write."""
    _kept.use(1)
    try:
        yield
    finally:
        _kept.use(-1)


def read(conn_id: str) -> Connection:
    """A connection as Airflow has it.

    :raises AirflowNotFoundException: there is none.
    """
    return _kept.read(conn_id)


@contextmanager
def needed(conn_id: str, name: str) -> Iterator[None]:
    """Say of a connection that is missing here that nothing was sent, so that no one has to find that out.

    :param name: the effect's name, for messages.
    :raises EffectNotNow: there is no such connection.
    """
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    try:
        yield
    except AirflowNotFoundException as error:
        raise EffectNotNow(
            f"the connection {conn_id!r} of the effect {name!r} is not defined here.",
            answered=False,
            remedy="Define it where this runs; a retry is safe.",
        ) from error
