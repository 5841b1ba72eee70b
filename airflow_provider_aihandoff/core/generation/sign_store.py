"""When the responses that run were last seen to run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta

import psycopg

from airflow_provider_aihandoff.core.database import sqlstates
from airflow_provider_aihandoff.core.database.connection import Database
from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.generation.life_sign import LifeSign

log = logging.getLogger(__name__)

#: How many quiet responses are listed.
MOST_QUIET = 20

#: One in a batch shows no sign before the batch has ended.
_RUNNING = """
    SELECT j.job_id, r.submitted_at AS since, greatest(r.submitted_at, s.seen_at) AS last, clock_timestamp() AS now
    FROM aihandoff.revisions AS r
    JOIN aihandoff.jobs AS j ON j.job_id = r.job_id AND j.revision = r.number
    LEFT JOIN aihandoff.signs AS s ON s.job_id = r.job_id AND s.revision = r.number
    WHERE r.state = 'running' AND r.response_id IS NOT NULL AND r.submitted_at IS NOT NULL"""

#: Of these revisions, by the id of their job.
SEEN = """
    INSERT INTO aihandoff.signs (job_id, revision, seen_at)
    SELECT job_id, revision, clock_timestamp() FROM unnest(%s::bigint[], %s::integer[]) AS seen (job_id, revision)
    ORDER BY job_id
    ON CONFLICT (job_id) DO UPDATE SET revision = excluded.revision, seen_at = excluded.seen_at
        WHERE signs.revision <= excluded.revision"""

_OF_JOB = f"{_RUNNING} AND r.job_id = %(job_id)s"

_QUIET = f"""
    {_RUNNING} AND j.dag_id = ANY(%(dag_ids)s)
        AND greatest(r.submitted_at, s.seen_at) < clock_timestamp() - %(after)s::interval
    ORDER BY last, j.job_id LIMIT {MOST_QUIET}"""


class Signs:
    """The signs of life of the responses of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def seen(self, seen: Mapping[int, int]) -> None:
        """Record that the responses of these revisions, by the id of their job, were seen to run a moment ago.

        It is a convenience, and raises nothing.
        """
        values = [list(seen.keys()), list(seen.values())]
        try:
            self._database.transact(lambda connection: connection.execute(SEEN, values))
        except HandoffError as error:
            log.info("That a response was seen to run is not recorded: %s", error.what)
        except psycopg.Error as error:  # such as a right that is missing after an upgrade
            log.info("That a response was seen to run is not recorded: %s", sqlstates.describe(error))

    def of_job(self, job_id: int) -> LifeSign | None:
        """Return the sign of the response that runs for a job; None where none does, or it is in a batch."""
        found = self._read(_OF_JOB, {"job_id": job_id})
        return found[0] if found else None

    def quiet(self, dag_ids: Sequence[str], after: timedelta) -> list[LifeSign]:
        """Return the responses for jobs of these Dags without a sign for longer than that, the quietest first.

        At most :data:`MOST_QUIET`.
        """
        return self._read(_QUIET, {"dag_ids": list(dag_ids), "after": after})

    def _read(self, query: str, values: dict[str, object]) -> list[LifeSign]:
        rows = self._database.transact(lambda connection: connection.execute(query, values).fetchall())
        return [LifeSign(**row) for row in rows]
