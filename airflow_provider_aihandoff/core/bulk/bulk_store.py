"""The bulk actions of a ledger: which jobs each is about, and what came of each job. Takes no step itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.errors import BulkNotFound
from airflow_provider_aihandoff.core.models import Actor, ActorKind, Decision, Effect, Job, columns
from airflow_provider_aihandoff.core.review.decide import OF_NOW
from airflow_provider_aihandoff.core.review.rules import Reviewers, approvals_of
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES
from airflow_provider_aihandoff.core.text import plain, plain_or_none

#: Jobs that are read at once: their inputs may be large.
_READ_AT_ONCE = 100

#: The newest jobs of a type of which costs are read.
_TYPICAL_OF = 500

_INSERT = """
    INSERT INTO aihandoff.bulk_actions
        (action, wanted, reviewers, reason, actor_kind, actor_name, actor_user_id, created_at)
    VALUES (%(action)s, %(wanted)s, %(reviewers)s, %(reason)s, %(kind)s, %(name)s, %(user_id)s, now())
    RETURNING bulk_id"""
#: In one statement. Not with `executemany`: after its pipeline, a transaction that is idle is not ended by the server,
#: and a process that is stopped then would keep its locks on all these jobs.
_INSERT_JOBS = """
    INSERT INTO aihandoff.bulk_jobs (bulk_id, job_id, seen, outcome, note)
    SELECT %(bulk_id)s, *
    FROM unnest(%(job_ids)s::bigint[], %(seen)s::json[], %(outcomes)s::text[], %(notes)s::text[])"""
_NEXT = """
    SELECT job_id, seen FROM aihandoff.bulk_jobs
    WHERE bulk_id = %(bulk_id)s AND (outcome IS NULL OR outcome = 'unfinished')
        AND (tried_at IS NULL OR tried_at < %(began)s)
    ORDER BY tried_at NULLS FIRST, job_id LIMIT 1"""
_RECORD_OUTCOME = """
    UPDATE aihandoff.bulk_jobs SET outcome = %s, note = %s, tried_at = clock_timestamp()
    WHERE bulk_id = %s AND job_id = %s AND outcome IS DISTINCT FROM 'done'"""
_BILLED = """
    SELECT j.job_id, coalesce(sum(r.cost_usd), 0) AS cost_usd,
        count(*) FILTER (WHERE r.cost_usd IS NULL AND r.response_id IS NOT NULL AND r.state <> 'running') AS unpriced,
        bool_or(r.number = j.revision AND r.state = 'running'
            AND NOT coalesce(r.response_status = ANY(%(ended)s), false)) AS runs
    FROM aihandoff.jobs AS j JOIN aihandoff.revisions AS r USING (job_id)
    WHERE j.job_id = ANY(%(job_ids)s) GROUP BY j.job_id"""
_READ_VOTES = f"""
    SELECT {columns(Decision, "d")} FROM aihandoff.jobs JOIN aihandoff.decisions AS d ON {OF_NOW}
    WHERE jobs.job_id = ANY(%s) AND jobs.state = 'review' AND d.verdict = 'approve' ORDER BY d.decision_id"""
#: What one response has cost, of the newest jobs of each type.
_TYPICAL = """
    SELECT job_type, median, highest, known
    FROM unnest(%s::text[]) AS wanted (job_type)
    CROSS JOIN LATERAL (
        SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY cost_usd) AS median, max(cost_usd) AS highest,
            count(*) AS known
        FROM (SELECT job_id FROM aihandoff.jobs WHERE jobs.job_type = wanted.job_type
            ORDER BY job_id DESC LIMIT %s) AS newest
        JOIN aihandoff.revisions AS r USING (job_id)
        WHERE r.response_status = 'completed' AND r.cost_usd IS NOT NULL
    ) AS costs
    WHERE known > 0"""
_COUNT = """
    SELECT coalesce(outcome, 'left') AS outcome, count(*) AS jobs FROM aihandoff.bulk_jobs WHERE bulk_id = %s
    GROUP BY 1"""


class BulkAction(StrEnum):
    """What is done to each job."""

    CANCEL = "cancel"
    ROLL_BACK = "roll back"
    RESOLVE_APPLIED = "resolve as applied"
    RESOLVE_NOT_APPLIED = "resolve as not applied"
    RECONCILE = "reconcile"
    REASSIGN = "reassign"
    ACKNOWLEDGE = "acknowledge"


class Outcome(StrEnum):
    """What came of one job."""

    DONE = "done"
    REFUSED = "refused"  # it cannot be done to this job; nothing was changed
    UNFINISHED = "unfinished"  # it has begun, and the next run goes on


@dataclass(frozen=True)
class Bulk:
    """One bulk action.

    :param wanted: the filter, by the names of its parts.
    :param actor_kind: with the two after it, who confirmed it.
    :param reviewers: who may decide then, where it reassigns reviews.
    """

    bulk_id: int
    action: BulkAction
    wanted: dict[str, Any]
    reason: str
    actor_kind: str
    actor_name: str
    actor_user_id: str | None
    created_at: datetime
    reviewers: Reviewers | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "action", BulkAction(self.action))

    @property
    def actor(self) -> Actor:
        """Who confirmed it."""
        return Actor(ActorKind(self.actor_kind), self.actor_name, self.actor_user_id)


@dataclass(frozen=True)
class BulkJob:
    """What came of one job of a bulk action.

    :param outcome: None: it was not taken yet.
    :param note: the result, as text.
    """

    job_id: int
    job_type: str
    job_key: str
    outcome: Outcome | None
    note: str | None
    tried_at: datetime | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcome", None if self.outcome is None else Outcome(self.outcome))


@dataclass(frozen=True)
class Progress:
    """How far a bulk action has come: numbers of jobs."""

    done: int
    refused: int
    unfinished: int
    left: int

    @property
    def total(self) -> int:
        """The jobs that it is about."""
        return self.done + self.refused + self.unfinished + self.left

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.left or self.unfinished)


@dataclass(frozen=True)
class NewBulkJob:
    """One job of a bulk action that begins.

    :param refused: why nothing is done to it; None where it is to be taken.
    """

    job_id: int
    seen: Mapping[str, int]
    refused: str | None


@dataclass(frozen=True)
class Found:
    """A job that a filter finds, with what a bulk action has to know of it.

    :param effects: of its current revision, with their undos.
    :param votes: the approvals by people that count now, where it waits for a decision.
    :param cost_usd: of all its revisions, as far as it is known.
    :param unpriced: how many of its revisions were billed at a price that is unknown.
    :param runs: whether its response runs.
    """

    job: Job
    effects: list[Effect]
    votes: list[Decision]
    cost_usd: Decimal
    unpriced: int
    runs: bool


@dataclass(frozen=True)
class TypicalCost:
    """What one response of a type has cost, in US dollars.

    :param known: of how many.
    """

    job_type: str
    median: Decimal
    highest: Decimal
    known: int


class Bulks:
    """The bulk actions, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def jobs(self, job_ids: Sequence[int]) -> Iterator[Found]:
        """Yield jobs, in this order."""
        for start in range(0, len(job_ids), _READ_AT_ONCE):
            some = list(job_ids[start : start + _READ_AT_ONCE])
            found = self._database.transact(lambda connection: _read(connection, some))  # noqa: B023
            yield from (found[job_id] for job_id in some if job_id in found)

    def typical_costs(self, job_types: Iterable[str]) -> list[TypicalCost]:
        """What one response has cost, of those of these types of which any cost is known."""
        values = [sorted(set(job_types)), _TYPICAL_OF]
        rows = self._database.transact(lambda connection: connection.execute(_TYPICAL, values).fetchall())
        return [TypicalCost(**row) for row in rows]

    def begin(
        self,
        action: BulkAction,
        wanted: Mapping[str, Any],
        jobs: Sequence[NewBulkJob],
        *,
        reason: str,
        actor: Actor,
        reviewers: Reviewers | None = None,
    ) -> int:
        """Record a bulk action with the jobs that it is about, and return its id. Nothing is done to them yet.

        :param reviewers: who may decide then, where it reassigns reviews.
        """

        def work(connection: LedgerConnection) -> int:
            values: dict[str, Any] = {"kind": actor.kind, "name": actor.name, "user_id": actor.user_id}
            values["reason"] = plain(reason)
            to = None if reviewers is None else history.as_json(reviewers.to_json())
            values |= {"action": action, "wanted": history.as_json(wanted), "reviewers": to}
            row = connection.execute(_INSERT, values).fetchone()
            assert row is not None
            bulk_id: int = row["bulk_id"]
            rows = {
                "bulk_id": bulk_id,
                "job_ids": [job.job_id for job in jobs],
                "seen": [canonical_json(job.seen) for job in jobs],
                "outcomes": [None if job.refused is None else Outcome.REFUSED.value for job in jobs],
                "notes": [plain_or_none(job.refused) for job in jobs],
            }
            connection.execute(_INSERT_JOBS, rows)
            return bulk_id

        return self._database.transact(work, step="bulk.begin")

    def read(self, bulk_id: int) -> Bulk:
        """Return one bulk action.

        :raises BulkNotFound: there is none with this id.
        """
        query = f"SELECT {columns(Bulk)} FROM aihandoff.bulk_actions WHERE bulk_id = %s"
        row = self._database.transact(lambda connection: connection.execute(query, [bulk_id]).fetchone())
        if row is None:
            raise BulkNotFound(f"there is no bulk action {bulk_id}, or it is not yours.", written="")
        return _bulk(row)

    def newest(self, actor: Actor, limit: int) -> list[Bulk]:
        """Return the bulk actions that an actor has confirmed, the newest first."""
        query = f"""SELECT {columns(Bulk)} FROM aihandoff.bulk_actions
            WHERE actor_kind = %s AND actor_name = %s AND actor_user_id IS NOT DISTINCT FROM %s
            ORDER BY bulk_id DESC LIMIT %s"""
        values = [actor.kind, actor.name, actor.user_id, limit]
        rows = self._database.transact(lambda connection: connection.execute(query, values).fetchall())
        return [_bulk(row) for row in rows]

    def progress(self, bulk_id: int) -> Progress:
        """Return how far a bulk action has come."""
        rows = self._database.transact(lambda connection: connection.execute(_COUNT, [bulk_id]).fetchall())
        counts = {row["outcome"]: row["jobs"] for row in rows}
        return Progress(**{each.name: counts.get(each.name, 0) for each in fields(Progress)})

    def report(self, bulk_id: int) -> list[BulkJob]:
        """Return what came of each job, those first that were refused or are not finished."""
        query = f"""SELECT {columns(BulkJob)} FROM (
                SELECT b.job_id, j.job_type, j.job_key, b.outcome, b.note, b.tried_at
                FROM aihandoff.bulk_jobs AS b JOIN aihandoff.jobs AS j USING (job_id) WHERE bulk_id = %s
            ) AS report ORDER BY outcome = 'done', outcome, job_id"""
        rows = self._database.transact(lambda connection: connection.execute(query, [bulk_id]).fetchall())
        return [BulkJob(**row) for row in rows]

    def next(self, bulk_id: int, *, began: datetime) -> tuple[int, dict[str, int]] | None:
        """Return the next job to take, with what was shown of its effects; None where no job is left.

        :param began: when the run began, by the database's clock: a job that it has tried is left to the next run.
        """
        values = {"bulk_id": bulk_id, "began": began}
        row = self._database.transact(lambda connection: connection.execute(_NEXT, values).fetchone())
        return None if row is None else (row["job_id"], row["seen"])

    def record(self, bulk_id: int, job_id: int, outcome: Outcome, note: str) -> None:
        """Record what came of one job. What is done stays done."""
        values = [outcome, plain(note), bulk_id, job_id]
        self._database.transact(
            lambda connection: connection.execute(_RECORD_OUTCOME, values), repeatable=True, step="bulk.record"
        )


