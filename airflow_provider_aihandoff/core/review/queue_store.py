"""Reads the review queue as a whole, however long it is: in groups of like jobs, and what their outputs and plans hold.

Who may decide is not asked here: :mod:`core.review.rules` says it of each group. SQL looks into no content: it may
hold what PostgreSQL keeps as JSON, and cannot unescape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.jobs.of_run import OF_RUN
from airflow_provider_aihandoff.core.models import Actor, QueueGroup
from airflow_provider_aihandoff.core.review.decide import VOTERS
from airflow_provider_aihandoff.core.review.rules import distinct

#: Jobs whose content is read by one statement.
_AT_ONCE = 1_000

#: Bytes of an output, as the database stores it, up to which it is read together with those of thousands of others.
MAX_STORED = 4_000

#: What the jobs of a group have in common: all that decides who may decide, and more.
_COMMON = (
    "dag_id, run_id, job_type, requested_by, triggered_by, review::text, reassigned::text, voters, "
    "escalated_at IS NOT NULL, review_digest IS NOT NULL"
)
_GROUPS = f"""
    SELECT dag_id, run_id, job_type, requested_by, triggered_by, review::text::json AS review,
        reassigned::text::json AS reassigned, voters::json AS voters, min(escalated_at) AS escalated_at,
        review_digest IS NOT NULL AS planned, array_agg(job_id) AS job_ids, array_agg(place) AS places,
        CASE WHEN %(digests)s THEN array_agg(review_digest) END AS digests
    FROM (
        SELECT jobs.*, ({VOTERS})::text AS voters, row_number() OVER (ORDER BY created_at, job_id) AS place
        FROM aihandoff.jobs
        WHERE state = 'review' AND (%(dag_ids)s::text[] IS NULL OR dag_id = ANY(%(dag_ids)s)) AND {{of_run}}
            AND (%(set_id)s::bigint IS NULL OR set_id = %(set_id)s)
    ) AS waiting
    GROUP BY {_COMMON}"""
_OUTPUTS = """
    SELECT jobs.job_id, jobs.review_digest, pg_column_size(r.output) > %(max_stored)s AS large,
        CASE WHEN pg_column_size(r.output) <= %(max_stored)s THEN r.output END AS output
    FROM aihandoff.jobs JOIN aihandoff.revisions AS r ON r.job_id = jobs.job_id AND r.number = jobs.revision
    WHERE jobs.job_id = ANY(%(job_ids)s) AND jobs.state = 'review'"""
_PLANS = """
    SELECT jobs.job_id, jobs.review_digest, e.name, e.kind, e.plan
    FROM aihandoff.jobs LEFT JOIN aihandoff.effects AS e
        ON e.job_id = jobs.job_id AND e.revision = jobs.revision AND e.undoes IS NULL
    WHERE jobs.job_id = ANY(%(job_ids)s) AND jobs.state = 'review'
    ORDER BY jobs.job_id, e.position"""
_WRITES = """
    SELECT e.kind, count(*) AS writes
    FROM aihandoff.jobs JOIN aihandoff.effects AS e
        ON e.job_id = jobs.job_id AND e.revision = jobs.revision AND e.undoes IS NULL AND e.state = 'planned'
    WHERE jobs.job_id = ANY(%(job_ids)s) GROUP BY e.kind ORDER BY e.kind"""


@dataclass(frozen=True)
class QueuedOutput:
    """The output of a job that waits for a decision.

    :param review_digest: what a decision on it must name.
    :param large: it is larger than :data:`MAX_STORED`, and was not read.
    """

    job_id: int
    review_digest: str | None
    large: bool
    output: Any


@dataclass(frozen=True)
class QueuedPlan:
    """What would be written for a job that waits for a decision: name, kind and plan of each effect, in their order."""

    job_id: int
    review_digest: str | None
    effects: tuple[tuple[str, str, dict[str, Any]], ...]


class ReviewQueue:
    """The jobs that wait for a decision, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def groups(
        self,
        *,
        dag_ids: Sequence[str] | None = None,
        run_id: str | None = None,
        set_id: int | None = None,
        digests: bool = False,
    ) -> list[QueueGroup]:
        """Every job in review, in groups of like jobs.

        :param dag_ids: only jobs of these Dags; None for every Dag.
        :param run_id: only jobs that this run has made or attached to.
        :param set_id: only jobs of this set.
        :param digests: the digest of each job too.
        """
        query = _GROUPS.format(of_run="TRUE" if run_id is None else OF_RUN)
        values = {
            "dag_ids": None if dag_ids is None else list(dag_ids),
            "run_id": run_id,
            "set_id": set_id,
            "digests": digests,
        }
        rows = self._database.transact(lambda connection: connection.execute(query, values).fetchall())
        return [
            QueueGroup(
                **{**row, "voters": distinct(Actor(*voter) for voter in row["voters"]), "digests": row["digests"] or []}
            )
            for row in rows
        ]

    def outputs(self, job_ids: Sequence[int]) -> Iterator[QueuedOutput]:
        """Yield the current outputs of those of the jobs that still wait."""
        for rows in self._lots(_OUTPUTS, job_ids):
            yield from (QueuedOutput(**row) for row in rows)

    def plans(self, job_ids: Sequence[int]) -> Iterator[QueuedPlan]:
        """Yield what would be written for those of the jobs that still wait."""
        for rows in self._lots(_PLANS, job_ids):
            found: dict[int, list[tuple[str, str, dict[str, Any]]]] = {}
            digests: dict[int, str | None] = {}
            for row in rows:
                digests[row["job_id"]] = row["review_digest"]
                effects = found.setdefault(row["job_id"], [])
                if row["name"] is not None:
                    effects.append((row["name"], row["kind"], row["plan"]))
            yield from (QueuedPlan(job_id, digests[job_id], tuple(effects)) for job_id, effects in found.items())

    def planned_writes(self, job_ids: Sequence[int]) -> dict[str, int]:
        """How many external writes are planned for the jobs, by the kind of target."""
        values = {"job_ids": list(job_ids)}
        rows = self._database.transact(lambda connection: connection.execute(_WRITES, values).fetchall())
        return {row["kind"]: row["writes"] for row in rows}

    def dags(self, job_ids: Sequence[int]) -> dict[int, str]:
        """The Dags that own the jobs, by the ids of those that there are."""
        query = "SELECT job_id, dag_id FROM aihandoff.jobs WHERE job_id = ANY(%s)"
        rows = self._database.transact(lambda connection: connection.execute(query, [list(job_ids)]).fetchall())
        return {row["job_id"]: row["dag_id"] for row in rows}

    def _lots(self, query: str, job_ids: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
        for start in range(0, len(job_ids), _AT_ONCE):
            values = {"job_ids": list(job_ids[start : start + _AT_ONCE]), "max_stored": MAX_STORED}

            def work(connection: LedgerConnection) -> list[dict[str, Any]]:
                return connection.execute(query, values).fetchall()  # noqa: B023  called at once

            yield self._database.transact(work)
