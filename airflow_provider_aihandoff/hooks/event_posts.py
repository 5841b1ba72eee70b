"""From the configuration to what a deliverer of events needs: the hosts that are listed, and the secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from airflow.providers.common.compat.connection import get_async_connection

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.errors import SubscriptionRefused
from airflow_provider_aihandoff.core.event_delivery.address import AllowedHosts, checked_address
from airflow_provider_aihandoff.core.event_delivery.deliver import SecretsOf
from airflow_provider_aihandoff.core.event_delivery.post import Answered, post_event
from airflow_provider_aihandoff.core.event_delivery.subscription import (
    NOT_RECORDED,
    WantedSubscription,
    checked_subscription,
)
from airflow_provider_aihandoff.hooks.webhook_secrets import configured_conn_ids, secrets_in

#: Seconds for which a trigger waits for a connection.
_SECRETS_WITHIN = 10.0


def allowed_hosts() -> AllowedHosts:
    """The hosts to which events may be sent, as they are configured.

    :raises AddressRefused: an entry is not a host.
    """
    return AllowedHosts.of(settings.names("event_hosts"), settings.names("event_internal_hosts"))


def post_to_listed(url: str, headers: Mapping[str, str], body: bytes) -> Answered:
    """Send an event, if its host is listed now: see :func:`post_event`."""
    return post_event(url, headers, body, allowed=allowed_hosts())


def secrets_over(loop: asyncio.AbstractEventLoop) -> SecretsOf:
    """Reads secrets for threads of a trigger, on its event loop: Airflow lets no other thread ask for connections."""

    def secrets_of(conn_id: str) -> Sequence[object]:
        return asyncio.run_coroutine_threadsafe(_read_secrets(conn_id), loop).result(_SECRETS_WITHIN)

    return secrets_of


async def _read_secrets(conn_id: str) -> Sequence[object]:
    return secrets_in(await get_async_connection(conn_id))


def check_wanted(wanted: WantedSubscription) -> None:
    """Return when a subscription may be made as it is wanted.

    :raises SubscriptionRefused: its host is not listed, or its secrets are those that verify webhooks.
    """
    checked_subscription(wanted)
    checked_address(wanted.url, allowed_hosts())
    if wanted.secret_conn_id in configured_conn_ids():
        raise SubscriptionRefused(
            f"the connection {wanted.secret_conn_id!r} has the secrets by which webhooks are verified: a receiver of "
            "events that knew them could forge webhooks.",
            written=NOT_RECORDED,
            remedy="Use a connection for these secrets alone.",
        )
