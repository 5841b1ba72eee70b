"""Has a connection hear of changes: PostgreSQL's LISTEN, also where a pooler stands before the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from airflow_provider_aihandoff.core.database.connection import BACKEND_PID, CONNECTION_DEFAULTS

#: Seconds within which an own notification comes back.
_ECHO = 2.0

#: How many times two connections are asked for their sessions, before these count as their own.
_ROUNDS = 10


async def listen(connection: psycopg.AsyncConnection[Any], conninfo: Mapping[str, Any], *channels: str) -> bool:
    """Have a connection notified on some channels, and return whether notifications come.

    A pooler that gives each transaction another session of the server passes none on, and does not have what this
    connection has prepared. Then nothing is prepared on it any more, and it does not listen: a session would go on
    listening in its place, and the pooler would warn of each notification.

    :param connection: one that commits by itself.
    :param conninfo: what it was opened with: libpq's connection parameters by name.
    :raises psycopg.Error: the database fails.
    """
    if await _session_of(connection) == connection.info.backend_pid:
        await _listen(connection, channels)
        return True
    # A pooler has named another process than the one that answers.
    if "prepare_threshold" not in conninfo:
        connection.prepare_threshold = None
    async with await psycopg.AsyncConnection.connect(
        **{**CONNECTION_DEFAULTS, **conninfo, "prepare_threshold": None}, autocommit=True
    ) as other:
        if await _share_sessions(connection, other):
            return False
        await _listen(connection, channels)
        await other.execute("SELECT pg_notify(%s, '')", [channels[0]])
        return bool([notification async for notification in connection.notifies(timeout=_ECHO, stop_after=1)])


async def _listen(connection: psycopg.AsyncConnection[Any], channels: Sequence[str]) -> None:
    for channel in channels:
        await connection.execute(f"LISTEN {channel}")


async def _share_sessions(one: psycopg.AsyncConnection[Any], other: psycopg.AsyncConnection[Any]) -> bool:
    """Whether two connections through a pooler get the same session, or one of them another one than before: a pooler
    gives a session that has just become idle to the next transaction.
    """
    ours, theirs = set[int](), set[int]()
    for _ in range(_ROUNDS):
        ours.add(await _session_of(one))
        theirs.add(await _session_of(other))
        if len(ours) > 1 or ours & theirs:
            return True
    return False


async def _session_of(connection: psycopg.AsyncConnection[Any]) -> int:
    """Which session of the server runs a transaction of a connection."""
    cursor = await connection.cursor(row_factory=tuple_row).execute(BACKEND_PID, prepare=False)
    row = await cursor.fetchone()
    assert row is not None
    session: int = row[0]
    return session
