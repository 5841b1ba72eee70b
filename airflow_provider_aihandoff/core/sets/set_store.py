"""The rows of sets, and what is read of their jobs. Every function is one short transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from airflow_provider_aihandoff.core.arguments import MAX_JOB_KEY, MAX_JOB_TYPE, identifier
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.database.history import Move, as_json
from airflow_provider_aihandoff.core.errors import SetNotFound
from airflow_provider_aihandoff.core.generation.revision_store import COUNTED
from airflow_provider_aihandoff.core.models import Actor, Effect, Job, Owner, columns
from airflow_provider_aihandoff.core.sets.set_record import JobSet, LeftOut, SetTotals, SetWrites, SlowJob
from airflow_provider_aihandoff.core.sets.transport import Transport
from airflow_provider_aihandoff.core.states import (
    ENDED_RESPONSE_STATUSES,
    EffectState,
    JobEvent,
    JobState,
    ResponseStatus,
)

_COLUMNS = columns(JobSet)
#: An attempt that comes later keeps the deadline, as long as it has not passed: a retry does not move it.
_OPEN = f"""
    INSERT INTO aihandoff.sets (set_type, set_key, requested_by, dag_id, run_id, task_id, map_index, deadline, left_out,
        created_at, updated_at, complete_by)
    VALUES (%(set_type)s, %(set_key)s, %(requested_by)s, %(dag_id)s, %(run_id)s, %(task_id)s, %(map_index)s,
        coalesce(%(until)s::timestamptz, clock_timestamp() + %(lasts)s::interval), %(left_out)s, clock_timestamp(),
        clock_timestamp(), coalesce(%(by)s::timestamptz, clock_timestamp() + %(within)s::interval))
    ON CONFLICT (set_type, set_key) DO UPDATE SET requested_by = excluded.requested_by, dag_id = excluded.dag_id,
        run_id = excluded.run_id, task_id = excluded.task_id, map_index = excluded.map_index,
        left_out = excluded.left_out, updated_at = excluded.updated_at, items = NULL,
        deadline = CASE WHEN sets.deadline > clock_timestamp() AND sets.run_id = excluded.run_id THEN sets.deadline
            ELSE excluded.deadline END,
        complete_by = CASE WHEN sets.deadline > clock_timestamp() AND sets.run_id = excluded.run_id
            AND excluded.complete_by IS NOT NULL THEN coalesce(sets.complete_by, excluded.complete_by)
            ELSE excluded.complete_by END
    RETURNING {_COLUMNS}"""
_OPENED = f"""
    UPDATE aihandoff.sets SET items = %(items)s, left_out = %(left_out)s, updated_at = clock_timestamp()
    WHERE set_id = %(set_id)s RETURNING {_COLUMNS}"""
_SENDS_BY = f"""
    UPDATE aihandoff.sets SET transport = %(transport)s, transport_why = %(why)s, updated_at = clock_timestamp()
    WHERE set_id = %(set_id)s RETURNING {_COLUMNS}"""
_READ = f"SELECT {_COLUMNS} FROM aihandoff.sets WHERE set_id = %s"
_LIST = f"""
    SELECT {_COLUMNS} FROM aihandoff.sets
    WHERE (%(dag_ids)s::text[] IS NULL OR dag_id = ANY(%(dag_ids)s))
        AND (%(before)s::bigint IS NULL OR set_id < %(before)s)
    ORDER BY set_id DESC LIMIT %(limit)s"""
_WRITES = """
    SELECT count(*) FILTER (WHERE e.state = 'applied') AS applied, min(e.claimed_at) AS first,
        max(e.updated_at) FILTER (WHERE e.state = 'applied') AS newest,
        count(*) FILTER (WHERE e.state IN ('planned', 'claimed') AND j.state IN ('approved', 'applying')) AS left
    FROM aihandoff.jobs AS j JOIN aihandoff.effects AS e ON e.job_id = j.job_id AND e.revision = j.revision
    WHERE j.set_id = %s AND e.undoes IS NULL"""
_SLOWEST = """
    SELECT j.job_id, j.job_key, r.submitted_at AS since FROM aihandoff.jobs AS j
    JOIN aihandoff.revisions AS r ON r.job_id = j.job_id AND r.number = j.revision
    WHERE j.set_id = %(set_id)s AND j.state = 'running' AND r.submitted_at IS NOT NULL
    ORDER BY r.submitted_at, j.job_id LIMIT %(limit)s"""
_NOTIFIED = "UPDATE aihandoff.sets SET notified_at = clock_timestamp() WHERE set_id = %s"

#: Of each set: what its jobs add up to.
_STATES = """
    SELECT set_id, state, count(*) AS number, sum(known_cost_usd) AS cost FROM aihandoff.jobs
    WHERE set_id = ANY(%s) GROUP BY set_id, state"""
_FAILURES = """
    SELECT j.set_id, coalesce(r.error ->> 'kind', 'other') AS kind, count(*) AS number
    FROM aihandoff.jobs AS j JOIN aihandoff.revisions AS r ON r.job_id = j.job_id AND r.number = j.revision
    WHERE j.set_id = ANY(%s) AND j.state = 'failed' GROUP BY 1, 2"""
_REVISIONS = """
    SELECT j.set_id, min(r.submitted_at) AS first_sent, max(r.completed_at) AS newest_output,
        count(*) FILTER (WHERE r.completed_at IS NOT NULL) AS drafted,
        count(DISTINCT r.job_id) FILTER (WHERE r.usage IS NOT NULL AND r.cost_usd IS NULL) AS unpriced,
        count(*) FILTER (WHERE r.held_kind IS NOT NULL AND r.state IN ('queued', 'submitting')) AS held
    FROM aihandoff.jobs AS j JOIN aihandoff.revisions AS r ON r.job_id = j.job_id
    WHERE j.set_id = ANY(%s) GROUP BY j.set_id"""
_EFFECTS = """
    SELECT j.set_id, count(DISTINCT e.job_id) FILTER (WHERE e.state = 'unknown') AS unknown,
        count(*) FILTER (WHERE e.held_kind IS NOT NULL) AS held,
        count(DISTINCT e.job_id) FILTER (WHERE e.state = 'applied' AND j.state = 'completed') AS written
    FROM aihandoff.jobs AS j JOIN aihandoff.effects AS e ON e.job_id = j.job_id AND e.revision = j.revision
    WHERE j.set_id = ANY(%s) AND e.undoes IS NULL GROUP BY j.set_id"""

#: The revisions that something is waited for: a response, or the moment at which a request may be sent.
_WAITING = """
    SELECT j.job_id, r.number, r.conn_id, r.response_id, r.deadline, r.submit_lease_until AS lease_until,
        CASE WHEN r.state = 'submitting' AND r.submit_token IS NULL AND r.unknown_submissions > 0
            THEN r.conversation_id END AS handle
    FROM aihandoff.jobs AS j JOIN aihandoff.revisions AS r ON r.job_id = j.job_id AND r.number = j.revision
    WHERE j.set_id = %(set_id)s AND j.state IN ('queued', 'running')
        AND (r.state = 'running' OR r.submit_lease_until IS NOT NULL) AND r.batch_id IS NULL
        AND (r.changes IS NOT NULL) = %(changes)s
        AND (%(with_ended)s OR r.response_status IS NULL OR NOT r.response_status = ANY(%(ended)s))
    ORDER BY j.job_id"""
_IS_WAITING = f"SELECT EXISTS ({_WAITING}) AS it_is"
#: Those whose request was lost: the provider's conversation may have its output; or its response is waited for until
#: the deadline, since too little was known to say how long one may take.
_LOST = """
    SELECT j.job_id, r.number FROM aihandoff.jobs AS j
    JOIN aihandoff.revisions AS r ON r.job_id = j.job_id AND r.number = j.revision
    WHERE j.set_id = %(set_id)s AND j.state = 'queued' AND r.state = 'submitting' AND r.submit_token IS NULL
        AND r.unknown_submissions > 0 AND r.batch_id IS NULL AND r.changes IS NULL
        AND CASE WHEN %(in_handles)s THEN r.conversation_id IS NOT NULL
            ELSE r.conversation_id IS NULL AND r.on_lost IS NULL AND r.submit_lease_until >= r.deadline END
        AND j.job_id > %(after)s
    ORDER BY j.job_id LIMIT %(limit)s"""
#: Those whose response has ended, and whose output is there to be taken; and those past their deadline.
_ENDED = """
    SELECT j.job_id, r.number FROM aihandoff.jobs AS j
    JOIN aihandoff.revisions AS r ON r.job_id = j.job_id AND r.number = j.revision
    WHERE j.set_id = %(set_id)s AND j.state = 'running' AND r.state = 'running' AND r.batch_id IS NULL
        AND j.job_id > %(after)s
        AND (r.response_status = ANY(%(ended)s) OR r.deadline <= clock_timestamp())
    ORDER BY j.job_id LIMIT %(limit)s"""
#: A request of it may be asked for now; or it failed, and may have another revision.
_IS_SENDABLE = f"""(
        j.state = 'queued' AND r.based_on IS NULL AND r.batch_id IS NULL
            AND (r.submit_lease_until IS NULL OR least(r.submit_lease_until, r.deadline) <= clock_timestamp())
        OR %(retries)s AND j.state = 'failed' AND r.based_on IS NULL AND j.acknowledged_at IS NULL
            AND r.submissions > 0 AND r.deadline > clock_timestamp()
            AND (r.error ->> 'kind') = ANY(%(retriable)s)
            AND (coalesce((r.error ->> 'final')::boolean, false) IS FALSE
                OR %(incomplete)s AND r.error ->> 'code' = 'max_output_tokens')
            AND (SELECT count(*) FROM aihandoff.revisions WHERE job_id = j.job_id AND {COUNTED}) < j.max_revisions)"""
_SENDABLE = f"""
    SELECT j.job_id, j.job_type, j.job_key FROM aihandoff.jobs AS j
    JOIN aihandoff.revisions AS r ON r.job_id = j.job_id AND r.number = j.revision
    WHERE j.set_id = %(set_id)s AND j.job_id <> ALL(%(without)s) AND {_IS_SENDABLE}
    ORDER BY j.state DESC, j.job_id LIMIT %(limit)s"""
#: The same among those with some keys.
_SENDABLE_AMONG = f"""
    SELECT j.job_id, j.job_type, j.job_key FROM aihandoff.jobs AS j
    JOIN unnest(%(job_types)s::text[], %(job_keys)s::text[]) AS given (job_type, job_key) USING (job_type, job_key)
    JOIN aihandoff.revisions AS r ON r.job_id = j.job_id AND r.number = j.revision
    WHERE j.set_id = %(set_id)s AND {_IS_SENDABLE}"""
_ENDED_KEYS = """
    SELECT j.job_type, j.job_key FROM aihandoff.jobs AS j
    JOIN unnest(%(job_types)s::text[], %(job_keys)s::text[]) AS given (job_type, job_key) USING (job_type, job_key)
    WHERE j.set_id = %(set_id)s AND j.state IN ('failed', 'cancelled')"""
_IN_FLIGHT = """
    SELECT count(*) AS number FROM aihandoff.jobs AS j
    JOIN aihandoff.revisions AS r ON r.job_id = j.job_id AND r.number = j.revision
    WHERE j.set_id = %s AND j.state IN ('queued', 'running') AND r.state IN ('submitting', 'running')
        AND r.batch_id IS NULL"""
#: Approved jobs for which this task has something to write, or to find out.
_WRITABLE = f"""
    SELECT {columns(Job)} FROM aihandoff.jobs
    WHERE set_id = %(set_id)s AND state IN ('approved', 'applying') AND job_id > %(after)s AND (
        NOT EXISTS (SELECT FROM aihandoff.effects AS e WHERE e.job_id = jobs.job_id AND e.revision = jobs.revision
            AND e.undoes IS NULL AND e.task_id = %(task_id)s)
        OR EXISTS (SELECT FROM aihandoff.effects AS e WHERE e.job_id = jobs.job_id AND e.revision = jobs.revision
            AND e.undoes IS NULL AND e.task_id = %(task_id)s AND (e.state IN ('planned', 'claimed', 'unknown')
                OR %(refused)s AND e.state = 'refused')))
    ORDER BY job_id LIMIT %(limit)s"""
#: How many effects of one task there are in each state.
_EFFECT_STATES = """
    SELECT e.state, count(*) AS number FROM aihandoff.jobs AS j
    JOIN aihandoff.effects AS e ON e.job_id = j.job_id AND e.revision = j.revision
    WHERE j.set_id = %(set_id)s AND e.task_id = %(task_id)s AND e.undoes IS NULL GROUP BY e.state"""
#: The job of a set that was the last to be completed with something written, and how many there are. By its effects: a
#: task that attaches to a completed job changes the job as well.
_COMPLETED = """
    SELECT j.job_id, count(*) OVER () AS number FROM aihandoff.jobs AS j
    CROSS JOIN LATERAL (
        SELECT max(e.updated_at) AS at FROM aihandoff.effects AS e
        WHERE e.job_id = j.job_id AND e.revision = j.revision AND e.undoes IS NULL AND e.state = 'applied') AS written
    WHERE j.set_id = %s AND j.state = 'completed' AND written.at IS NOT NULL
    ORDER BY written.at DESC, j.job_id DESC LIMIT 1"""
_UNASKED = f"""
    SELECT {columns(Job)} FROM aihandoff.jobs
    WHERE set_id = %(set_id)s AND job_id > %(after)s
        AND (state = 'review' AND review_digest IS NULL OR %(again)s AND state IN ('review', 'approved', 'applying'))
    ORDER BY job_id LIMIT %(limit)s"""
_UNDECIDED = """
    SELECT count(*) FILTER (WHERE j.review_digest IS NOT NULL OR j.state <> 'review') AS asked,
        count(*) FILTER (WHERE j.review_digest IS NULL AND j.state = 'review') AS unasked
    FROM aihandoff.jobs AS j
    WHERE j.set_id = %s AND (j.state = 'review' OR j.state IN ('queued', 'running') AND EXISTS (
        SELECT FROM aihandoff.revisions AS r
        WHERE r.job_id = j.job_id AND r.number = j.revision AND r.changes IS NOT NULL))"""
_WAITING_EFFECTS = f"""
    SELECT {columns(Effect, "e")} FROM aihandoff.jobs AS j
    JOIN aihandoff.effects AS e ON e.job_id = j.job_id AND e.revision = j.revision
    WHERE j.set_id = %(set_id)s AND e.task_id = %(task_id)s AND e.undoes IS NULL
        AND (e.state IN ('claimed', 'unknown') OR e.state = 'planned' AND e.held_kind IS NOT NULL)
    ORDER BY e.effect_id"""
_JOBS = f"""
    SELECT {columns(Job)} FROM aihandoff.jobs
    WHERE set_id = %(set_id)s AND state = ANY(%(states)s) AND job_id > %(after)s
    ORDER BY job_id LIMIT %(limit)s"""
_LOCK = f"SELECT {columns(Job)} FROM aihandoff.jobs WHERE job_id = ANY(%s) ORDER BY job_id FOR UPDATE"
_MARK_ENDED = """
    UPDATE aihandoff.revisions AS r SET response_status = given.status
    FROM unnest(%(job_ids)s::bigint[], %(numbers)s::integer[], %(statuses)s::text[]) AS given (job_id, number, status)
    WHERE r.job_id = given.job_id AND r.number = given.number AND r.state = 'running'
        AND (r.response_status IS NULL OR NOT r.response_status = ANY(%(ended)s))
    RETURNING r.job_id, r.number, r.response_id, r.response_status"""

#: The kinds of error after which the model may be asked again: not what a person has to fix first.
_RETRIABLE = ("mismatch", "refusal", "empty", "failed", "incomplete", "cancelled", "gone")

_ENDED_STATUSES = [status.value for status in ENDED_RESPONSE_STATUSES]

_NOTHING = Decimal(0)

#: How many jobs one page, and one transaction, is about.
PAGE = 500


@dataclass(frozen=True)
class SetSpec:
    """What a task asks for with a set.

    :param deadline: how long it may take, by the database's clock, or until when.
    :param complete_by: within how long, or until when, its outputs are wanted; None: as they come.
    """

    set_type: str
    set_key: str
    requested_by: str
    owner: Owner
    deadline: timedelta | datetime
    complete_by: timedelta | datetime | None = None


@dataclass(frozen=True)
class Waiting:
    """A revision of a set that something is waited for.

    :param response_id: of the response that runs; None where it waits until a request may be sent.
    :param handle: the provider's conversation that a lost request is found in, if there is one.
    :param lease_until: until when no request may be sent.
    """

    job_id: int
    number: int
    conn_id: str
    response_id: str | None
    deadline: datetime
    lease_until: datetime | None
    handle: str | None


@dataclass(frozen=True)
class Sendable:
    """A job of a set whose request may be sent now."""

    job_id: int
    job_type: str
    job_key: str


@dataclass(frozen=True)
class Undecided:
    """How many jobs of a set wait for a decision.

    :param asked: people are asked about them, or want another revision of them.
    :param unasked: their plan is yet to be rendered, or cannot be.
    """

    asked: int
    unasked: int


class Sets:
    """Sets, and what is done with many jobs of one together, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, spec: SetSpec, left_out: LeftOut) -> JobSet:
        """Make the set, or come back to the one with the same type and key. Safe to repeat.

        :param left_out: the items that are known to have no job in it.
        :raises RequestError: an argument could not be stored, or found again.
        """
        values = {
            **vars(spec.owner),
            "set_type": identifier("set_type", spec.set_type, max_bytes=MAX_JOB_TYPE),
            "set_key": identifier("set_key", spec.set_key, max_bytes=MAX_JOB_KEY),
            "requested_by": identifier("requested_by", spec.requested_by),
            "until": None if isinstance(spec.deadline, timedelta) else spec.deadline,
            "lasts": spec.deadline if isinstance(spec.deadline, timedelta) else None,
            "by": spec.complete_by if isinstance(spec.complete_by, datetime) else None,
            "within": spec.complete_by if isinstance(spec.complete_by, timedelta) else None,
            "left_out": as_json(left_out.as_json()),
        }
        return self._set(_OPEN, values, step="set.open")

    def opened(self, set_id: int, items: int, left_out: LeftOut) -> JobSet:
        """Record that every item is a job of the set, or left out. Safe to repeat.

        :param items: how many there were.
        """
        values = {"set_id": set_id, "items": items, "left_out": as_json(left_out.as_json())}
        return self._set(_OPENED, values, step="set.opened")

    def sends_by(self, set_id: int, transport: Transport, why: str | None) -> JobSet:
        """Record how the requests of a set are sent from now on. Safe to repeat.

        :param why: as a sentence; None where its author has named it.
        """
        return self._set(_SENDS_BY, {"set_id": set_id, "transport": transport, "why": why}, step="set.opened")

    def _set(self, statement: str, values: dict[str, Any], *, step: str) -> JobSet:
        def work(connection: LedgerConnection) -> JobSet:
            row = connection.execute(statement, values).fetchone()
            assert row is not None
            return JobSet(**row)

        return self._database.transact(work, repeatable=True, step=step)

    def read(self, set_id: int) -> JobSet:
        """Return one set.

        :raises SetNotFound: there is none with this id.
        """
        rows = self._all(_READ, [set_id])
        if not rows:
            raise SetNotFound(
                f"the ledger has no set {set_id}.", remedy="`airflow aihandoff sets list` shows the ones it has."
            )
        return JobSet(**rows[0])

    def newest(
        self, *, dag_ids: Sequence[str] | None = None, before: int | None = None, limit: int = 50
    ) -> list[JobSet]:
        """Return one page of sets, newest first.

        :param dag_ids: only sets of these Dags; None for every Dag.
        :param before: the last set of the page before.
        """
        values = {"dag_ids": None if dag_ids is None else list(dag_ids), "before": before, "limit": limit}
        return [JobSet(**row) for row in self._all(_LIST, values)]

    def totals(self, set_ids: Sequence[int]) -> dict[int, SetTotals]:
        """What the jobs of sets add up to, by the ids of the sets, as of one moment."""

        def work(connection: LedgerConnection) -> dict[int, SetTotals]:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            ids = [list(set_ids)]
            states = connection.execute(_STATES, ids).fetchall()
            failures = connection.execute(_FAILURES, ids).fetchall()
            revisions = {row["set_id"]: row for row in connection.execute(_REVISIONS, ids).fetchall()}
            effects = {row["set_id"]: row for row in connection.execute(_EFFECTS, ids).fetchall()}
            return {
                set_id: _totals(
                    [row for row in states if row["set_id"] == set_id],
                    [row for row in failures if row["set_id"] == set_id],
                    revisions.get(set_id, {}),
                    effects.get(set_id, {}),
                )
                for set_id in set_ids
            }

        return self._database.transact(work)

    def total(self, set_id: int) -> SetTotals:
        """What the jobs of one set add up to."""
        return self.totals([set_id])[set_id]

    def writes(self, set_id: int) -> SetWrites:
        """How far the writes of one set have come."""
        return SetWrites(**self._all(_WRITES, [set_id])[0])

    def slowest(self, set_id: int, *, limit: int) -> list[SlowJob]:
        """The jobs of a set whose responses run, the one first that was sent first.

        :param limit: how many at most.
        """
        return [SlowJob(**row) for row in self._all(_SLOWEST, {"set_id": set_id, "limit": limit})]

    def jobs(self, set_id: int, states: Sequence[JobState], *, after: int = 0, limit: int = PAGE) -> list[Job]:
        """One page of the jobs of a set in some states, the oldest first.

        :param after: the last job of the page before.
        """
        values = {"set_id": set_id, "states": [state.value for state in states], "after": after, "limit": limit}
        return [Job(**row) for row in self._all(_JOBS, values)]

    def waiting(self, set_id: int, *, changes: bool = False, ended: bool = True) -> list[Waiting]:
        """The revisions of a set that something is waited for.

        :param changes: those that a reviewer has asked for, in the place of the others.
        :param ended: also those whose response has ended, and whose output was not taken.
        """
        values = {"set_id": set_id, "changes": changes, "with_ended": ended, "ended": _ENDED_STATUSES}
        return [Waiting(**row) for row in self._all(_WAITING, values)]

    def is_waiting(self, set_id: int) -> bool:
        """Whether :meth:`waiting` has any."""
        values = {"set_id": set_id, "changes": False, "with_ended": True, "ended": _ENDED_STATUSES}
        return bool(self._all(_IS_WAITING, values)[0]["it_is"])

    def lost(self, set_id: int, *, in_handles: bool, after: int = 0) -> list[tuple[int, int]]:
        """One page of ``(job id, revision)`` of requests whose answer was lost: a response may exist.

        :param in_handles: those whose output may be in the provider's conversation; otherwise, those that have none and
            are waited for until their deadline, which their author did not choose.
        :param after: the last job of the page before.
        """
        rows = self._all(_LOST, {"set_id": set_id, "in_handles": in_handles, "after": after, "limit": PAGE})
        return [(row["job_id"], row["number"]) for row in rows]

    def writable(self, set_id: int, task_id: str, *, refused: bool, after: int = 0) -> list[Job]:
        """One page of the approved jobs of a set for which a task has something to write, or to find out.

        :param refused: also those whose effect the target has refused.
        :param after: the last job of the page before.
        """
        values = {"set_id": set_id, "task_id": task_id, "refused": refused, "after": after, "limit": PAGE}
        return [Job(**row) for row in self._all(_WRITABLE, values)]

    def effect_states(self, set_id: int, task_id: str) -> dict[EffectState, int]:
        """How many effects of one task the jobs of a set have in each state."""
        rows = self._all(_EFFECT_STATES, {"set_id": set_id, "task_id": task_id})
        return {EffectState(row["state"]): row["number"] for row in rows}

    def completed(self, set_id: int) -> tuple[int, int | None]:
        """How many jobs of a set are completed and have written something, and which was the last one."""
        rows = self._all(_COMPLETED, (set_id,))
        return (rows[0]["number"], rows[0]["job_id"]) if rows else (0, None)

    def unasked(self, set_id: int, *, again: bool, after: int = 0) -> list[Job]:
        """One page of the jobs of a set whose plan is to be rendered, and asked about.

        :param again: also those that have one, which may have changed since.
        :param after: the last job of the page before.
        """
        values = {"set_id": set_id, "again": again, "after": after, "limit": PAGE}
        return [Job(**row) for row in self._all(_UNASKED, values)]

    def undecided(self, set_id: int) -> Undecided:
        """How many jobs of a set wait for a decision."""
        (row,) = self._all(_UNDECIDED, (set_id,))
        return Undecided(**row)

    def waiting_effects(self, set_id: int, task_id: str) -> list[Effect]:
        """The effects of one task for the jobs of a set of which the outcome is not known, or which are held."""
        return [Effect(**row) for row in self._all(_WAITING_EFFECTS, {"set_id": set_id, "task_id": task_id})]

    def ended(self, set_id: int, *, after: int = 0) -> list[tuple[int, int]]:
        """One page of ``(job id, revision)`` of running revisions whose response has ended, or is too late.

        :param after: the last job of the page before.
        """
        values = {"set_id": set_id, "after": after, "ended": _ENDED_STATUSES, "limit": PAGE}
        return [(row["job_id"], row["number"]) for row in self._all(_ENDED, values)]

    def sendable(
        self, set_id: int, *, limit: int, incomplete: bool, retries: bool = True, without: Sequence[int] = ()
    ) -> list[Sendable]:
        """The jobs of a set of which a request may be sent now, as far as this says: each asks for its permission.

        :param limit: how many at most.
        :param incomplete: also those whose response stopped at ``max_output_tokens``.
        :param retries: also jobs that failed, and may have another revision.
        :param without: jobs that are left out.
        """
        values = {"set_id": set_id, "limit": limit, "without": list(without), **_retries(retries, incomplete)}
        return [Sendable(**row) for row in self._all(_SENDABLE, values)]

    def sendable_among(
        self, set_id: int, keys: Sequence[tuple[str, str]], *, incomplete: bool
    ) -> dict[tuple[str, str], int]:
        """:meth:`sendable` of the jobs with some types and keys: their ids, by these."""
        values = {"set_id": set_id, **_arrays(keys), **_retries(True, incomplete)}
        return {(row["job_type"], row["job_key"]): row["job_id"] for row in self._all(_SENDABLE_AMONG, values)}

    def without_output(self, set_id: int, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of these types and keys whose jobs in a set have failed, or were cancelled."""
        rows = self._all(_ENDED_KEYS, {"set_id": set_id, **_arrays(keys)})
        return {(row["job_type"], row["job_key"]) for row in rows}

    def in_flight(self, set_id: int) -> int:
        """How many requests of a set are being sent, or have a response that runs; without those in batches."""
        return int(self._all(_IN_FLIGHT, [set_id])[0]["number"])

    def record_ended(self, ended: Sequence[tuple[int, int, ResponseStatus]], *, actor: Actor) -> int:
        """Record that responses have ended, as :meth:`core.generation.output_store.Outputs.ended` does for one.

        :param ended: ``(job id, revision, status)``; one that is known, or has moved on, changes nothing.
        :return: how many were not known before.
        """
        known = 0
        for start in range(0, len(ended), PAGE):
            page = ended[start : start + PAGE]
            known += self._database.transact(
                lambda connection, page=page: _record_ended(connection, page, actor),  # type: ignore[misc]
                repeatable=True,
                step="set.ended",
            )
        return known

    def notified(self, set_id: int) -> None:
        """Record that people were notified that jobs of the set wait for them. Safe to repeat."""
        self._database.transact(
            lambda connection: connection.execute(_NOTIFIED, [set_id]), repeatable=True, step="set.notify"
        )

    def _all(self, query: str, values: Any) -> list[dict[str, Any]]:
        return self._database.transact(lambda connection: connection.execute(query, values).fetchall())


def _retries(retries: bool, incomplete: bool) -> dict[str, Any]:
    return {"retries": retries, "incomplete": incomplete, "retriable": list(_RETRIABLE)}


def _arrays(keys: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    return {"job_types": [job_type for job_type, _ in keys], "job_keys": [job_key for _, job_key in keys]}


def _record_ended(connection: LedgerConnection, ended: Sequence[tuple[int, int, ResponseStatus]], actor: Actor) -> int:
    """One transaction of :meth:`Sets.record_ended`."""
    jobs = {
        row["job_id"]: Job(**row) for row in connection.execute(_LOCK, [[job_id for job_id, _, _ in ended]]).fetchall()
    }
    current = [
        (job_id, number, status)
        for job_id, number, status in ended
        if job_id in jobs and jobs[job_id].state is JobState.RUNNING and jobs[job_id].revision == number
    ]
    values = {
        "job_ids": [job_id for job_id, _, _ in current],
        "numbers": [number for _, number, _ in current],
        "statuses": [status.value for _, _, status in current],
        "ended": _ENDED_STATUSES,
    }
    steps = [
        Move(
            jobs[row["job_id"]],
            JobEvent.RESPONSE_ENDED,
            {"revision": row["number"], "response_id": row["response_id"], "status": row["response_status"]},
        )
        for row in connection.execute(_MARK_ENDED, values).fetchall()
    ]
    return len(history.move_many(connection, steps, actor=actor))


def _totals(
    states: Sequence[dict[str, Any]],
    failures: Sequence[dict[str, Any]],
    revisions: dict[str, Any],
    effects: dict[str, Any],
) -> SetTotals:
    return SetTotals(
        states={JobState(row["state"]): row["number"] for row in states},
        written=effects.get("written", 0),
        unknown=effects.get("unknown", 0),
        held=revisions.get("held", 0) + effects.get("held", 0),
        failures={row["kind"]: row["number"] for row in failures},
        cost_usd=sum((row["cost"] for row in states), start=_NOTHING),
        unpriced=revisions.get("unpriced", 0),
        drafted=revisions.get("drafted", 0),
        first_sent=revisions.get("first_sent"),
        newest_output=revisions.get("newest_output"),
    )
