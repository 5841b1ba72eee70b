"""The one place where clients for OpenAI are made, from Airflow's connections and by Airflow's own hook.

Their own retries are off: the ledger's protocols decide whether it is safe to ask again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_provider_aihandoff import settings

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.generation.bill import Bill
    from airflow_provider_aihandoff.core.generation.openai.tools import ToolPrices
    from airflow_provider_aihandoff.core.generation.provider import (
        AsyncModelProvider,
        ModelProvider,
        ProviderFacts,
        ProviderFor,
    )
    from airflow_provider_aihandoff.core.generation.response_stream import ResponseStream
    from airflow_provider_aihandoff.core.generation.webhook_endpoints import WebhookEndpoints

#: Seconds that one request may take.
REQUEST_TIMEOUT = 30.0

#: The key in an OpenAI connection's extra: true where its server has conversations, which take one response at a time.
CONVERSATIONS_KEY = "conversations"

#: The key in an OpenAI connection's extra: the id of the project that its key belongs to, for the bill.
PROJECT_KEY = "project_id"

#: Per event loop, since a client's connections belong to the loop that opened them.
_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Task[AsyncModelProvider]]] = WeakKeyDictionary()


def facts_for(conn_id: str) -> ProviderFacts:
    """What is known of the provider of a connection without asking it. Reads no connection: one provider ships."""
    from airflow_provider_aihandoff.core.generation.openai.facts import OpenAIFacts

    return OpenAIFacts.with_prices(tool_prices())


def tool_prices() -> ToolPrices:
    """What calls of OpenAI's tools cost, as configured."""
    from airflow_provider_aihandoff.core.generation.openai.tools import ToolPrices

    return ToolPrices.of_text(settings.text("tool_prices"))


@contextmanager
def providers() -> Iterator[ProviderFor]:
    """What makes the provider of a connection, once each, and closes the clients of all of them at the end.

    It reads a connection when it is asked for it, and raises ``AirflowNotFoundException`` where there is none.
    """
    with ExitStack() as opened:

        @cache
        def provider_for(conn_id: str) -> ModelProvider:
            from airflow.providers.openai.hooks.openai import OpenAIHook

            from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider

            hook = OpenAIHook(conn_id)
            client = opened.enter_context(hook.conn)
            conversations = hook.get_connection(conn_id).extra_dejson.get(CONVERSATIONS_KEY, False) is True
            provider = OpenAIProvider(
                client.with_options(timeout=REQUEST_TIMEOUT), conversations=conversations, tool_prices=tool_prices()
            )
            opened.callback(provider.close)
            return provider

        yield provider_for


@contextmanager
def endpoint_api(conn_id: str) -> Iterator[WebhookEndpoints]:
    """The webhook endpoints of the project that the key of a connection belongs to.

    :raises AirflowNotFoundException: there is no such connection.
    """
    from airflow.providers.openai.hooks.openai import OpenAIHook

    from airflow_provider_aihandoff.core.generation.openai.endpoint_api import EndpointApi

    with OpenAIHook(conn_id).conn as client:
        yield EndpointApi(client.with_options(timeout=REQUEST_TIMEOUT))


@contextmanager
def bill_of(conn_id: str) -> Iterator[Bill]:
    """The bill of the organization that the admin key of a connection belongs to.

    :raises AirflowNotFoundException: there is no such connection.
    """
    from airflow.providers.openai.hooks.openai import OpenAIHook

    from airflow_provider_aihandoff.core.generation.openai.costs_api import CostsApi

    with OpenAIHook(conn_id).conn as client:
        yield CostsApi(client.with_options(timeout=REQUEST_TIMEOUT))


def project_of(conn_id: str) -> str | None:
    """The project whose key a connection has, as its extra says; None where it does not, or is not there."""
    from airflow.providers.common.compat.sdk import AirflowNotFoundException
    from airflow.providers.openai.hooks.openai import OpenAIHook

    try:
        named = OpenAIHook.get_connection(conn_id).extra_dejson.get(PROJECT_KEY)
    except AirflowNotFoundException:
        return None
    return named.strip() or None if isinstance(named, str) else None


async def shared_provider(conn_id: str) -> AsyncModelProvider:
    """The provider that all triggers, or all who watch, of this process and connection share.

    :raises AirflowNotFoundException: there is no such connection.
    """
    shared = _shared.setdefault(asyncio.get_running_loop(), {})
    if conn_id not in shared:
        shared[conn_id] = asyncio.ensure_future(_open(conn_id))
    try:
        # Shielded: a trigger that is cancelled while it waits does not take the client away from the others.
        return await asyncio.shield(shared[conn_id])
    except Exception:
        shared.pop(conn_id, None)
        raise


async def _open(conn_id: str) -> AsyncModelProvider:
    from airflow.providers.openai.hooks.openai import OpenAIHook

    from airflow_provider_aihandoff.core.generation.openai.provider import AsyncOpenAIProvider

    client = await OpenAIHook(conn_id).aget_conn()
    return AsyncOpenAIProvider(client.with_options(timeout=REQUEST_TIMEOUT), tool_prices=tool_prices())


async def open_stream(conn_id: str, response_id: str) -> ResponseStream:
    """The stream of a response, for those who watch it in this process.

    :raises AirflowNotFoundException: there is no such connection.
    :raises NotStreamed: its provider has no streams.
    """
    from airflow_provider_aihandoff.core.generation.response_stream import stream_of

    await asyncio.to_thread(load_sdk)
    provider = await shared_provider(conn_id)
    stream = stream_of(provider, response_id)
    stream.on_refused = partial(forget_provider, conn_id, provider)
    return stream


def forget_provider(conn_id: str, provider: AsyncModelProvider) -> None:
    """Make the next :func:`shared_provider` read the connection again: its credentials were refused."""
    shared = _shared.get(asyncio.get_running_loop(), {})
    task = shared.get(conn_id)
    if task is not None and task.done() and not task.cancelled() and task.result() is provider:
        del shared[conn_id]


def load_sdk() -> None:
    """Import what a request needs. For a thread: it takes seconds, and would hold up every trigger of a process."""
    for module in (
        "airflow.providers.openai.hooks.openai",
        "airflow_provider_aihandoff.core.generation.openai.provider",
        "openai.resources.responses",
    ):
        import_module(module)