def _bulk(row: Mapping[str, Any]) -> Bulk:
    to = row["reviewers"]
    return Bulk(**{**row, "reviewers": None if to is None else Reviewers.from_json(to)})


def _read(connection: LedgerConnection, job_ids: Sequence[int]) -> dict[int, Found]:
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    effects: dict[int, list[Effect]] = {}
    query = f"""SELECT {columns(Effect, "e")} FROM aihandoff.effects AS e
        JOIN aihandoff.jobs AS j ON j.job_id = e.job_id AND j.revision = e.revision
        WHERE e.job_id = ANY(%s) ORDER BY e.position"""
    for row in connection.execute(query, [job_ids]).fetchall():
        effects.setdefault(row["job_id"], []).append(Effect(**row))
    votes: dict[int, list[Decision]] = {}
    for row in connection.execute(_READ_VOTES, [job_ids]).fetchall():
        votes.setdefault(row["job_id"], []).append(Decision(**row))
    ended = [status.value for status in ENDED_RESPONSE_STATUSES]
    rows = connection.execute(_BILLED, {"job_ids": job_ids, "ended": ended}).fetchall()
    billed = {row.pop("job_id"): row for row in rows}
    rows = connection.execute(f"SELECT {columns(Job)} FROM aihandoff.jobs WHERE job_id = ANY(%s)", [job_ids]).fetchall()
    jobs = [Job(**row) for row in rows]
    return {
        job.job_id: Found(
            job, effects.get(job.job_id, []), approvals_of(job, votes.get(job.job_id, [])), **billed[job.job_id]
        )
        for job in jobs
    }
