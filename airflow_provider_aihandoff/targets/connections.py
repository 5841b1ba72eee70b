"""Airflow connections of the outside systems, where a write is about to use one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow_provider_aihandoff.core.errors import EffectNotNow


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
