"""Responses that run, or have run, without a revision that waits for them: which, and that they are settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from airflow_provider_aihandoff.core.budgets import reservation_store
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.generation.lost import SEARCHED_FOR
from airflow_provider_aihandoff.core.models import Actor, Revision
from airflow_provider_aihandoff.core.states import JobEvent

_KEEP = """
    INSERT INTO aihandoff.surplus_responses (response_id, job_id, revision, conn_id, created_at)
    VALUES (%s, %s, %s, %s, clock_timestamp()) ON CONFLICT (response_id) DO NOTHING"""
_OPEN = """
    SELECT response_id, job_id, revision AS number, conn_id, false AS is_current FROM aihandoff.surplus_responses
    WHERE settled_at IS NULL AND created_at < clock_timestamp() - %(grace)s
        AND created_at > clock_timestamp() - %(searched_for)s
    UNION ALL
    SELECT response_id, job_id, number, r.conn_id, true FROM aihandoff.revisions AS r
    JOIN aihandoff.jobs AS j USING (job_id)
    WHERE r.state = 'cancelled' AND response_id IS NOT NULL AND completed_at IS NULL
        AND deadline > clock_timestamp() - %(searched_for)s AND j.updated_at < clock_timestamp() - %(grace)s
    LIMIT %(limit)s"""
_OF_JOB = """
    SELECT response_id, job_id, revision AS number, conn_id, false AS is_current FROM aihandoff.surplus_responses
    WHERE settled_at IS NULL AND job_id = %s"""
_SETTLE = """
    UPDATE aihandoff.surplus_responses SET settled_at = clock_timestamp(), cost_usd = %(cost_usd)s
    WHERE response_id = %(response_id)s AND settled_at IS NULL"""
_SETTLE_CURRENT = """
    UPDATE aihandoff.revisions SET completed_at = clock_timestamp(), cost_usd = coalesce(cost_usd, %(cost_usd)s)
    WHERE response_id = %(response_id)s AND state = 'cancelled' AND completed_at IS NULL"""


@dataclass(frozen=True)
class Surplus:
    """A response that no revision waits for.

    :param number: of the revision that it was created for.
    :param is_current: it is the response of that revision, which was cancelled or replaced.
    """

    response_id: str
    job_id: int
    number: int
    conn_id: str
    is_current: bool


def keep_surplus(
    connection: LedgerConnection, revision: Revision, response_id: str, *, token: UUID | None = None
) -> bool:
    """Write down that a response is to be cancelled, so that it is, whatever dies now. Safe to repeat.

    :param token: of the permission of the request that it answers, if that is known.
    :return: whether that is new.
    """
    kept = connection.execute(_KEEP, [response_id, revision.job_id, revision.number, revision.conn_id])
    reservation_store.name_response(connection, revision.job_id, revision.number, response_id, token=token)
    return kept.rowcount == 1


def mark_settled(
    connection: LedgerConnection,
    revision: Revision,
    response_id: str,
    cost_usd: Decimal | None,
    usage: Mapping[str, Any] | None,
) -> None:
    """Nothing is left to be done about a response, if it was to be cancelled: what it has cost is known.

    :param revision: that it was created for.
    """
    connection.execute(_SETTLE, {"response_id": response_id, "cost_usd": cost_usd})
    reservation_store.settle(connection, revision.job_id, revision.number, response_id, cost_usd, usage=usage)


class SurplusResponses:
    """The responses that no revision waits for, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, grace: timedelta, limit: int) -> list[Surplus]:
        """Return those that nothing has been done about for so long."""
        values = {"grace": grace, "searched_for": SEARCHED_FOR, "limit": limit}
        return self._database.transact(
            lambda connection: [Surplus(**row) for row in connection.execute(_OPEN, values).fetchall()]
        )

    def of_job(self, job_id: int) -> list[Surplus]:
        """Return those of one job that were created beside the response of their revision."""
        return self._database.transact(
            lambda connection: [Surplus(**row) for row in connection.execute(_OF_JOB, [job_id]).fetchall()]
        )

    def settle(self, surplus: Surplus, *, actor: Actor, reason: str, detail: Mapping[str, Any]) -> bool:
        """Record what became of one, once.

        :param detail: what it has cost, as the history keeps it.
        :return: whether it was recorded now.
        """

        def work(connection: LedgerConnection) -> bool:
            job = history.lock(connection, surplus.job_id)
            settle = _SETTLE_CURRENT if surplus.is_current else _SETTLE
            cost_usd = detail.get("cost_usd")
            values = {"response_id": surplus.response_id, "cost_usd": cost_usd}
            if connection.execute(settle, values).rowcount != 1:
                return False
            named = (surplus.job_id, surplus.number, surplus.response_id)
            reservation_store.settle(connection, *named, cost_usd, usage=detail.get("usage"))
            line = {"revision": surplus.number, "response_id": surplus.response_id, **detail}
            history.move(connection, job, JobEvent.OUTPUT_LATE, actor=actor, reason=reason, detail=line)
            return True

        return self._database.transact(work, step="surplus.settle")
