"""Transactions on the ledger's database, and what is retried when a connection breaks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.error_text import said, strip_detail
from airflow_provider_aihandoff.core.errors import HandoffError, LedgerUnavailable

log = logging.getLogger(__name__)

_NOTHING_DONE = "This step changed nothing in the ledger and made no external write."

T = TypeVar("T")

#: The channel on which the ids of jobs are sent that a waiting task may go on with.
WAKE_CHANNEL = "aihandoff"

_WAKE = f"SELECT pg_notify('{WAKE_CHANNEL}', job_id::text) FROM unnest(%s::bigint[]) AS job_id"

#: Tries of one transaction, the first included, while the server restarts.
TRANSACTION_TRIES = 5

#: Seconds to wait for a connection before a transaction counts as failed.
CONNECT_TIMEOUT = 10.0

#: Seconds after which the pool starts its attempts to connect from the beginning. It doubles the time between them:
#: without this, a server that was unavailable for minutes would be found again only minutes after it is back.
_RECONNECT_TIMEOUT = 5.0

#: Seconds for which a connection that worked is used again without asking the server first.
_TRUSTED = 1.0

#: Seconds for which a step that must not be lost is tried again: it records an external call that has been made.
PATIENCE = 60.0

#: Seconds for which a transaction may be idle between two statements before the server ends it: a process that is
#: stopped in the middle of one keeps a lock that others wait for.
IDLE_LIMIT = 10.0

#: Of every connection to the ledger, unless its Airflow connection says otherwise.
CONNECTION_DEFAULTS: Mapping[str, Any] = {
    "application_name": "aihandoff",
    "connect_timeout": 5,
    # A peer that vanished is noticed in about a minute, not after the two hours of the system's default.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


class LedgerConnection(psycopg.Connection[DictRow]):
    """A connection that remembers which jobs its transaction moved in a way that a task may wait for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.woken: set[int] = set()
        self.worked_at = float("-inf")
        """When a transaction was last committed on it, by the monotonic clock."""


