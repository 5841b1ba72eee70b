"""What people were notified of, by the tasks that notify them: each cause once, and that it is over once.

Several runs of a task may be under way, on any hosts. A run claims a notice for a while before it sends it, so that no
other one sends it at the same time. One that dies in between leaves the notice to the next run: then it may be sent a
second time, and is never lost.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection

#: For how long a run may be sending one notice, before another run sends it.
SENDING = timedelta(minutes=2)

_OF_TASK = "dag_id = %(dag_id)s AND task_id = %(task_id)s"
_FIND = """
    INSERT INTO aihandoff.notices (dag_id, task_id, cause, found_by, found_at)
    SELECT %(dag_id)s, %(task_id)s, cause, %(run_id)s, statement_timestamp()
    FROM unnest(%(causes)s::text[]) AS cause ORDER BY cause
    ON CONFLICT DO NOTHING"""
_FORGET = f"""
    DELETE FROM aihandoff.notices
    WHERE {_OF_TASK} AND cause <> ALL(%(causes)s) AND notified_at IS NULL AND send_token IS NULL"""
_DUE = f"""
    SELECT cause, notified_at IS NOT NULL AS notified FROM aihandoff.notices
    WHERE {_OF_TASK} AND CASE WHEN notified_at IS NULL THEN found_by <> %(run_id)s AND cause = ANY(%(causes)s)
        ELSE cause <> ALL(%(causes)s) END
    ORDER BY cause"""
_CLAIM = f"""
    UPDATE aihandoff.notices
    SET send_token = %(token)s, send_until = statement_timestamp() + %(sending)s
    WHERE {_OF_TASK} AND cause = %(cause)s AND (notified_at IS NOT NULL) = %(over)s
        AND (send_until IS NULL OR send_until < statement_timestamp())"""
_NOTIFIED = """
    UPDATE aihandoff.notices
    SET notified_at = statement_timestamp(), send_token = NULL, send_until = NULL WHERE send_token = %(token)s"""
_RELEASED = "UPDATE aihandoff.notices SET send_token = NULL, send_until = NULL WHERE send_token = %(token)s"
_OVER = "DELETE FROM aihandoff.notices WHERE send_token = %(token)s"


@dataclass(frozen=True)
class DueNotice:
    """Something that people are to be notified of.

    :param over: they were notified of it, and it is over.
    """

    cause: str
    over: bool


@dataclass(frozen=True)
class Claim:
    """The permission of one run to send one notice."""

    notice: DueNotice
    token: UUID


class Notices:
    """What people were notified of, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, dag_id: str, task_id: str, run_id: str, causes: Collection[str]) -> list[DueNotice]:
        """Record what a run of a task has found, and return what is due.

        A cause is due once two runs have found it, since much of it ends by itself within minutes. One that ends before
        is forgotten. Safe to repeat, in the same run too: its retries and clears count as one.

        :param causes: the names of the causes that there are now.
        """
        values = {"dag_id": dag_id, "task_id": task_id, "run_id": run_id, "causes": sorted(causes)}

        def work(connection: LedgerConnection) -> list[DueNotice]:
            connection.execute(_FIND, values)
            connection.execute(_FORGET, values)
            rows = connection.execute(_DUE, values).fetchall()
            return [DueNotice(row["cause"], row["notified"]) for row in rows]

        return self._database.transact(work, repeatable=True, step="notice.find")

    def claim(self, dag_id: str, task_id: str, notice: DueNotice, *, sending: timedelta = SENDING) -> Claim | None:
        """Take the permission to send one notice; None where another run has it, or has sent it."""
        token = uuid4()
        values = {
            "dag_id": dag_id,
            "task_id": task_id,
            "cause": notice.cause,
            "over": notice.over,
            "token": token,
            "sending": sending,
        }
        rows = self._database.transact(
            lambda connection: connection.execute(_CLAIM, values).rowcount, step="notice.claim"
        )
        return Claim(notice, token) if rows else None

    def sent(self, claim: Claim, *, sent: bool) -> None:
        """Record that people were notified, or that no one was, and the next run has to.

        It changes nothing where the permission has lapsed and another run has taken it.
        """
        statement = (_OVER if claim.notice.over else _NOTIFIED) if sent else _RELEASED
        self._database.transact(
            lambda connection: connection.execute(statement, {"token": claim.token}) and None,
            repeatable=True,
            step="notice.sent",
        )
