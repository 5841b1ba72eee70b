"""OpenAI's clients, one a connection and process, made by Airflow's own hook."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

#: Seconds that one request of :func:`clients` may take.
REQUEST_TIMEOUT = 30.0

#: Per event loop, since a client's connections belong to the loop that opened them.
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Task[AsyncOpenAI]]] = WeakKeyDictionary()


@contextmanager
def clients() -> Iterator[Callable[[str], OpenAI]]:
    """What makes the client of a connection, once each, and closes all of them at the end.

    It raises ``AirflowNotFoundException`` where there is no such connection. The clients' own retries are off.
    """
    with ExitStack() as opened:

        @cache
        def client(conn_id: str) -> OpenAI:
            from airflow.providers.openai.hooks.openai import OpenAIHook

            made = opened.enter_context(OpenAIHook(conn_id).conn)
            return made.with_options(max_retries=0, timeout=REQUEST_TIMEOUT)

        yield client


async def shared_client(conn_id: str) -> AsyncOpenAI:
    """The client that all triggers of this process and connection share.

    :raises AirflowNotFoundException: there is no such connection.
    """
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    if conn_id not in clients:
        clients[conn_id] = asyncio.ensure_future(_open(conn_id))
    try:
        # Shielded: a trigger that is cancelled while it waits does not take the client away from the others.
        return await asyncio.shield(clients[conn_id])
    except Exception:
        clients.pop(conn_id, None)
        raise


async def _open(conn_id: str) -> AsyncOpenAI:
    from airflow.providers.openai.hooks.openai import OpenAIHook

    # The SDK's own retries are off: the trigger has its own, with the deadline in view.
    return (await OpenAIHook(conn_id).aget_conn()).with_options(max_retries=0)


def forget_client(conn_id: str, client: AsyncOpenAI) -> None:
    """Make the next :func:`shared_client` read the connection again: its credentials were refused."""
    clients = _clients.get(asyncio.get_running_loop(), {})
    task = clients.get(conn_id)
    if task is not None and task.done() and not task.cancelled() and task.result() is client:
        del clients[conn_id]
