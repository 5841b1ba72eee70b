"""Reads what the overview shows: jobs by state, what ended by day and type, how long was waited, and connections.

Each statement is bounded: it is answered from an index alone, or reads a sample of each day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.states import TERMINAL_JOB_STATES, JobState

#: How many days the figures are about, today included.
DAYS = 14

#: Of how many of the newest jobs that ended on a day the waiting times are read.
SAMPLE = 150

#: Jobs that need a person, and webhooks in quarantine, are counted up to here.
MOST_COUNTED = 1_000

_ENDED = ", ".join(f"'{state}'" for state in sorted(TERMINAL_JOB_STATES))

#: The beginning of a day, so many days before today, in UTC.
_DAY = "(date_trunc('day', statement_timestamp() AT TIME ZONE 'UTC') - {} * interval '1 day') AT TIME ZONE 'UTC'"

_OPEN = """
    SELECT state, count(*) AS jobs FROM aihandoff.jobs
    WHERE dag_id = ANY(%(dag_ids)s) AND state = ANY(%(open)s) GROUP BY state"""

_DAYS = f"(SELECT {_DAY.format('number')} AS day FROM generate_series(0, {DAYS - 1}) AS number) AS ended"

#: Day by day, so that the jobs of each are added up as they come out of the index.
_BY_DAY = f"""
    SELECT (ended.day AT TIME ZONE 'UTC')::date AS day, of_day.*
    FROM {_DAYS} CROSS JOIN LATERAL (
        SELECT job_type, state, count(*) AS jobs, sum(known_cost_usd) AS cost_usd FROM aihandoff.jobs
        WHERE state IN ({_ENDED}) AND updated_at >= ended.day AND updated_at < ended.day + interval '1 day'
            AND dag_id = ANY(%(dag_ids)s)
        GROUP BY job_type, state
    ) AS of_day
    ORDER BY 1, 2, 3"""

_WAITS = f"""
    SELECT (ended.day AT TIME ZONE 'UTC')::date AS day, job.job_type,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM r.completed_at - r.submitted_at)) AS model,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM d.created_at - job.review_asked_at)) AS people
    FROM {_DAYS} CROSS JOIN LATERAL (
        SELECT job_id, job_type, revision, review_asked_at, decision_id FROM aihandoff.jobs
        WHERE state IN ({_ENDED}) AND updated_at >= ended.day AND updated_at < ended.day + interval '1 day'
            AND dag_id = ANY(%(dag_ids)s)
        ORDER BY updated_at DESC LIMIT {SAMPLE}
    ) AS job
    LEFT JOIN aihandoff.revisions AS r ON r.job_id = job.job_id AND r.number = job.revision AND r.author_kind = 'model'
    LEFT JOIN aihandoff.decisions AS d
        ON d.decision_id = job.decision_id AND d.decided_by_kind IN ('user', 'terminal')
    GROUP BY 1, 2 ORDER BY 1, 2"""

#: The connections are found by skipping from one to the next in an index, however many rows each has.
_CONNECTIONS = """
    WITH RECURSIVE heard AS (
        (SELECT conn_id FROM aihandoff.inbox ORDER BY conn_id LIMIT 1)
        UNION ALL
        SELECT (SELECT conn_id FROM aihandoff.inbox WHERE conn_id > heard.conn_id ORDER BY conn_id LIMIT 1)
        FROM heard WHERE heard.conn_id IS NOT NULL
    ), ended AS (
        (SELECT conn_id FROM aihandoff.revisions WHERE response_id IS NOT NULL AND completed_at IS NOT NULL
         ORDER BY conn_id LIMIT 1)
        UNION ALL
        SELECT (SELECT conn_id FROM aihandoff.revisions WHERE response_id IS NOT NULL AND completed_at IS NOT NULL
            AND conn_id > ended.conn_id ORDER BY conn_id LIMIT 1)
        FROM ended WHERE ended.conn_id IS NOT NULL
    ), running AS (
        SELECT conn_id, count(*) AS number FROM aihandoff.revisions WHERE state = 'running' GROUP BY conn_id
    ), known AS (
        SELECT conn_id FROM heard UNION SELECT conn_id FROM ended UNION SELECT conn_id FROM running
        UNION SELECT conn_id FROM aihandoff.polls
    )
    SELECT known.conn_id, coalesce(running.number, 0) AS running,
        (SELECT max(received_at) FROM aihandoff.inbox WHERE inbox.conn_id = known.conn_id) AS last_webhook_at,
        (SELECT max(completed_at) FROM aihandoff.revisions WHERE revisions.conn_id = known.conn_id
            AND response_id IS NOT NULL AND completed_at IS NOT NULL) AS last_ended_at,
        polls.polled_at AS last_poll_at
    FROM known LEFT JOIN running USING (conn_id) LEFT JOIN aihandoff.polls USING (conn_id)
    WHERE known.conn_id IS NOT NULL ORDER BY known.conn_id"""

_QUARANTINED = f"""
    SELECT count(*) AS webhooks FROM (
        SELECT FROM aihandoff.inbox WHERE disposition = 'quarantined' LIMIT {MOST_COUNTED + 1}) AS first_ones"""


@dataclass(frozen=True)
class DayFigures:
    """What ended on one day, of one type and in one state.

    :param day: in UTC.
    :param cost_usd: of all revisions of these jobs, as far as it is known.
    """

    day: date
    job_type: str
    state: JobState
    jobs: int
    cost_usd: Decimal

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", JobState(self.state))


@dataclass(frozen=True)
class DayWaits:
    """How long jobs of one type that ended on one day have waited: the median of a sample, in seconds.

    :param model: for the response; None where none of them has one.
    :param people: for a decision by a person; None where none of them has one.
    """

    day: date
    job_type: str
    model: float | None
    people: float | None


@dataclass(frozen=True)
class ConnectionActivity:
    """What happens on one connection to a model provider.

    :param running: how many responses run.
    :param last_ended_at: when the newest result of a response was recorded.
    :param last_poll_at: when a triggerer last polled a response of it.
    """

    conn_id: str
    running: int
    last_webhook_at: datetime | None
    last_ended_at: datetime | None
    last_poll_at: datetime | None

    def is_silent(self, seconds: float) -> bool:
        """Whether its webhooks fell silent: some came, and for so long none while responses ended."""
        if self.last_webhook_at is None or self.last_ended_at is None:
            return False
        return (self.last_ended_at - self.last_webhook_at).total_seconds() > seconds


@dataclass(frozen=True)
class Figures:
    """The state of things.

    :param today: by the database's clock, in UTC.
    :param open: how many jobs are in each state that is not an end.
    """

    today: date
    open: dict[JobState, int]
    days: list[DayFigures]
    waits: list[DayWaits]

    @property
    def by_state(self) -> dict[JobState, int]:
        """How many jobs are in each state; of those that have ended, within :data:`DAYS`."""
        counts = Counter(self.open)
        for each in self.days:
            counts[each.state] += each.jobs
        return dict(counts)


class Overviews:
    """The figures of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def figures(self, dag_ids: Sequence[str]) -> Figures:
        """Return the figures about the jobs of these Dags, as of one moment."""

        def work(connection: LedgerConnection) -> Figures:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            open_states = [state.value for state in JobState if state not in TERMINAL_JOB_STATES]
            values = {"dag_ids": list(dag_ids), "open": open_states}

            def rows(query: str) -> list[dict[str, Any]]:
                return connection.execute(query, values, prepare=False).fetchall()

            today = rows("SELECT (statement_timestamp() AT TIME ZONE 'UTC')::date AS day")[0]["day"]
            return Figures(
                today=today,
                open={JobState(row["state"]): row["jobs"] for row in rows(_OPEN)},
                days=[DayFigures(**row) for row in rows(_BY_DAY)],
                waits=[DayWaits(**row) for row in rows(_WAITS)],
            )

        return self._database.transact(work)

    def webhooks(self) -> tuple[list[ConnectionActivity], int]:
        """Return what happens on each connection, and how many webhooks are in quarantine, as of one moment.

        They are counted up to one more than :data:`MOST_COUNTED`.
        """

        def work(connection: LedgerConnection) -> tuple[list[ConnectionActivity], int]:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connections = connection.execute(_CONNECTIONS, prepare=False).fetchall()
            (row,) = connection.execute(_QUARANTINED).fetchall()
            return [ConnectionActivity(**each) for each in connections], row["webhooks"]

        return self._database.transact(work)
