"""Finds possible orphans in the ledger. It reads; the one thing that it writes is a lost request.

Each query is one short transaction. What is found may have moved on a moment later: the caller says which event
was the newest then (``as_of``), and the protocol does nothing where there is a newer one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.generation.lost_store import count_lost
from airflow_provider_aihandoff.core.generation.revision_store import read_revision
from airflow_provider_aihandoff.core.models import Actor, Effect, InboxEntry, OnTimeout, Owner, columns
from airflow_provider_aihandoff.core.states import ResponseStatus, RevisionState

#: Rows of one page of what is in flight.
PAGE = 500

#: From the oldest on; the place of a row is its job's last change, so that one that changes meanwhile comes later.
#: Without what is in a batch: that is looked after as a whole.
_IN_FLIGHT = """
    SELECT j.job_id, j.job_type, j.job_key, j.event_seq, j.updated_at, j.dag_id, j.run_id, j.task_id, j.map_index,
        j.ti_id, j.try_number, r.number, r.state, r.conn_id, r.response_id, r.response_status, r.deadline,
        r.submit_token IS NOT NULL AS unsettled, r.submit_lease_until, statement_timestamp() AS at
    FROM aihandoff.jobs AS j JOIN aihandoff.revisions AS r ON r.job_id = j.job_id AND r.number = j.revision
    WHERE j.state IN ('queued', 'running') AND (r.batch_id IS NULL OR r.state NOT IN ('submitting', 'running'))
        AND j.updated_at < statement_timestamp() - %(untouched)s
        AND (%(job_id)s::bigint IS NULL OR j.job_id = %(job_id)s)
        AND (j.updated_at, j.job_id) > (coalesce(%(after)s::timestamptz, '-infinity'), %(after_id)s)
    ORDER BY j.updated_at, j.job_id LIMIT %(page)s"""
_ATTEMPTS = """
    SELECT DISTINCT actor_dag_id AS dag_id, actor_run_id AS run_id, actor_task_id AS task_id,
        actor_map_index AS map_index, actor_try_number AS try_number
    FROM aihandoff.events
    WHERE job_id = %(job_id)s AND actor_kind = 'task' AND event IN ('created', 'revised', 'attached') AND seq >= (
        SELECT max(seq) FROM aihandoff.events WHERE job_id = %(job_id)s AND event IN ('created', 'revised'))"""
_EXPIRED = """
    SELECT job_id, job_type, job_key, review_digest, review_deadline, review_on_timeout FROM aihandoff.jobs
    WHERE state = 'review' AND review_deadline < statement_timestamp() - %(grace)s
        AND (review_on_timeout IS NOT NULL) = %(said)s AND (%(job_id)s::bigint IS NULL OR job_id = %(job_id)s)
    ORDER BY review_deadline LIMIT %(limit)s"""
_MATCHED = f"""
    SELECT {columns(InboxEntry, "i")} FROM aihandoff.inbox AS i
    WHERE disposition = 'quarantined' AND (poll_at IS NULL OR poll_at > statement_timestamp())
        AND EXISTS (SELECT FROM aihandoff.revisions AS r WHERE r.response_id = i.response_id)
    ORDER BY received_at LIMIT %s"""
_UNEXPLAINED = f"""
    SELECT {columns(InboxEntry)} FROM aihandoff.inbox WHERE disposition = 'quarantined' AND poll_at IS NULL
    ORDER BY received_at LIMIT %s"""
_LAPSED_CLAIMS = f"""
    SELECT {columns(Effect)} FROM aihandoff.effects
    WHERE state = 'claimed' AND claim_until < statement_timestamp() - %(grace)s
        AND (%(job_id)s::bigint IS NULL OR job_id = %(job_id)s)
    ORDER BY claim_until LIMIT %(limit)s"""
_UNSENT = """
    SELECT e.effect_id, e.name, e.task_id, e.updated_at, j.job_id, j.dag_id, j.run_id, j.map_index
    FROM aihandoff.effects AS e JOIN aihandoff.jobs AS j ON j.job_id = e.job_id AND j.revision = e.revision
    WHERE e.state = 'planned' AND e.task_id IS NOT NULL AND j.state IN ('approved', 'applying')
        AND e.updated_at < statement_timestamp() - %(untouched)s
        AND (e.updated_at, e.effect_id) > (coalesce(%(after)s::timestamptz, '-infinity'), %(after_id)s)
    ORDER BY e.updated_at, e.effect_id LIMIT %(page)s"""
_COUNT_OLD = """
    SELECT count(*) AS webhooks FROM aihandoff.inbox
    WHERE received_at < statement_timestamp() - %s AND disposition <> 'quarantined'"""


@dataclass(frozen=True)
class InFlight:
    """A job that has no output yet, with what matters of its current revision. Without its content, which may be large.

    :param event_seq: the newest event of the job.
    :param unsettled: a permission to send was given out, and the outcome of the request was not recorded.
    :param at: when this was read, by the database's clock.
    """

    job_id: int
    job_type: str
    job_key: str
    event_seq: int
    updated_at: datetime
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    ti_id: str
    try_number: int
    number: int
    state: RevisionState
    conn_id: str
    response_id: str | None
    response_status: ResponseStatus | None
    deadline: datetime
    unsettled: bool
    submit_lease_until: datetime | None
    at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", RevisionState(self.state))
        if self.response_status is not None:
            object.__setattr__(self, "response_status", ResponseStatus(self.response_status))

    @property
    def owner(self) -> Owner:
        """The task instance that the job belongs to."""
        return Owner(self.dag_id, self.run_id, self.task_id, self.map_index, self.ti_id, self.try_number)


@dataclass(frozen=True)
class ExpiredReview:
    """A job in review after the time to decide."""

    job_id: int
    job_type: str
    job_key: str
    review_digest: str
    review_deadline: datetime
    review_on_timeout: OnTimeout | None


@dataclass(frozen=True)
class UnsentEffect:
    """A planned effect of an approved job, with the task that is to apply it."""

    effect_id: int
    name: str
    task_id: str
    updated_at: datetime
    job_id: int
    dag_id: str
    run_id: str
    map_index: int

    @property
    def owner(self) -> Owner:
        """The task instance that is to apply it."""
        return Owner(self.dag_id, self.run_id, self.task_id, self.map_index, "", 0)


class Abandoned:
    """What may have been left behind, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def expired_claims(self, grace: timedelta, limit: int, job_id: int | None = None) -> list[Effect]:
        """Return effects whose claim expired at least this long ago, the oldest first: no attempt has come back.

        :param job_id: only effects of this job.
        """
        values = {"grace": grace, "limit": limit, "job_id": job_id}
        return [Effect(**row) for row in self._all(_LAPSED_CLAIMS, values)]

    def in_flight(self, untouched: timedelta, job_id: int | None = None) -> Iterator[list[InFlight]]:
        """Yield the jobs that wait for an output, in pages, those first that were left alone for longest.

        :param untouched: only jobs to which nothing has happened for so long.
        :param job_id: only this job.
        """
        for rows in self._pages(_IN_FLIGHT, untouched, "job_id", job_id=job_id):
            yield [InFlight(**row) for row in rows]

    def unsent_effects(self, untouched: timedelta) -> Iterator[list[UnsentEffect]]:
        """Yield the planned effects of approved jobs, in pages, those first that were planned first.

        :param untouched: only effects that were planned at least so long ago.
        """
        for rows in self._pages(_UNSENT, untouched, "effect_id"):
            yield [UnsentEffect(**row) for row in rows]

    def _pages(self, query: str, untouched: timedelta, key: str, **more: Any) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of a query, in pages, in the order of ``updated_at`` and the key."""
        after: tuple[datetime | None, int] = (None, 0)
        while True:
            values = {"untouched": untouched, "after": after[0], "after_id": after[1], "page": PAGE, **more}
            rows = self._all(query, values)
            if rows:
                yield rows
            if len(rows) < PAGE:
                return
            after = (rows[-1]["updated_at"], rows[-1][key])

    def attempts(self, job_id: int) -> list[Owner]:
        """The attempts of tasks that have made, or attached to, the current revision of a job: each may wait for it.

        Their ``ti_id`` is not known.
        """
        return [Owner(**row, ti_id="") for row in self._all(_ATTEMPTS, {"job_id": job_id})]

    def count_lost(self, job_id: int, number: int, *, as_of: int, actor: Actor, reason: str) -> bool:
        """Count a request whose attempt died as an unknown submission, once; False where the job has moved on.

        The permission to send ends with it, and no task sends again for as long as :mod:`core.generation.lost` says.
        """

        def work(connection: LedgerConnection) -> bool:
            job = history.lock(connection, job_id)
            if job.event_seq != as_of:
                return False
            count_lost(connection, job, read_revision(connection, job_id, number), actor, reason)
            return True

        return self._database.transact(work)

    def expired_reviews(
        self, grace: timedelta, *, said: bool, limit: int, job_id: int | None = None
    ) -> list[ExpiredReview]:
        """Return the reviews that expired at least ``grace`` ago, the oldest first.

        :param said: those of which the ledger knows what their author wants then; otherwise the others.
        :param job_id: only the review of this job.
        """
        rows = self._all(_EXPIRED, {"grace": grace, "said": said, "limit": limit, "job_id": job_id})
        return [ExpiredReview(**row) for row in rows]

    def matched_webhooks(self, limit: int) -> list[InboxEntry]:
        """Return webhooks in quarantine, not due yet, whose response is known by now, the oldest first."""
        return [InboxEntry(**row) for row in self._all(_MATCHED, [limit])]

    def unexplained_webhooks(self, limit: int) -> list[InboxEntry]:
        """Return webhooks in quarantine about which OpenAI is no longer asked, the oldest first."""
        return [InboxEntry(**row) for row in self._all(_UNEXPLAINED, [limit])]

    def old_webhooks(self, older_than: timedelta) -> int:
        """Count what :meth:`Inbox.prune` would remove."""
        return int(self._all(_COUNT_OLD, [older_than])[0]["webhooks"])

    def _all(self, query: str, values: Any) -> list[dict[str, Any]]:
        return self._database.transact(lambda connection: connection.execute(query, values).fetchall())
