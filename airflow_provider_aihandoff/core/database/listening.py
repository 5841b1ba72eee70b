"""Has a connection hear of changes: PostgreSQL's LISTEN, also where a pooler stands before the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from airflow_provider_aihandoff.core.database.connection import BACKEND_PID, CONNECTION_DEFAULTS

#: Seconds within which an own notification comes back.
_ECHO = 2.0

#: After how many transactions the session that listens is given up, if none of them was in it.
_SESSIONS = 20


async def listen(connection: psycopg.AsyncConnection[Any], conninfo: Mapping[str, Any], *channels: str) -> bool:
    """Have a connection notified on some channels, and return whether notifications come.

    A pooler that gives each transaction another session of the server passes none on, and does not have what this
    connection has prepared. Then nothing is prepared on it any more, and no session goes on listening in its place.

    :param connection: one that commits by itself.
    :param conninfo: what it was opened with: libpq's connection parameters by name.
    :raises psycopg.Error: the database fails.
    """
    cursor = connection.cursor(row_factory=tuple_row)
    async with connection.transaction():
        for channel in channels:
            await cursor.execute(f"LISTEN {channel}")
        session = await _session_of(cursor)
    if session == connection.info.backend_pid:  # a pooler has named another process than the one that answers
        return True
    if "prepare_threshold" not in conninfo:
        connection.prepare_threshold = None
    async with await psycopg.AsyncConnection.connect(
        **{**CONNECTION_DEFAULTS, **conninfo, "prepare_threshold": None}, autocommit=True
    ) as other:
        await other.execute("SELECT pg_notify(%s, '')", [channels[0]])
    if [notification async for notification in connection.notifies(timeout=_ECHO, stop_after=1)]:
        return True
    # The pooler would warn of each notification that this session has for no client.
    for _ in range(_SESSIONS):
        async with connection.transaction():
            await cursor.execute("UNLISTEN *")
            if await _session_of(cursor) == session:
                break
    return False


async def _session_of(cursor: psycopg.AsyncCursor[tuple[Any, ...]]) -> Any:
    """Which session of the server runs this transaction."""
    row = await (await cursor.execute(BACKEND_PID)).fetchone()
    assert row is not None
    return row[0]
