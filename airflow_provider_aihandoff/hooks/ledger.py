"""From the Airflow connection of the ledger to a :class:`Ledger`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.arguments import identifier
from airflow_provider_aihandoff.core.limits import API_SERVER, TRIGGERER, WORKER, Limits
from airflow_provider_aihandoff.hooks.observability import observe

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_aihandoff.core.ledger import Ledger

#: Connections that one process opens to a ledger at most, where several threads share it.
SHARED_POOL_SIZE = 4

#: Seconds that its threads wait for a connection: they also answer others, who have nothing to do with the ledger.
SHARED_TIMEOUT = 3.0


class LedgerHook(BaseHook):
    """Open the ledger that a connection of the type Postgres names.

    Host, port, login, password and schema (the database) have their usual meaning; what stands in the extra and is a
    parameter of libpq (``sslmode``, ``sslrootcert``, ``options``, ``target_session_attrs``, ...) is handed to libpq.
    ``prepare_threshold`` in the extra is psycopg's: null prepares no statements.

    :param ledger_conn_id: the connection; by default ``[aihandoff] ledger_conn_id``.
    :param limits: the time-outs of this kind of process; by default a worker's.
    :raises RequestError: it is no name of a connection.
    """

    conn_name_attr = "ledger_conn_id"
    default_conn_name = "aihandoff_ledger"
    conn_type = "postgres"
    hook_name = "AI Handoff ledger"

    def __init__(self, ledger_conn_id: str | None = None, *, limits: Limits | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        named = settings.text("ledger_conn_id") if ledger_conn_id is None else ledger_conn_id
        self.ledger_conn_id = identifier("ledger_conn_id", named)
        self._limits = limits or WORKER

    def get_conn(self, max_size: int = 1) -> Ledger:
        """Open the ledger and check its schema. The caller closes it, or uses it as a context manager.

        :param max_size: the most connections that it opens.
        :raises AirflowNotFoundException: there is no such connection.
        :raises LedgerUnavailable: the database cannot be reached.
        :raises LedgerSchemaError: the schema is not the one that this package needs.
        """
        from airflow_provider_aihandoff.core.ledger import Ledger

        observe(in_task=self._limits is WORKER)
        key = settings.text("digest_key")
        return _checked(Ledger(self.conninfo(), max_size=max_size, limits=self._limits, digest_key=key))

    def conninfo(self) -> dict[str, Any]:
        """libpq's connection parameters, by name."""
        return libpq_parameters(self.get_connection(self.ledger_conn_id))


def libpq_parameters(connection: Connection) -> dict[str, Any]:
    """libpq's parameters of an Airflow connection of the type Postgres.

    :raises ValueError: the connection is of another type.
    """
    from psycopg import pq

    if connection.conn_type not in ("postgres", "postgresql"):
        raise ValueError(
            f"The ledger's connection {connection.conn_id!r} is of the type {connection.conn_type!r}; it must be "
            "'postgres'. No external write was made. Fix the connection, then retry."
        )
    known = {"prepare_threshold", *(option.keyword.decode() for option in pq.Conninfo.get_defaults())}
    extra = {name: value for name, value in connection.extra_dejson.items() if name in known}
    own = {
        "host": connection.host,
        "port": connection.port,
        "user": connection.login,
        "password": connection.password,
        "dbname": connection.schema,
    }
    return {**extra, **{name: value for name, value in own.items() if value}}


_shared: dict[str, Ledger] = {}
_shared_lock = threading.Lock()


def shared_ledger(ledger_conn_id: str | None = None) -> Ledger:
    """The one ledger that the threads of an API server share; it is never closed.

    :raises LedgerUnavailable: the database cannot be reached.
    :raises LedgerSchemaError: the schema is not the one that this package needs.
    """
    hook = LedgerHook(ledger_conn_id)
    return _shared.get(hook.ledger_conn_id) or _open_shared(hook.ledger_conn_id, hook.conninfo(), API_SERVER)


async def shared_ledger_async(ledger_conn_id: str) -> Ledger:
    """The one ledger that the triggers of a triggerer share; it is never closed. Nothing blocks the event loop."""
    if ledger_conn_id in _shared:
        return _shared[ledger_conn_id]
    return await asyncio.to_thread(_open_shared, ledger_conn_id, await conninfo_async(ledger_conn_id), TRIGGERER)


async def conninfo_async(ledger_conn_id: str) -> dict[str, Any]:
    """libpq's connection parameters, by name, for a trigger.

    :raises AirflowNotFoundException: there is no such connection.
    """
    return libpq_parameters(await get_async_connection(ledger_conn_id))


def _open_shared(ledger_conn_id: str, conninfo: Mapping[str, Any], limits: Limits) -> Ledger:
    from airflow_provider_aihandoff.core.ledger import Ledger

    observe(in_task=False)
    # Outside the lock: while the server is unavailable, no thread queues behind another one that waits for it.
    key = settings.text("digest_key")
    shared = Ledger(conninfo, max_size=SHARED_POOL_SIZE, timeout=SHARED_TIMEOUT, limits=limits, digest_key=key)
    opened = _checked(shared)
    with _shared_lock:
        kept = _shared.setdefault(ledger_conn_id, opened)
    if kept is not opened:
        opened.close()
    return kept


def _checked(ledger: Ledger) -> Ledger:
    try:
        ledger.check_schema()
    except BaseException:
        ledger.close()
        raise
    return ledger
