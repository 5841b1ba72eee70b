"""Approval tasks that Airflow has parked: which ones there are, and which of them have something to do.

Airflow wakes such a task by its own list of questions and by time. Decisions are made elsewhere as well, on hosts that
cannot reach Airflow's database: the API servers find here what they are to wake.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString
from uuid import UUID

from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.models import Job, Owner, columns
from airflow_provider_aihandoff.core.review.required_action import RequiredAction, options_for
from airflow_provider_aihandoff.core.review.rules import Reassignment


@dataclass(frozen=True)
class ParkedTask:
    """A task instance that waits for a decision in Airflow's state ``awaiting_input``, or is about to.

    :param ti_id: the id of the task instance, new after a clear and a retry.
    :param digest: the review digest that was asked about.
    :param reassigned: how often the review had been reassigned to other people by then.
    :param subject: what Airflow's list of required actions shows, and so is ``body``.
    :param not_before: it is not woken before that, by the ledger's clock.
    :param until: when there is something to do at the latest.
    """

    ti_id: UUID
    job_id: int
    digest: str
    reassigned: int
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    subject: str
    body: str
    not_before: datetime
    until: datetime
    parked_at: datetime

    @property
    def owner(self) -> Owner:
        """The attempt that waits, as the ledger names owners."""
        return Owner(self.dag_id, self.run_id, self.task_id, self.map_index, str(self.ti_id), self.try_number)

    @property
    def asked(self) -> RequiredAction:
        """What Airflow's list is to show."""
        return RequiredAction(self.subject, self.body, options_for(self.digest))


_COLUMNS = columns(ParkedTask)

_PARK = f"""
    INSERT INTO aihandoff.parked_tasks ({_COLUMNS})
    VALUES (%(ti_id)s, %(job_id)s, %(digest)s, %(reassigned)s, %(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s,
        %(try_number)s, %(subject)s, %(body)s, %(not_before)s, %(until)s, clock_timestamp())
    ON CONFLICT (ti_id) DO UPDATE SET job_id = excluded.job_id, digest = excluded.digest,
        reassigned = excluded.reassigned, try_number = excluded.try_number, subject = excluded.subject,
        body = excluded.body, not_before = excluded.not_before, until = excluded.until,
        parked_at = excluded.parked_at"""
_READ = f"SELECT {_COLUMNS} FROM aihandoff.parked_tasks WHERE ti_id = %s"

#: Where a task has been parked again meanwhile, that stays.
_REMOVE = """
    DELETE FROM aihandoff.parked_tasks AS p
    USING unnest(%(ti_ids)s::uuid[], %(parked_at)s::timestamptz[]) AS gone (ti_id, parked_at)
    WHERE p.ti_id = gone.ti_id AND p.parked_at = gone.parked_at"""

#: Where an Airflow does not know a task, it may be another one's: that has had ten minutes to wake it.
_REMOVE_UNKNOWN = """
    DELETE FROM aihandoff.parked_tasks AS p
    USING unnest(%(ti_ids)s::uuid[], %(parked_at)s::timestamptz[]) AS gone (ti_id, parked_at), aihandoff.jobs AS j
    WHERE p.ti_id = gone.ti_id AND p.parked_at = gone.parked_at AND j.job_id = p.job_id
        AND (p.until < clock_timestamp() - interval '10 minutes'
            OR (j.state <> 'review' OR j.review_digest IS DISTINCT FROM p.digest)
                AND j.updated_at < clock_timestamp() - interval '10 minutes')"""

#: Those whose question is no longer asked like this, or whose time has come: as the hub of a triggerer finds waits.
_DUE = f"""
    SELECT {columns(ParkedTask, "p")} FROM aihandoff.parked_tasks AS p JOIN aihandoff.jobs AS j USING (job_id)
    WHERE p.not_before <= clock_timestamp() AND (%(job_ids)s::bigint[] IS NULL OR p.job_id = ANY(%(job_ids)s))
        AND (p.until <= clock_timestamp() OR j.state <> 'review' OR j.review_digest IS DISTINCT FROM p.digest
            OR coalesce((j.reassigned ->> 'number')::integer, 0) <> p.reassigned)
    ORDER BY p.parked_at LIMIT %(limit)s"""

_PAGE = f"""
    SELECT {_COLUMNS} FROM aihandoff.parked_tasks
    WHERE (%(after)s::uuid IS NULL OR ti_id > %(after)s)
        AND (%(newer)s::float8 IS NULL OR parked_at > clock_timestamp() - %(newer)s * interval '1 second')
    ORDER BY ti_id LIMIT %(limit)s"""


class ParkedTasks:
    """The parked tasks of one ledger. Every method is one short transaction, and safe to repeat."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def park(self, owner: Owner, job: Job, asked: RequiredAction, *, not_before: datetime, until: datetime) -> None:
        """Record that an attempt is about to be parked.

        :param job: as it was asked about.
        :param not_before: by the ledger's clock, and so is ``until``.
        """
        values = {
            "ti_id": UUID(owner.ti_id),
            "job_id": job.job_id,
            "digest": job.review_digest,
            "reassigned": Reassignment.from_json(job.reassigned).number,
            "dag_id": owner.dag_id,
            "run_id": owner.run_id,
            "task_id": owner.task_id,
            "map_index": owner.map_index,
            "try_number": owner.try_number,
            "subject": asked.subject,
            "body": asked.body,
            "not_before": not_before,
            "until": until,
        }
        self._database.transact(lambda connection: connection.execute(_PARK, values), repeatable=True)

    def read(self, ti_id: str) -> ParkedTask | None:
        """Return what a task had asked when it was parked; None where it was not."""

        def work(connection: LedgerConnection) -> ParkedTask | None:
            row = connection.execute(_READ, [UUID(ti_id)]).fetchone()
            return None if row is None else ParkedTask(**row)

        return self._database.transact(work, repeatable=True)

    def remove(self, parked: Collection[ParkedTask]) -> None:
        """Forget tasks that are no longer parked."""
        self._remove(_REMOVE, parked)

    def remove_unknown(self, parked: Collection[ParkedTask]) -> None:
        """Forget tasks that Airflow does not know, once they have had something to do for ten minutes."""
        self._remove(_REMOVE_UNKNOWN, parked)

    def _remove(self, statement: LiteralString, parked: Collection[ParkedTask]) -> None:
        if not parked:
            return
        values = {"ti_ids": [each.ti_id for each in parked], "parked_at": [each.parked_at for each in parked]}
        self._database.transact(lambda connection: connection.execute(statement, values), repeatable=True)

    def due(self, job_ids: Collection[int] | None, limit: int) -> list[ParkedTask]:
        """The tasks that have something to do now, those first that wait longest.

        :param job_ids: only those of these jobs; None for all.
        """
        values = {"job_ids": None if job_ids is None else list(job_ids), "limit": limit}
        return self._database.transact(
            lambda connection: [ParkedTask(**row) for row in connection.execute(_DUE, values).fetchall()],
            repeatable=True,
        )

    def pages(self, size: int, *, newer: float | None = None) -> Iterator[list[ParkedTask]]:
        """Every parked task, so many at once.

        :param newer: only those that were parked within so many seconds.
        """
        after: UUID | None = None
        while True:
            values = {"after": after, "newer": newer, "limit": size}
            page = self._database.transact(
                lambda connection, values=values: [  # type: ignore[misc]
                    ParkedTask(**row) for row in connection.execute(_PAGE, values).fetchall()
                ],
                repeatable=True,
            )
            if page:
                yield page
            if len(page) < size:
                return
            after = page[-1].ti_id
