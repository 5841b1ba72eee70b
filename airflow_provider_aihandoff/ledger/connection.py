"""Transactions on the ledger's database, and what is retried when a connection breaks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from airflow_provider_aihandoff.errors import LedgerUnavailable

log = logging.getLogger(__name__)

LedgerConnection = psycopg.Connection[DictRow]
T = TypeVar("T")

#: Tries of one transaction, the first included, while the server restarts.
TRANSACTION_TRIES = 5

#: Seconds to wait for a connection before a transaction counts as failed.
CONNECT_TIMEOUT = 10.0

_DEFAULTS: Mapping[str, Any] = {
    "application_name": "aihandoff",
    "connect_timeout": 5,
    # A peer that vanished is noticed in about a minute, not after the two hours of the system's default.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


class Database:
    """A small pool of connections to one ledger, safe to share between threads.

    :param conninfo: libpq's connection parameters by name; no value needs quoting.
    :param max_size: the most connections it opens. It opens none before the first transaction.
    """

    def __init__(self, conninfo: Mapping[str, Any], *, max_size: int = 1) -> None:
        self.conninfo = {**_DEFAULTS, **conninfo}
        self._pool: ConnectionPool[LedgerConnection] = ConnectionPool(
            kwargs={**self.conninfo, "row_factory": dict_row},
            connection_class=psycopg.Connection[DictRow],
            min_size=0,
            max_size=max_size,
            num_workers=1,
            timeout=CONNECT_TIMEOUT,
            # A connection that a restarted server dropped is replaced here, before anything is sent on it.
            check=ConnectionPool.check_connection,
            open=True,
        )

    def close(self) -> None:
        """Close every connection. Transactions after this fail."""
        self._pool.close()

    def transact(self, work: Callable[[LedgerConnection], T]) -> T:
        """Run ``work`` in one transaction and return what it returns.

        Where the connection breaks before COMMIT was sent, the server has rolled everything back, and ``work`` runs
        again: it must do nothing but SQL. Where it breaks at COMMIT, nobody knows whether the transaction happened,
        so it is not run again: the caller's protocol reads the ledger and goes on from what it finds.

        :raises LedgerUnavailable: no connection within the tries, or the outcome of COMMIT is in doubt.
        """
        for left in range(TRANSACTION_TRIES - 1, -1, -1):
            try:
                with self._pool.connection() as connection:
                    result = self._until_commit(connection, work)
                    self._commit(connection)
                    return result
            except PoolTimeout as error:
                raise LedgerUnavailable(
                    f"the ledger's database did not accept a connection within {CONNECT_TIMEOUT:g} s.",
                    written="Nothing was changed in the ledger, nothing was sent outside by this step.",
                    remedy="Check the ledger's connection and server, then retry the task: that is safe.",
                ) from error
            except _BrokenBeforeCommit as broken:
                if not left:
                    raise LedgerUnavailable(
                        f"the ledger's database broke the connection {TRANSACTION_TRIES} times: "
                        f"{type(broken.__cause__).__name__}.",
                        written="Nothing was changed in the ledger, nothing was sent outside by this step.",
                        remedy="Check the database server, then retry the task: that is safe.",
                    ) from broken.__cause__
                log.warning("The ledger's connection broke before a commit; running the transaction again.")
        raise AssertionError("unreachable")

    @staticmethod
    def _until_commit(connection: LedgerConnection, work: Callable[[LedgerConnection], T]) -> T:
        try:
            return work(connection)
        except psycopg.OperationalError as error:
            if connection.broken:
                raise _BrokenBeforeCommit from error
            raise

    @staticmethod
    def _commit(connection: LedgerConnection) -> None:
        try:
            connection.commit()
        except psycopg.OperationalError as error:
            raise LedgerUnavailable(
                "the ledger's connection broke during a commit, so it is not known whether the step was recorded.",
                written="Nothing was sent outside after it.",
                remedy="Retry the task: it reads the ledger and goes on from what it finds.",
            ) from error


class _BrokenBeforeCommit(Exception):
    """The connection broke while the transaction could still only be rolled back."""
