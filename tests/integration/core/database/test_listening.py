"""A connection hears of changes, or says that it does not; and leaves no pooler with what no one hears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.database.listening import listen
from tests.pgbouncer import POOL_SIZE, busy, pgbouncer

CHANNELS = "kettle", "toaster"


async def connect(conninfo: dict[str, Any]) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(**conninfo, autocommit=True)


def notify(conninfo: dict[str, Any], *channels: str) -> None:
    with psycopg.connect(**conninfo, autocommit=True) as other:
        for channel in channels:
            other.execute(f"NOTIFY {channel}, '7'")


def channels_of_all_sessions(through: dict[str, Any]) -> Iterator[str]:
    """What the sessions of a pooler listen to: all of them, since as many clients as there are have one at a time."""
    with ExitStack() as stack:
        for _ in range(POOL_SIZE):
            client = stack.enter_context(psycopg.connect(**through, prepare_threshold=None))
            yield from (channel for (channel,) in client.execute("SELECT pg_listening_channels()"))


async def heard(connection: psycopg.AsyncConnection[Any]) -> list[tuple[str, str]]:
    return [(each.channel, each.payload) async for each in connection.notifies(timeout=10, stop_after=2)]


@pytest.mark.parametrize("pooled", [False, True])
async def test_notifications_of_every_channel_come_from_the_server_and_through_a_pooler_in_session_mode(
    conninfo: dict[str, Any], pooled: bool
) -> None:
    with pgbouncer(conninfo, "session") as through:
        used = through if pooled else conninfo
        async with await connect(used) as connection:
            assert await listen(connection, used, *CHANNELS)
            notify(conninfo, *CHANNELS)
            assert await heard(connection) == [(channel, "7") for channel in CHANNELS]


@pytest.mark.parametrize("clients", [nullcontext, busy])
async def test_a_pooler_in_transaction_mode_is_left_with_no_session_that_listens(
    conninfo: dict[str, Any], clients: Callable[[dict[str, Any]], AbstractContextManager[Any]]
) -> None:
    with pgbouncer(conninfo) as through, clients(through):
        async with await connect(through) as connection:
            assert not await listen(connection, through, *CHANNELS)
            assert connection.prepare_threshold is None
            assert list(channels_of_all_sessions(through)) == []


async def test_a_connection_that_is_set_to_prepare_statements_goes_on_preparing_them(conninfo: dict[str, Any]) -> None:
    with pgbouncer(conninfo) as through:
        own = {**through, "prepare_threshold": 5}
        async with await connect(own) as connection:
            assert not await listen(connection, own, *CHANNELS)
            assert connection.prepare_threshold == 5
