"""Finds the jobs that a filter is about: a page of them, their ids, and how many need a person. It reads alone.

Each statement holds only the conditions that the filter has, and is planned for their values, so that the one that
leaves out the most is answered from its index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.errors import FilterRefused
from airflow_provider_aihandoff.core.external_link import external_link
from airflow_provider_aihandoff.core.jobs.job_filter import (
    FAILED_WITHIN,
    SLOW_AT_LEAST,
    SLOW_FACTOR,
    SLOW_HISTORY,
    JobFilter,
    Need,
    Sort,
)
from airflow_provider_aihandoff.core.jobs.of_run import OF_RUN
from airflow_provider_aihandoff.core.models import Job, columns
from airflow_provider_aihandoff.core.states import TERMINAL_JOB_STATES, JobState

_OPEN_STATES = tuple(state.value for state in JobState if state not in TERMINAL_JOB_STATES)

#: How many of the newest jobs of a type say how long its responses usually take.
_SLOW_OUT_OF = 500

#: The running responses that take far longer than those of their type usually do.
_SLOW = f"""
    WITH running AS MATERIALIZED (
        SELECT r.job_id, r.number, r.submitted_at, own.job_type
        FROM aihandoff.revisions AS r JOIN aihandoff.jobs AS own ON own.job_id = r.job_id AND own.revision = r.number
        WHERE r.state = 'running' AND r.submitted_at < statement_timestamp() - %(slow_at_least)s
    ), usual AS (
        SELECT job_type, percentile_cont(0.95) WITHIN GROUP (ORDER BY took) AS took
        FROM (SELECT DISTINCT job_type FROM running) AS types CROSS JOIN LATERAL (
            SELECT r.completed_at - r.submitted_at AS took
            FROM (
                SELECT job_id, revision FROM aihandoff.jobs AS newest WHERE newest.job_type = types.job_type
                    AND state NOT IN ('queued', 'running')
                ORDER BY created_at DESC, job_id DESC LIMIT {_SLOW_OUT_OF}
            ) AS known
            JOIN aihandoff.revisions AS r ON r.job_id = known.job_id AND r.number = known.revision
            WHERE r.state = 'completed' AND r.response_id IS NOT NULL AND r.submitted_at IS NOT NULL
        ) AS known
        GROUP BY job_type HAVING count(*) >= {SLOW_HISTORY}
    )
    SELECT running.job_id FROM running JOIN usual USING (job_type)
    WHERE running.submitted_at < statement_timestamp() - {SLOW_FACTOR} * usual.took"""

_NEEDS = {
    Need.UNKNOWN_EFFECT: "j.job_id IN (SELECT job_id FROM aihandoff.effects WHERE state = 'unknown')",
    Need.FAILED: """j.state = 'failed' AND j.acknowledged_at IS NULL
        AND j.updated_at > statement_timestamp() - %(failed_within)s""",
    Need.PAST_DEADLINE: """j.state IN ('queued', 'running') AND (j.job_id, j.revision) IN (
        SELECT job_id, number FROM aihandoff.revisions
        WHERE state IN ('submitting', 'running') AND deadline < statement_timestamp())""",
    Need.HELD: """j.state = 'queued' AND (j.job_id, j.revision) IN (
        SELECT job_id, number FROM aihandoff.revisions
        WHERE state = 'submitting' AND submit_token IS NULL AND unknown_submissions > 0)""",
    Need.REVIEW_OVERDUE: "j.state = 'review' AND j.review_deadline < statement_timestamp()",
    Need.CLAIM_EXPIRED: """j.job_id IN (
        SELECT job_id FROM aihandoff.effects WHERE state = 'claimed' AND claim_until < statement_timestamp())""",
    Need.SLOW_RESPONSE: f"j.state = 'running' AND j.job_id IN ({_SLOW})",
}

_ERROR = """j.job_id IN (
        SELECT failed.job_id FROM aihandoff.jobs AS failed WHERE failed.state = 'failed'
            AND to_tsvector('simple', left(failed.state_reason, 10000)) @@ plainto_tsquery('simple', %(error)s)
        UNION ALL
        SELECT e.job_id FROM aihandoff.effects AS e WHERE e.error IS NOT NULL
            AND to_tsvector('simple', left(e.error, 10000)) @@ plainto_tsquery('simple', %(error)s))"""

#: What each field of a filter asks of a job ``j``.
_CONDITIONS = {
    "states": "j.state = ANY(%(states)s)",
    "job_type": "j.job_type = %(job_type)s",
    "key": "j.job_key LIKE %(key)s",
    "dag_id": "j.dag_id = %(dag_id)s",
    "run_id": OF_RUN,
    "task_id": "j.task_id = %(task_id)s",
    "requester": "j.requested_by = %(requester)s",
    "reviewer": "j.job_id IN (SELECT job_id FROM aihandoff.decisions WHERE decided_by = %(reviewer)s)",
    "older_than": "j.created_at <= statement_timestamp() - %(older_than)s",
    "newer_than": "j.created_at >= statement_timestamp() - %(newer_than)s",
    "min_cost_usd": "j.known_cost_usd > 0 AND j.known_cost_usd >= %(min_cost_usd)s",
    "min_retries": "j.retries > 0 AND j.retries >= %(min_retries)s",
    "external_id": "j.job_id IN (SELECT job_id FROM aihandoff.effects WHERE external_id = %(external_id)s)",
    "response_id": "j.job_id IN (SELECT job_id FROM aihandoff.revisions WHERE response_id = %(response_id)s)",
    "error": _ERROR,
    "set_id": "j.set_id = %(set_id)s",
}


class _Order(NamedTuple):
    """A column that a list is sorted by, with the id of the job after it."""

    column: str
    direction: str
    condition: str = "true"

    @property
    def sql(self) -> str:
        return f"{self.column} {self.direction}, job_id {self.direction}"

    @property
    def after(self) -> str:
        return f"(j.{self.column}, j.job_id) {'>' if self.direction == 'ASC' else '<'} (%(after_value)s, %(after)s)"


_ORDERS = {
    Sort.NEWEST: _Order("created_at", "DESC"),
    Sort.OLDEST: _Order("created_at", "ASC"),
    Sort.COST: _Order("known_cost_usd", "DESC", "j.known_cost_usd > 0"),
    Sort.RETRIES: _Order("retries", "DESC", "j.retries > 0"),
}

#: How many ids of records a line of a list names.
_EXTERNAL_IDS = 5


@dataclass(frozen=True)
class JobSummary:
    """One line of a list of jobs: what it is, without its content.

    :param cost_usd: of all its revisions, as far as their price is known; None when none was billed or has a price.
    :param unpriced: how many of its revisions were billed at a price that is unknown.
    :param without_tools: how many of its revisions called tools of the provider, which are in no price.
    :param effects: how many writes the current revision intends.
    :param unknown_effects: how many writes, of any revision, may have been applied.
    :param retries: how many requests were sent again, over all its revisions.
    :param last_webhook_at: when the newest webhook about it came.
    :param external_ids: of the records that its applied effects have made, the first five.
    :param external_links: their addresses, in the same order; None for one whose author declares none.
    """

    job_id: int
    job_type: str
    job_key: str
    state: JobState
    state_reason: str | None
    requested_by: str
    revision: int
    review_digest: str | None
    review_deadline: datetime | None
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    created_at: datetime
    updated_at: datetime
    cost_usd: Decimal | None
    unpriced: int
    without_tools: int
    effects: int
    unknown_effects: int
    retries: int
    last_webhook_at: datetime | None
    external_ids: list[str]
    external_links: list[str | None]

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", JobState(self.state))


_JOB_COLUMNS = ", ".join(
    [each.name for each in fields(JobSummary) if each.name in Job.__dataclass_fields__] + ["retries", "known_cost_usd"]
)

_HAS_RECORD = "WHERE effects.state = 'applied' AND effects.undoes IS NULL AND effects.external_id IS NOT NULL"

#: A page of jobs with what belongs to each; ``{}`` are their conditions and their order. The links are those that
#: authors have declared: :func:`_summary` fills them in.
_PAGE = f"""
    SELECT {columns(JobSummary)} FROM (
        SELECT {_JOB_COLUMNS} FROM aihandoff.jobs AS j WHERE {{conditions}} ORDER BY {{order}} LIMIT %(limit)s
    ) AS job
    CROSS JOIN LATERAL (
        SELECT sum(cost_usd) AS cost_usd,
            count(*) FILTER (WHERE cost_usd IS NULL AND response_id IS NOT NULL AND state <> 'running') AS unpriced,
            count(*) FILTER (WHERE usage -> 'tool_calls' IS NOT NULL) AS without_tools
        FROM aihandoff.revisions WHERE revisions.job_id = job.job_id
    ) AS billed
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE effects.revision = job.revision AND effects.undoes IS NULL
                AND effects.state NOT IN ('skipped', 'void')) AS effects,
            count(*) FILTER (WHERE effects.state = 'unknown') AS unknown_effects,
            coalesce((array_agg(effects.external_id ORDER BY effects.effect_id) FILTER ({_HAS_RECORD}
            ))[:{_EXTERNAL_IDS}], '{{{{}}}}') AS external_ids,
            coalesce((array_agg(effects.external_url ORDER BY effects.effect_id) FILTER ({_HAS_RECORD}
            ))[:{_EXTERNAL_IDS}], '{{{{}}}}') AS external_links
        FROM aihandoff.effects WHERE effects.job_id = job.job_id
    ) AS intended
    CROSS JOIN LATERAL (
        SELECT max(received_at) AS last_webhook_at FROM aihandoff.inbox WHERE inbox.job_id = job.job_id
    ) AS heard
    ORDER BY {{order}}"""


class JobSearch:
    """The lists of jobs, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self,
        wanted: JobFilter,
        *,
        dag_ids: Sequence[str] | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> list[JobSummary]:
        """Return one page of the jobs that a filter is about, with what they cost and write, in one statement.

        :param dag_ids: only jobs of these Dags; None for every Dag.
        :param after: the last job of the page before.
        :raises FilterRefused: the filter cannot be answered from an index.
        """
        order = _ORDERS[wanted.sort]

        def work(connection: LedgerConnection) -> list[JobSummary]:
            conditions, values = _asked(wanted, dag_ids)
            conditions.append(order.condition)
            if after is not None:
                query = f"SELECT {order.column} AS value FROM aihandoff.jobs WHERE job_id = %s"
                row = connection.execute(query, [after]).fetchone()
                if row is None:
                    return []
                conditions.append(order.after)
                values |= {"after": after, "after_value": row["value"]}
            query = _PAGE.format(conditions=" AND ".join(conditions), order=order.sql)
            rows = connection.execute(query, {**values, "limit": limit}, prepare=False).fetchall()
            return [_summary(row) for row in rows]

        return self._database.transact(work)

    def by_id(self, job_ids: Sequence[int]) -> list[JobSummary]:
        """Return the jobs with these ids, as :meth:`page` does, the newest first."""
        query = _PAGE.format(conditions="j.job_id = ANY(%(job_ids)s)", order=_ORDERS[Sort.NEWEST].sql)
        values = {"job_ids": list(job_ids), "limit": len(job_ids)}
        rows = self._database.transact(lambda connection: connection.execute(query, values).fetchall())
        return [_summary(row) for row in rows]

    def count_needs(self, dag_ids: Sequence[str] | None, *, at_most: int) -> dict[Need, int]:
        """Count the jobs that need a person, by reason, each up to a bound, in one statement.

        :param dag_ids: only jobs of these Dags; None for every Dag.
        """
        parts: list[str] = []
        values: dict[str, Any] = {}
        for need in Need:
            conditions, values = _asked(JobFilter(need=need), dag_ids)
            some = f"SELECT FROM aihandoff.jobs AS j WHERE {' AND '.join(conditions)} LIMIT %(at_most)s"
            parts.append(f"SELECT '{need}' AS need, count(*) AS jobs FROM ({some}) AS some_jobs")
        query, values = " UNION ALL ".join(parts), {**values, "at_most": at_most}
        rows = self._database.transact(lambda connection: connection.execute(query, values, prepare=False).fetchall())
        return {Need(row["need"]): row["jobs"] for row in rows}

    def ids(self, wanted: JobFilter, *, dag_ids: Sequence[str] | None = None, limit: int) -> list[int]:
        """Return the ids of the first jobs that a filter is about, in its order.

        :param dag_ids: only jobs of these Dags; None for every Dag.
        :raises FilterRefused: the filter cannot be answered from an index.
        """
        order = _ORDERS[wanted.sort]
        conditions, values = _asked(wanted, dag_ids)
        query = f"""SELECT job_id FROM aihandoff.jobs AS j WHERE {" AND ".join([*conditions, order.condition])}
            ORDER BY {order.sql} LIMIT %(limit)s"""

        def work(connection: LedgerConnection) -> list[int]:
            rows = connection.execute(query, {**values, "limit": limit}, prepare=False).fetchall()
            return [row["job_id"] for row in rows]

        return self._database.transact(work)

    def count_open(self, *, run_id: str | None = None, dag_ids: Sequence[str] | None = None) -> dict[str, int]:
        """Count the jobs that have not ended by state, and under ``unknown effects`` those that may have written.

        :param dag_ids: only jobs of these Dags; None for every Dag.
        """
        conditions, values = _asked(JobFilter(run_id=run_id), dag_ids)
        # One state at a time, so that each is counted in its partial index.
        kinds = [*((state, f"j.state = '{state}'") for state in _OPEN_STATES)]
        kinds.append(("unknown effects", _NEEDS[Need.UNKNOWN_EFFECT]))
        query = " UNION ALL ".join(
            f"SELECT '{kind}' AS kind, count(*) AS jobs FROM aihandoff.jobs AS j "
            f"WHERE {' AND '.join([condition, *conditions])}"
            for kind, condition in kinds
        )
        rows = self._database.transact(lambda connection: connection.execute(query, values, prepare=False).fetchall())
        return {row["kind"]: row["jobs"] for row in rows}


def _summary(row: dict[str, Any]) -> JobSummary:
    links = [external_link(*each) for each in zip(row["external_links"], row["external_ids"], strict=True)]
    return JobSummary(**{**row, "external_links": links})


def _asked(wanted: JobFilter, dag_ids: Sequence[str] | None) -> tuple[list[str], dict[str, Any]]:
    """The conditions on a job, and their values.

    :raises FilterRefused: the filter cannot be answered from an index.
    """
    if problem := wanted.problem():
        raise FilterRefused(problem, written="")
    values: dict[str, Any] = {name: getattr(wanted, name) for name in _CONDITIONS}
    conditions = [condition for name, condition in _CONDITIONS.items() if values[name] not in (None, ())]
    values["states"] = [str(state) for state in wanted.states]
    if wanted.key is not None:
        escaped = wanted.key.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        values["key"] = f"{escaped}%"
    if dag_ids is not None:
        conditions.append("j.dag_id = ANY(%(dag_ids)s)")
        values["dag_ids"] = list(dag_ids)
    if wanted.need is not None:
        conditions.append(_NEEDS[wanted.need])
        values |= {"failed_within": FAILED_WITHIN, "slow_at_least": SLOW_AT_LEAST}
    return conditions or ["true"], values
