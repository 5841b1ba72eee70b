"""The limits of money that a provider has said are reached: what one job learned, the whole fleet knows.

A circuit breaker: while the limit of a connection is reached, its jobs are held, and one request at a time finds out,
at growing intervals, whether it still is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from airflow_provider_aihandoff.core.admission.hold import Admitted, Hold
from airflow_provider_aihandoff.core.admission.hold_store import release
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.models import Job, Revision, columns
from airflow_provider_aihandoff.core.text import plain

#: When a request finds out again whether a limit is still reached: at first after so long, then twice as long each
#: time, up to the second.
FIRST_TRY, LAST_TRY = timedelta(minutes=5), timedelta(hours=1)

#: How long the job that is to find out has for that, before any other may: its task may have ended.
TURN = timedelta(minutes=2)


@dataclass(frozen=True)
class SpendingLimit:
    """A limit of money that a provider says is reached.

    :param said: what it answered last.
    :param tries: how many requests got this answer one after the other.
    :param try_at: when the next one may be sent, by ``try_job_id``; :data:`TURN` later, by any job.
    """

    conn_id: str
    said: str
    since: datetime
    tries: int
    try_at: datetime
    try_job_id: int


_READ = f"SELECT {columns(SpendingLimit)} FROM aihandoff.spending_limits WHERE conn_id = %s FOR UPDATE"
_LIST = f"SELECT {columns(SpendingLimit)} FROM aihandoff.spending_limits ORDER BY conn_id"
_REACHED = """
    INSERT INTO aihandoff.spending_limits AS known (conn_id, said, since, tries, try_at, try_job_id)
    VALUES (%(conn_id)s, %(said)s, clock_timestamp(), 1, clock_timestamp() + %(first)s, %(job_id)s)
    ON CONFLICT (conn_id) DO UPDATE SET said = excluded.said, tries = known.tries + 1,
        try_at = clock_timestamp() + least(%(last)s, %(first)s * 2 ^ least(known.tries, 10)),
        try_job_id = excluded.try_job_id
    WHERE known.try_at <= clock_timestamp() + %(turn)s"""
_TRY = """
    UPDATE aihandoff.spending_limits SET try_job_id = %(job_id)s,
        try_at = clock_timestamp() + %(turn)s
    WHERE conn_id = %(conn_id)s"""
#: The job that has waited longest finds out, since the one that was to do so may have ended meanwhile.
_TRY_NOW = f"""
    UPDATE aihandoff.spending_limits AS reached SET try_at = clock_timestamp(), try_job_id = coalesce(
        (SELECT job_id FROM aihandoff.revisions WHERE held_kind = 'spending limit' AND held_name = reached.conn_id
            AND state IN ('queued', 'submitting') ORDER BY held_since LIMIT 1), try_job_id)
    WHERE conn_id = %s RETURNING {columns(SpendingLimit)}"""
_LIFTED = "DELETE FROM aihandoff.spending_limits WHERE conn_id = %s"


def admit(connection: LedgerConnection, job: Job, revision: Revision, *, at: datetime) -> Hold | Admitted:
    """Hold a request back while a limit is reached, unless it is its turn to find out whether that is still so.

    :param at: the database's clock.
    """
    row = connection.execute(_READ, [revision.conn_id]).fetchone()
    if row is None:
        return Admitted()
    limit = SpendingLimit(**row)
    turn = timedelta(0) if limit.try_job_id == job.job_id else TURN
    if at >= limit.try_at + turn:
        connection.execute(_TRY, {"job_id": job.job_id, "conn_id": revision.conn_id, "turn": TURN})
        return Admitted(finds_out=True)
    why = (
        f"OpenAI says that a spending limit of the connection {limit.conn_id} is reached, and each request would get "
        f"the same answer: {limit.said.rstrip('.')}."
    )
    return Hold("spending limit", limit.conn_id, why)


def reached(connection: LedgerConnection, job: Job, revision: Revision, said: str) -> None:
    """Record that the provider has refused a request since a limit of money is reached.

    The refusals of requests that were sent at the same time count as one.
    """
    values = {"conn_id": revision.conn_id, "said": plain(said), "job_id": job.job_id}
    connection.execute(_REACHED, {**values, "first": FIRST_TRY, "last": LAST_TRY, "turn": TURN})


def lifted(connection: LedgerConnection, conn_id: str) -> None:
    """Record that the provider has accepted a request that was to find out, and wake the jobs that are held."""
    if connection.execute(_LIFTED, [conn_id]).rowcount:
        release(connection, "spending limit", conn_id)


class SpendingLimits:
    """The limits of money that are reached, of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self) -> list[SpendingLimit]:
        """Return those that are reached now, as far as is known."""

        def work(connection: LedgerConnection) -> list[SpendingLimit]:
            return [SpendingLimit(**row) for row in connection.execute(_LIST).fetchall()]

        return self._database.transact(work)

    def try_now(self, conn_id: str) -> SpendingLimit | None:
        """Let the next request be sent at once: a person has raised the limit. None where none is reached."""

        def work(connection: LedgerConnection) -> SpendingLimit | None:
            row = connection.execute(_TRY_NOW, [conn_id]).fetchone()
            if row is None:
                return None
            limit = SpendingLimit(**row)
            connection.woken.add(limit.try_job_id)
            return limit

        return self._database.transact(work)
