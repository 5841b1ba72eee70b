"""Airflow connections of the outside systems: read once for many writes, and missing where one is about to be used."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_aihandoff.core.errors import EffectNotNow

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

T = TypeVar("T")

#: Seconds for which what was read is used again by the other writes of a set. Airflow may ask its API server, and a
#: vault, for each reading of a connection.
_KEPT = 1.0


class _Kept:
    """What the tasks of this process which write many have read a moment ago."""

    def __init__(self) -> None:
        self._lock, self._users = Lock(), 0
        self._found: dict[Hashable, tuple[float, Any]] = {}

    def use(self, more: int) -> None:
        """One task more, or less, that writes many."""
        with self._lock:
            self._users += more
            if not self._users:
                self._found.clear()

    def once(self, key: Hashable, read: Callable[[], Any]) -> Any:
        """What was read under this key, or is read now."""
        at = time.monotonic()
        kept_at, value = self._found.get(key, (at - _KEPT, None))
        if at - kept_at < _KEPT:
            return value
        value = read()
        with self._lock:
            if self._users:
                self._found[key] = at, value
        return value


_kept = _Kept()


@contextmanager
def kept() -> Iterator[None]:
    """While many writes are planned or made: what each of them needs is read once a second, and not for each."""
    _kept.use(1)
    try:
        yield
    finally:
        _kept.use(-1)


def read(conn_id: str) -> Connection:
    """A connection as Airflow has it.

    :raises AirflowNotFoundException: there is none.
    """
    from airflow.providers.common.compat.sdk import BaseHook

    return once(conn_id, lambda: BaseHook.get_connection(conn_id))


def once(key: Hashable, read: Callable[[], T]) -> T:
    """What a function reads; where many writes are made, what it has read a moment ago for another one.

    :param key: what is read.
    """
    found: T = _kept.once(key, read)
    return found


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
