"""The connections whose webhooks are taken, and their secrets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.webhooks.keys import NoConnection

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

#: The key in an OpenAI connection's extra: one secret, or a list of them while they are rotated.
SECRETS_KEY = "webhook_secrets"


def configured_conn_ids() -> list[str]:
    """The OpenAI connections whose webhooks are taken, as they are configured."""
    return settings.names("webhook_conn_ids")


def read_secrets(conn_id: str) -> Sequence[object]:
    """The webhook secrets of an OpenAI connection, as its extra has them; none where it has none.

    :raises NoConnection: there is no such connection.
    """
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise NoConnection(conn_id) from None
    return secrets_in(connection)


def secrets_in(connection: Connection) -> Sequence[object]:
    """The webhook secrets in the extra of a connection; none where it has none."""
    extra: Any = connection.extra_dejson
    secrets = extra.get(SECRETS_KEY) if isinstance(extra, dict) else None
    if secrets is None:
        return []
    return secrets if isinstance(secrets, list) else [secrets]
