"""Reads what the gauges of waiting show: how many jobs there are of each state, and how long the oldest has waited.

Each query reads an index of what has not ended, so that it costs the same however many jobs have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.signals import MAX_VALUES
from airflow_provider_aihandoff.core.states import TERMINAL_JOB_STATES, JobState

OPEN_STATES = tuple(state.value for state in JobState if state not in TERMINAL_JOB_STATES)

_JOBS = " UNION ALL ".join(
    f"SELECT '{state}' AS state, job_type, count(*) AS jobs FROM aihandoff.jobs WHERE state = '{state}' GROUP BY 2"
    for state in OPEN_STATES
)

#: The types of jobs, found by skipping from one to the next in the index.
_TYPES = f"""
    WITH RECURSIVE found AS (
        (SELECT job_type FROM aihandoff.jobs ORDER BY job_type LIMIT 1)
        UNION ALL
        SELECT (SELECT job_type FROM aihandoff.jobs WHERE job_type > found.job_type ORDER BY job_type LIMIT 1)
        FROM found WHERE found.job_type IS NOT NULL
    )
    SELECT job_type FROM found WHERE job_type IS NOT NULL LIMIT {MAX_VALUES}"""

_LOST = "FROM aihandoff.revisions WHERE state = 'submitting' AND submit_token IS NULL AND unknown_submissions > 0"
_COMMITTING = "FROM aihandoff.jobs WHERE state IN ('approved', 'applying', 'rolling_back')"

#: Since when the oldest one of each cause has waited.
_SINCE = {
    "submission": "SELECT min(updated_at) FROM aihandoff.jobs WHERE state = 'queued'",
    "lost_request": f"SELECT min(submitted_at) {_LOST}",
    "model": "SELECT min(submitted_at) FROM aihandoff.revisions WHERE state = 'running'",
    "decision": "SELECT min(coalesce(review_asked_at, updated_at)) FROM aihandoff.jobs WHERE state = 'review'",
    "effect": f"SELECT min(updated_at) {_COMMITTING}",
    "unknown_effect": "SELECT min(unknown_since) FROM aihandoff.effects WHERE state = 'unknown'",
    "event": """SELECT min(d.at) FROM aihandoff.event_deliveries AS d JOIN aihandoff.event_subscriptions AS s
        USING (subscription_id) WHERE d.state = 'waiting' AND s.state = 'active'""",
    "quarantine": "SELECT min(received_at) FROM aihandoff.inbox WHERE disposition = 'quarantined'",
}

CAUSES = tuple(_SINCE)

_DEAD_EVENTS = "SELECT count(*) FROM aihandoff.event_deliveries WHERE state = 'dead'"
_ALL = ", ".join(f"({query}) AS {name}" for name, query in _SINCE.items())
_WAITING = f"SELECT at, ({_DEAD_EVENTS}) AS dead_events, {_ALL} FROM (SELECT statement_timestamp() AS at) AS clock"

_WEBHOOKS = """
    SELECT conn_id, extract(epoch FROM statement_timestamp() - coalesce(newest, since))::float AS age FROM (
        SELECT conn_id, (SELECT max(received_at) FROM aihandoff.inbox AS i WHERE i.conn_id = named.conn_id) AS newest,
            (SELECT min(submitted_at) FROM aihandoff.revisions AS r
             WHERE r.state = 'running' AND r.conn_id = named.conn_id) AS since
        FROM unnest(%s::text[]) AS named (conn_id)) AS known
    WHERE since IS NOT NULL"""


@dataclass(frozen=True)
class Waiting:
    """What waits in a ledger at one moment.

    :param at: when, by the database's clock.
    :param jobs: the jobs that have not ended, by type and state; a type that is known is there with 0 as well.
    :param since: since when the oldest one of each cause has waited; None without one.
    :param webhook_age: in seconds, the age of the newest webhook of each connection whose responses run; of the oldest
        of those responses, where none ever came.
    :param dead_events: how many events for subscribers were given up.
    """

    at: datetime
    jobs: Mapping[tuple[str, str], int]
    since: Mapping[str, datetime | None]
    webhook_age: Mapping[str, float]
    dead_events: int = 0


class Gauges:
    """What waits, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, conn_ids: Sequence[str]) -> Waiting:
        """Read everything at one moment.

        :param conn_ids: the connections on which webhooks are expected.
        """

        def work(connection: LedgerConnection) -> Waiting:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            row = connection.execute(_WAITING).fetchone()
            assert row is not None
            ages = connection.execute(_WEBHOOKS, [list(conn_ids)]).fetchall()
            return Waiting(
                at=row["at"],
                jobs=_jobs(connection),
                since={cause: row[cause] for cause in CAUSES},
                webhook_age={age["conn_id"]: age["age"] for age in ages},
                dead_events=row["dead_events"],
            )

        return self._database.transact(work)


def _jobs(connection: LedgerConnection) -> dict[tuple[str, str], int]:
    types = [row["job_type"] for row in connection.execute(_TYPES).fetchall()]
    none: dict[tuple[str, str], Any] = {(job_type, state): 0 for job_type in types for state in OPEN_STATES}
    found = {(row["job_type"], row["state"]): row["jobs"] for row in connection.execute(_JOBS).fetchall()}
    return none | found
