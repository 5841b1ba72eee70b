"""Where the secrets of webhooks stand: in the extra of a connection of Airflow's database."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from airflow_provider_aihandoff.core.webhooks.signature import Verifier
from airflow_provider_aihandoff.hooks.webhook_secrets import SECRETS_KEY


def is_of_database(conn_id: str, known: Sequence[object]) -> bool:
    """Whether the connection that Airflow uses is the one in its database, and not one before it."""
    if f"AIRFLOW_CONN_{conn_id.upper()}" in os.environ:
        return False
    stored = _in_database(conn_id)
    return stored is not None and _as_list(stored.extra_dejson.get(SECRETS_KEY)) == list(known)


def make(conn_id: str) -> None:
    """Make a connection for secrets alone."""
    from airflow.models import Connection
    from airflow.utils.session import create_session

    with create_session() as session:
        session.add(Connection(conn_id=conn_id, conn_type="generic", description="Signs events of AI Handoff"))


def put_first(conn_id: str, secret: str, *, keep: int | None = None) -> None:
    """Put a new secret before those that a connection has.

    :param keep: how many of the others stay; None: all.
    """
    Verifier([secret])  # what cannot be used is not put before what can
    _change(conn_id, lambda secrets: [secret, *secrets[:keep]])


def keep_newest(conn_id: str) -> None:
    """Remove all secrets of a connection but the first one."""
    _change(conn_id, lambda secrets: secrets[:1])


def _change(conn_id: str, change: Callable[[list[Any]], list[Any]]) -> None:
    from airflow.models import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalars(select(Connection).where(Connection.conn_id == conn_id)).one()
        extra = found.extra_dejson
        found.set_extra(json.dumps({**extra, SECRETS_KEY: change(_as_list(extra.get(SECRETS_KEY)))}))


def _in_database(conn_id: str) -> Any:
    from airflow.models import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.scalar(select(Connection).where(Connection.conn_id == conn_id))
        if found is not None:
            session.expunge(found)
        return found


def _as_list(secrets: Any) -> list[Any]:
    if secrets is None:
        return []
    return list(secrets) if isinstance(secrets, list) else [secrets]
