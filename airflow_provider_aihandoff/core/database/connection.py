"""Transactions on the ledger's database, and what is retried when the database is in sqlstates."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg.rows import DictRow, dict_row, tuple_row
from psycopg.types.array import ListBinaryDumper
from psycopg_pool import ConnectionPool, PoolTimeout

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.database import sqlstates
from airflow_provider_aihandoff.core.error_text import said, strip_detail
from airflow_provider_aihandoff.core.errors import HandoffError, LedgerUnavailable
from airflow_provider_aihandoff.core.limits import WORKER, Limits
from airflow_provider_aihandoff.core.signals import Metric

log = logging.getLogger(__name__)

#: What a transaction knows: its own step. What was done before it, its caller says.
_NOT_RECORDED = "This step was not recorded in the ledger. It makes no external write itself."

T = TypeVar("T")

#: Says in the log, or in the metrics, what a transaction has done.
Signal = Callable[[], None]

#: Keeps elsewhere what a step would record.
Keep = Callable[[], None]

#: The channel on which the ids of jobs are sent that a waiting task may go on with.
WAKE_CHANNEL = "aihandoff"

#: What is notified there: the id of a job. Every user who may connect to the database may send anything.
JOB_ID = re.compile("[0-9]{1,19}")

_WAKE = f"SELECT pg_notify('{WAKE_CHANNEL}', job_id::text) FROM unnest(%s::bigint[]) AS job_id"

BACKEND_PID = "SELECT pg_backend_pid()"

#: Tries of one transaction, the first included, while the server restarts or fails for a reason that passes.
TRANSACTION_TRIES = 5

#: Seconds between two of them, where the server answers.
_RETRY_BASE, _RETRY_CAP = 0.05, 1.0

#: Seconds to wait for a connection before a transaction counts as failed.
CONNECT_TIMEOUT = 10.0

#: Seconds after which the pool starts its attempts to connect from the beginning. It doubles the time between them:
#: without this, a server that was unavailable for minutes would be found again only minutes after it is back.
_RECONNECT_TIMEOUT = 5.0

#: Seconds after which one connection is closed, where not all of them were used meanwhile.
_MAX_IDLE = 30.0

#: Seconds for which a connection that worked is used again without asking the server first.
_TRUSTED = 1.0

#: Seconds for which a step that must not be lost is tried again: it records an external call that has been made.
PATIENCE = 60.0

#: Seconds between two tries of such a step.
_PERSIST_BASE, _PERSIST_CAP = 0.25, 5.0

#: Of every connection to the ledger, unless its Airflow connection says otherwise.
CONNECTION_DEFAULTS: Mapping[str, Any] = {
    "application_name": "aihandoff",
    "connect_timeout": 5,
    # A peer that vanished is noticed in about a minute, not after the two hours of the system's default.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    # A standby is no ledger. With several hosts, libpq finds the one that takes writes.
    "target_session_attrs": "read-write",
}


class LedgerConnection(psycopg.Connection[DictRow]):
    """A connection that remembers what its transaction did that others hear of once it is committed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # An array of long texts, such as JSON, costs a fiftieth of the time that it takes to write it as a text.
        self.adapters.register_dumper(list, ListBinaryDumper)
        self.woken: set[int] = set()
        """The jobs that it moved in a way that a task may wait for."""
        self.signals: list[Signal] = []
        """What the log and the metrics say of it."""
        self.worked_at = float("-inf")
        """When a transaction was last committed on it, by the monotonic clock."""

    def said(self) -> tuple[set[int], list[Signal]]:
        """What others would hear of by now, for :meth:`forget`."""
        return set(self.woken), list(self.signals)

    def forget(self, since: tuple[set[int], list[Signal]] | None = None) -> None:
        """Say nothing of what was done: it is rolled back.

        :param since: what :meth:`said` has returned before that; by default all is forgotten.
        """
        self.woken, self.signals = since or (set(), [])

    def count(self, metric: Metric, value: int = 1, /, **labels: object) -> None:
        """Count something once the transaction is committed."""
        self.signals.append(partial(signals.count, metric, value, **labels))

    def timing(self, metric: Metric, seconds: float, /, **labels: object) -> None:
        """Measure something once the transaction is committed."""
        self.signals.append(partial(signals.timing, metric, seconds, **labels))