class Database:
    """A small pool of connections to one ledger, safe to share between threads.

    :param conninfo: libpq's connection parameters by name; no value needs quoting.
    :param max_size: the most connections it opens. It opens none before the first transaction.
    :param timeout: seconds to wait for a connection; by default :data:`CONNECT_TIMEOUT`.
    """

    def __init__(self, conninfo: Mapping[str, Any], *, max_size: int = 1, timeout: float | None = None) -> None:
        self._timeout = CONNECT_TIMEOUT if timeout is None else timeout
        self.conninfo = {**CONNECTION_DEFAULTS, **conninfo}
        self._pool: ConnectionPool[LedgerConnection] = ConnectionPool(
            kwargs={**self.conninfo, "row_factory": dict_row},
            connection_class=LedgerConnection,
            min_size=0,
            max_size=max_size,
            num_workers=1,
            timeout=self._timeout,
            reconnect_timeout=_RECONNECT_TIMEOUT,
            configure=_limit_idle_time,
            open=True,
        )

    def close(self) -> None:
        """Close every connection. Transactions after this fail."""
        self._pool.close()

    def transact(
        self, work: Callable[[LedgerConnection], T | HandoffError], *, repeatable: bool = False, step: str | None = None
    ) -> T:
        """Run ``work`` in one transaction and return what it returns; raise an error that it returns after the
        commit.

        Where the connection breaks before COMMIT was sent, the server has rolled everything back, and ``work`` runs
        again: it must do nothing but SQL. Where it breaks at COMMIT, it is not known whether it was committed,
        so it is not run again: the caller's protocol reads the ledger and goes on from what it finds.

        :param repeatable: ``work`` recognises that it was committed before and changes nothing then, so that it also
            runs again where COMMIT is in doubt.
        :param step: its name among :data:`airflow_provider_aihandoff.core.crashpoints.STEPS`.
        :raises LedgerUnavailable: no connection within the tries, or the outcome of COMMIT is in doubt.
        :raises HandoffError: what ``work`` raises, and nothing is committed; or what it returns, and the rest of its
            work is committed.
        """
        for left in range(TRANSACTION_TRIES - 1, -1, -1):
            try:
                with self._pool.connection() as connection:
                    self._check(connection)
                    connection.woken.clear()
                    result = self._until_commit(connection, work)
                    reached(step, "before commit")
                    self._commit(connection)
                    reached(step, "after commit")
                    connection.worked_at = time.monotonic()
                    self._wake(connection)
                if isinstance(result, HandoffError):
                    raise result
                return result
            except PoolTimeout as error:
                raise LedgerUnavailable(
                    f"the ledger's database gave no connection within {self._timeout:g} s: {self._why_not()}.",
                    written=_NOTHING_DONE,
                    remedy="Check the ledger's connection and server, then retry the task: that is safe.",
                ) from error
            except _BrokenBeforeCommit as broken:
                self._pool.drain()  # the others did not survive either: a server restarts as a whole
                if not left:
                    raise LedgerUnavailable(
                        f"the ledger's database broke the connection {TRANSACTION_TRIES} times: "
                        f"{type(broken.__cause__).__name__}.",
                        written=_NOTHING_DONE,
                        remedy="Check the database server, then retry the task: that is safe.",
                    ) from broken.__cause__
                log.info("The ledger's connection broke before a commit; running the transaction again.")
            except _BrokenAtCommit as broken:
                self._pool.drain()  # the others did not survive either: a server restarts as a whole
                if not left or not repeatable:
                    raise LedgerUnavailable(
                        "the ledger's connection broke during a commit, so it is not known whether the step was "
                        "recorded.",
                        written="No external write was made after it.",
                        remedy="Retry the task: it reads the ledger and goes on from what it finds.",
                    ) from broken.__cause__
                log.warning("The ledger's connection broke during a commit; running the transaction again.")
        raise AssertionError("unreachable")

    def persist(self, work: Callable[[LedgerConnection], T | HandoffError], *, step: str | None = None) -> T:
        """Run ``work``, which must be repeatable, and wait for a ledger that is unavailable: losing it would cost.

        :raises LedgerUnavailable: the ledger did not come back within :data:`PATIENCE`.
        """
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return self.transact(work, repeatable=True, step=step)
            except LedgerUnavailable as error:
                if time.monotonic() >= until:
                    raise
                log.warning("Trying again to record a step that must not be lost: %s", error)

    @staticmethod
    def _check(connection: LedgerConnection) -> None:
        """Find out whether the connection still works, unless it did a moment ago.

        Not by the pool, which pauses for longer and longer while it meets dead connections.
        """
        if time.monotonic() - connection.worked_at < _TRUSTED:
            return
        try:
            ConnectionPool.check_connection(connection)
        except psycopg.OperationalError as error:
            raise _BrokenBeforeCommit from error

    def _why_not(self) -> str:
        """What the server answers to a connection that is not from the pool: a wrong password, a refused connection."""
        try:
            psycopg.connect(**self.conninfo).close()
        except psycopg.Error as error:
            return said(error).rstrip(".")
        return "each of its connections is in use"

    @staticmethod
    def _until_commit(connection: LedgerConnection, work: Callable[[LedgerConnection], T]) -> T:
        try:
            return work(connection)
        except psycopg.Error as error:
            strip_detail(error)  # which quotes rows
            if connection.broken:
                raise _BrokenBeforeCommit from error
            raise

    @staticmethod
    def _commit(connection: LedgerConnection) -> None:
        try:
            connection.commit()
        except psycopg.errors.IdleInTransactionSessionTimeout as error:  # the server had ended it before COMMIT came
            raise _BrokenBeforeCommit from error
        except psycopg.OperationalError as error:
            raise _BrokenAtCommit from error

    @staticmethod
    def _wake(connection: LedgerConnection) -> None:
        """Notify those who wait. After the commit, since inside it PostgreSQL would commit one transaction at a time.

        A notification that is lost costs seconds: those who wait also poll the ledger.
        """
        if not connection.woken:
            return
        try:
            connection.autocommit = True
            connection.execute(_WAKE, [sorted(connection.woken)])
        except psycopg.Error as error:
            problem = type(error).__name__
            log.warning("No notification of a change in the ledger was sent (%s); the next poll sees it.", problem)
        finally:
            if not connection.closed:
                connection.autocommit = False


def _limit_idle_time(connection: psycopg.Connection[Any]) -> None:
    value = f"{round(1000 * IDLE_LIMIT)}ms"
    connection.execute("SELECT set_config('idle_in_transaction_session_timeout', %s, false)", [value])
    connection.commit()


class _BrokenBeforeCommit(Exception):
    """The connection broke while the transaction could still only be rolled back."""


class _BrokenAtCommit(Exception):
    """The connection broke when COMMIT may have been carried out."""