class Database:
    """A small pool of connections to one ledger, safe to share between threads.

    :param conninfo: libpq's connection parameters by name; no value needs quoting.
    :param max_size: the most connections it opens. It opens none before the first transaction.
    :param timeout: seconds to wait for a connection; by default :data:`CONNECT_TIMEOUT`.
    :param limits: the time-outs of this kind of process.
    """

    def __init__(
        self,
        conninfo: Mapping[str, Any],
        *,
        max_size: int = 1,
        timeout: float | None = None,
        limits: Limits = WORKER,
    ) -> None:
        self._timeout = CONNECT_TIMEOUT if timeout is None else timeout
        self._limits = limits
        self.conninfo = {**CONNECTION_DEFAULTS, **conninfo}
        self._pool: ConnectionPool[LedgerConnection] = ConnectionPool(
            # BEGIN is sent by `_until_commit`, with the limits.
            kwargs={**self.conninfo, "row_factory": dict_row, "autocommit": True},
            connection_class=LedgerConnection,
            min_size=0,
            max_size=max_size,
            num_workers=1,
            timeout=self._timeout,
            reconnect_timeout=_RECONNECT_TIMEOUT,
            max_idle=_MAX_IDLE,
            configure=None if "prepare_threshold" in self.conninfo else _prepare_nothing_through_a_pooler,
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

        Where the connection breaks before COMMIT was sent, or the server rolls the transaction back for a reason that
        passes (:func:`sqlstates.passes`), ``work`` runs again: it must do nothing but SQL. Where the connection breaks
        at COMMIT, it is not known whether it was committed, so it is not run again: the caller's protocol reads the
        ledger and goes on from what it finds.

        :param repeatable: ``work`` recognises that it was committed before and changes nothing then, so that it also
            runs again where COMMIT is in doubt.
        :param step: its name among :data:`airflow_provider_aihandoff.core.crashpoints.STEPS`.
        :raises LedgerUnavailable: no connection or no success within the tries, or the outcome of COMMIT is in doubt.
        :raises HandoffError: what ``work`` raises, and nothing is committed; or what it returns, and the rest of its
            work is committed.
        :raises psycopg.Error: the server refuses it for a reason that does not pass; nothing is committed.
        """
        return self._transact(work, repeatable=repeatable, step=step, patience=self._limits.patience)

    def _transact(
        self,
        work: Callable[[LedgerConnection], T | HandoffError],
        *,
        repeatable: bool,
        step: str | None,
        patience: float,
    ) -> T:
        """:meth:`transact`, with so many seconds for time-outs."""
        began = time.monotonic()
        for tried in range(1, TRANSACTION_TRIES + 1):
            try:
                with self._pool.connection() as connection:
                    self._check(connection)
                    connection.forget()
                    result = self._until_commit(connection, work)
                    reached(step, "before commit")
                    self._commit(connection)
                    reached(step, "after commit")
                    connection.worked_at = time.monotonic()
                    self._wake(connection)
                    said = connection.signals
                for signal in said:
                    signal()
                if isinstance(result, HandoffError):
                    raise result
                return result
            except PoolTimeout as error:
                raise self._no_connection() from error
            except _RolledBack as rolled_back:
                self._try_again(rolled_back.error, tried, time.monotonic() - began, patience)
            except _BrokenAtCommit as broken:
                self._pool.drain()  # the others did not survive either: a server restarts as a whole
                if tried == TRANSACTION_TRIES or not repeatable:
                    raise LedgerUnavailable(
                        "the ledger's connection broke during a commit, so it is not known whether the step was "
                        "recorded.",
                        written="No external write was made after it.",
                        remedy="Retry the task: it reads the ledger and goes on from what it finds.",
                    ) from broken.__cause__
                log.warning("The ledger's connection broke during a commit; running the transaction again.")
        raise AssertionError("unreachable")

    def _try_again(self, error: psycopg.Error, tried: int, seconds: float, patience: float) -> None:
        """Get ready for another try of a transaction that was rolled back.

        :raises LedgerUnavailable: it had all its tries.
        """
        broken = not error.sqlstate or error.sqlstate.startswith(("08", "57P", "25P"))
        if broken or sqlstates.is_read_only(error):
            self._pool.drain()  # the others lead to the same server, which has restarted, or takes no writes
        waited = sqlstates.timed_out(error)
        if tried == TRANSACTION_TRIES or (waited and seconds >= patience):
            what = "broke the connection" if broken else "rolled the step back"
            times = "once" if tried == 1 else f"{tried} times"
            raise LedgerUnavailable(
                f"the ledger's database {what} {times} within {seconds:.0f} s: {sqlstates.describe(error)}.",
                written=_NOT_RECORDED,
                remedy=f"{sqlstates.what_to_do(error)} Then retry the task.",
            ) from error
        log.info("The ledger rolled a transaction back (%s); running it again.", sqlstates.describe(error))
        if not waited:
            time.sleep(backoff(tried, base=_RETRY_BASE, cap=_RETRY_CAP))

    def _no_connection(self) -> LedgerUnavailable:
        return LedgerUnavailable(
            f"the ledger's database gave no connection within {self._timeout:g} s: {self._why_not()}.",
            written=_NOT_RECORDED,
            remedy="Check the ledger's connection and server, then retry the task.",
        )

    def persist(
        self,
        work: Callable[[LedgerConnection], T | HandoffError],
        *,
        step: str | None = None,
        keep: Keep | None = None,
    ) -> T:
        """Run ``work``, which must be repeatable, and wait for a ledger that is unavailable: losing it would cost.

        :param keep: called once, as soon as the ledger cannot take it: keeps elsewhere what would be lost, should this
            process end before the ledger is back.
        :raises LedgerUnavailable: the ledger did not take it within :data:`PATIENCE`, or refuses it for a reason that
            does not pass.
        """
        until, failures = time.monotonic() + PATIENCE, 0
        while True:
            try:
                return self._transact(work, repeatable=True, step=step, patience=0.0)
            except BaseException as error:
                if isinstance(error, HandoffError) and not isinstance(error, LedgerUnavailable):
                    raise
                if not failures and keep is not None:
                    keep()
                failures += 1
                if isinstance(error, psycopg.Error):
                    raise LedgerUnavailable(
                        f"the ledger's database refuses the step: {sqlstates.describe(error)}.",
                        written=_NOT_RECORDED,
                        remedy=f"{sqlstates.what_to_do(error)} Then retry the task.",
                    ) from error
                if not isinstance(error, LedgerUnavailable) or time.monotonic() >= until:
                    raise
                log.warning("Trying again to record a step that must not be lost: %s", error)
            time.sleep(backoff(failures, base=_PERSIST_BASE, cap=_PERSIST_CAP))

    @staticmethod
    def _check(connection: LedgerConnection) -> None:
        """Find out whether the connection still works, unless it did a moment ago.

        Not by the pool, which pauses for longer and longer while it meets dead connections.
        """
        if time.monotonic() - connection.worked_at < _TRUSTED:
            return
        try:
            connection.execute("", prepare=False)
        except psycopg.OperationalError as error:
            raise _RolledBack(error) from error

    def _why_not(self) -> str:
        """What the server answers to a connection that is not from the pool: a wrong password, a refused connection.

        PgBouncer answers also where its own server is gone. It is asked for nothing: that could take minutes.
        """
        try:
            psycopg.connect(**self.conninfo).close()
        except psycopg.Error as error:
            return said(error).rstrip(".")
        return "each of its connections is in use, or the pooler in front of it cannot reach it"

    def _until_commit(self, connection: LedgerConnection, work: Callable[[LedgerConnection], T]) -> T:
        try:
            connection.execute(self._limits.begin(), prepare=False)
            return work(connection)
        except psycopg.Error as error:
            strip_detail(error)  # which quotes rows
            if connection.broken or sqlstates.passes(error):
                raise _RolledBack(error) from error
            if sqlstates.is_of_another_session(error):
                raise LedgerUnavailable(
                    "the ledger's connection prepares statements, and the pooler in front of the server gives each "
                    f"transaction another session: {sqlstates.describe(error)}.",
                    written=_NOT_RECORDED,
                    remedy='Put {"prepare_threshold": null} into the extra of the connection, or leave it out.',
                ) from error
            raise

    @staticmethod
    def _commit(connection: LedgerConnection) -> None:
        try:
            connection.commit()
        except psycopg.errors.IdleInTransactionSessionTimeout as error:  # the server had ended it before COMMIT came
            raise _RolledBack(error) from error
        except psycopg.OperationalError as error:
            if not connection.broken and sqlstates.passes(error):  # the server has answered: it is rolled back
                raise _RolledBack(error) from error
            raise _BrokenAtCommit from error

    @staticmethod
    def _wake(connection: LedgerConnection) -> None:
        """Notify those who wait. After the commit, since inside it PostgreSQL would commit one transaction at a time.

        A notification that is lost costs seconds: those who wait also poll the ledger.
        """
        if not connection.woken:
            return
        try:
            connection.execute(_WAKE, [sorted(connection.woken)])
        except psycopg.Error as error:
            problem = type(error).__name__
            log.warning("No notification of a change in the ledger was sent (%s); the next poll sees it.", problem)


def through_pooler(connection: psycopg.Connection[Any]) -> bool:
    """Whether a pooler stands before the server: it has named another process than the one that answers."""
    row = connection.cursor(row_factory=tuple_row).execute(BACKEND_PID).fetchone()
    assert row is not None
    return bool(row[0] != connection.info.backend_pid)


def _prepare_nothing_through_a_pooler(connection: psycopg.Connection[Any]) -> None:
    """A pooler may give each transaction another session, which does not have what this one has prepared."""
    if through_pooler(connection):
        connection.prepare_threshold = None


class _RolledBack(Exception):
    """The transaction was rolled back, or can only be: it may run again."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__()
        self.error = error


class _BrokenAtCommit(Exception):
    """The connection broke when COMMIT may have been carried out."""
