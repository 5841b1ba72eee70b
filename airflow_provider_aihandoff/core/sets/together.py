"""The steps of the submit protocol for many jobs of a set in one transaction, where nothing has to be weighed.

What a single job's step does in some ten round trips and a commit, these do for a group in as many. Each job of the
group gets what the single step gives: its line in the history, its own token, its own row. A process that dies between
the permission and the answers leaves an unknown submission for each of the group, and each is counted: so a group is
no larger than what is sent at the same time.

Only what is plain is done here. A request that a pause, a limit, a budget or ``max_cost_usd`` is about, one that was
sent before, and a response that brings no output, or comes when its job has moved on, are left to the step of the
single job, which knows what to do. The jobs of a group are locked in the order of their ids, so that no two wait for
each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.database.history import Move
from airflow_provider_aihandoff.core.digests import canonical_json, digest_of_json
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.response_counts import count_response
from airflow_provider_aihandoff.core.generation.submission_store import MAX_REFUSALS, Intent
from airflow_provider_aihandoff.core.models import Actor, Job, Revision, columns
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind
from airflow_provider_aihandoff.core.rates.slowdown import Heard
from airflow_provider_aihandoff.core.rates.slowdown_store import hear
from airflow_provider_aihandoff.core.states import JobEvent, JobState, ResponseStatus
from airflow_provider_aihandoff.core.text import plain

_READ = f"""
    SELECT {columns(Revision, "r")} FROM unnest(%(job_ids)s::bigint[], %(numbers)s::integer[]) WITH ORDINALITY
        AS given (job_id, number, place)
    JOIN aihandoff.revisions AS r ON r.job_id = given.job_id AND r.number = given.number ORDER BY given.place"""
#: Whether there is anything that could hold one of these requests; some of it may be about other requests.
_IS_WEIGHED = """
    SELECT EXISTS (SELECT FROM aihandoff.pauses WHERE ended_at IS NULL
            AND (conn_id IS NULL OR conn_id = ANY(%(conn_ids)s))
            AND (job_type IS NULL OR job_type = ANY(%(job_types)s)) AND (dag_id IS NULL OR dag_id = ANY(%(dag_ids)s)))
        OR EXISTS (SELECT FROM aihandoff.spending_limits WHERE conn_id = ANY(%(conn_ids)s))
        OR EXISTS (SELECT FROM aihandoff.budgets WHERE ended_at IS NULL
            AND (conn_id IS NULL OR conn_id = ANY(%(conn_ids)s))
            AND (job_type IS NULL OR job_type = ANY(%(job_types)s)) AND (dag_id IS NULL OR dag_id = ANY(%(dag_ids)s)))
        OR EXISTS (SELECT FROM aihandoff.rate_limits
            WHERE (kind = %(kind)s AND name = ANY(%(conn_ids)s) OR kind = 'key' AND name = ANY(%(rate_keys)s))
            AND (amount IS NOT NULL OR closed_until > clock_timestamp() OR slowed_at IS NOT NULL)) AS is_weighed,
        clock_timestamp() AS now"""
#: A revision of which nothing was sent, and nothing held.
_FIRST = f"""
    SELECT {columns(Revision)} FROM aihandoff.revisions AS r
    JOIN unnest(%(job_ids)s::bigint[], %(numbers)s::integer[]) AS given (job_id, number) USING (job_id, number)
    WHERE r.state = 'queued' AND r.submissions = 0 AND r.unknown_submissions = 0 AND r.submit_token IS NULL
        AND r.submit_lease_until IS NULL AND r.held_kind IS NULL AND r.conversation_id IS NULL
        AND r.refusals < {MAX_REFUSALS} AND r.deadline > clock_timestamp()"""
_MARK_SUBMITTING = f"""
    UPDATE aihandoff.revisions AS r SET state = 'submitting', submissions = 1, submit_token = given.token,
        submit_lease_until = clock_timestamp() + %(lease)s, submitted_at = clock_timestamp(),
        worst_cost_usd = given.worst
    FROM unnest(%(ids)s::bigint[], %(tokens)s::uuid[], %(worst)s::numeric[]) AS given (revision_id, token, worst)
    WHERE r.revision_id = given.revision_id
    RETURNING {columns(Revision, "r")}, extract(epoch FROM r.deadline - clock_timestamp())::float8 AS seconds_left"""
#: By the jobs: no index knows the tokens.
_PERMITTED = f"""
    SELECT {columns(Revision, "r")}, extract(epoch FROM r.deadline - clock_timestamp())::float8 AS seconds_left
    FROM unnest(%(job_ids)s::bigint[], %(numbers)s::integer[], %(tokens)s::uuid[]) AS given (job_id, number, token)
    JOIN aihandoff.revisions AS r ON r.job_id = given.job_id AND r.number = given.number
    WHERE r.submit_token = given.token"""
#: In the order of the ids, so that two of these do not wait for each other; before any lock on a job.
_LOCK_IDS = """
    SELECT pg_advisory_xact_lock(hashtextextended(response_id, 0))
    FROM (SELECT response_id FROM unnest(%s::text[]) AS response_id ORDER BY 1) AS ordered"""
#: What came before the id was known has to be applied, and what was reserved has to be named.
_HAVE_MORE = """
    SELECT response_id FROM unnest(%(response_ids)s::text[], %(job_ids)s::bigint[]) AS given (response_id, job_id)
    WHERE EXISTS (SELECT FROM aihandoff.inbox WHERE response_id = given.response_id AND disposition = 'quarantined')
        OR EXISTS (SELECT FROM aihandoff.budget_reservations AS b WHERE b.job_id = given.job_id)"""
_MARK_RUNNING = f"""
    UPDATE aihandoff.revisions AS r SET state = 'running', response_id = given.response_id,
        response_status = given.status, submit_token = NULL, submit_lease_until = NULL
    FROM unnest(%(job_ids)s::bigint[], %(numbers)s::integer[], %(tokens)s::uuid[], %(response_ids)s::text[],
        %(statuses)s::text[]) AS given (job_id, number, token, response_id, status)
    WHERE r.job_id = given.job_id AND r.number = given.number AND r.state = 'submitting'
        AND r.submit_token = given.token AND r.unknown_submissions = 0
    RETURNING {columns(Revision, "r")}, clock_timestamp() AS now"""
_KNOWN = f"SELECT {columns(Revision)} FROM aihandoff.revisions WHERE response_id = ANY(%s)"
_RUNNING = f"""
    SELECT {columns(Revision)}, clock_timestamp() AS now FROM aihandoff.revisions AS r
    JOIN unnest(%(job_ids)s::bigint[], %(numbers)s::integer[], %(response_ids)s::text[])
        AS given (job_id, number, known_as) USING (job_id, number)
    WHERE r.state = 'running' AND r.response_id = given.known_as AND r.completed_at IS NULL AND NOT EXISTS (
        SELECT FROM aihandoff.budget_reservations AS b WHERE b.job_id = r.job_id) AND NOT EXISTS (
        SELECT FROM aihandoff.rate_limits AS l WHERE l.measure = 'in flight'
            AND (l.kind = 'openai' AND l.name = r.conn_id OR l.kind = 'key' AND l.name = r.rate_key))"""
_STORE_OUTPUTS = f"""
    UPDATE aihandoff.revisions AS r SET state = 'completed', response_status = given.status, output = given.output,
        output_digest = given.output_digest, error = NULL, usage = given.usage, cost_usd = given.cost_usd,
        submit_token = NULL, submit_lease_until = NULL, completed_at = clock_timestamp()
    FROM unnest(%(ids)s::bigint[], %(statuses)s::text[], %(outputs)s::json[], %(digests)s::text[], %(usages)s::json[],
        %(costs)s::numeric[]) AS given (revision_id, status, output, output_digest, usage, cost_usd)
    WHERE r.revision_id = given.revision_id
    RETURNING {columns(Revision, "r")}"""
_ACCEPT = """
    INSERT INTO aihandoff.decisions
        (job_id, revision, verdict, digest, decided_by, decided_by_kind, comment, created_at)
    SELECT job_id, revision, 'approve', digest, 'approval not required', 'policy', comment, clock_timestamp()
    FROM unnest(%(job_ids)s::bigint[], %(revisions)s::integer[], %(digests)s::text[], %(comments)s::text[])
        AS given (job_id, revision, digest, comment)
    RETURNING job_id, decision_id"""


@dataclass(frozen=True)
class Wish:
    """One request that a thread asks the permission for.

    :param token: of the permission.
    :param worst: the most that it can cost, if that is known.
    """

    job_id: int
    number: int
    token: UUID
    worst: Decimal | None


@dataclass(frozen=True)
class Answer:
    """The answer to one request that was sent.

    :param heard: what it says about the provider's limits of speed.
    """

    job_id: int
    number: int
    token: UUID
    response_id: str
    status: ResponseStatus
    heard: Heard | None = None


@dataclass(frozen=True)
class Left:
    """What one response has left.

    :param response_id: of it; nothing is stored where the revision has another one by now.
    """

    job_id: int
    number: int
    response_id: str
    output: Output


class Together:
    """Steps for many jobs at once, on one ledger. What is left to the step of a single job is None in their results."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, revisions: Sequence[tuple[int, int]]) -> list[Revision]:
        """Revisions that there are, by job and number, in this order."""
        values = {"job_ids": [job_id for job_id, _ in revisions], "numbers": [number for _, number in revisions]}
        rows = self._database.transact(lambda connection: connection.execute(_READ, values).fetchall())
        return [Revision(**row) for row in rows]

    def intend(self, wishes: Sequence[Wish], *, actor: Actor, lease: timedelta) -> list[Intent | None]:
        """Write down that requests are about to be sent, as :meth:`Submission.intend` does for one. Safe to repeat.

        :param lease: how long each permission is valid.
        """
        asked = {
            "job_ids": [wish.job_id for wish in wishes],
            "numbers": [wish.number for wish in wishes],
            "tokens": [wish.token for wish in wishes],
        }

        def work(connection: LedgerConnection) -> dict[tuple[int, int], Intent]:
            permitted = _permit(connection, wishes, actor, lease)
            if len(permitted) == len(wishes):
                return permitted
            # It may have been committed before, while that was in doubt.
            return permitted | _intents(connection.execute(_PERMITTED, asked).fetchall())

        found = self._database.transact(work, repeatable=True, step="set.intend")
        # One permission for one wish: two threads that ask for the same request would both send it.
        given = [found.get((wish.job_id, wish.number)) for wish in wishes]
        return [
            intent if intent is not None and intent.token == wish.token else None
            for wish, intent in zip(wishes, given, strict=True)
        ]

    def submitted(self, answers: Sequence[Answer], *, actor: Actor) -> list[Revision | None]:
        """Store the ids of responses that were created, as :meth:`Submission.submitted` does. Safe to repeat."""

        def work(connection: LedgerConnection) -> dict[str, Revision]:
            connection.execute(_LOCK_IDS, [[plain(answer.response_id) for answer in answers]])
            return _record(connection, answers, actor)

        found = self._database.transact(work, repeatable=True, step="set.submitted")
        return [found.get(answer.response_id) for answer in answers]

    def store(self, left: Sequence[Left], *, actor: Actor, complete: bool) -> list[Job | None]:
        """Store outputs, and move their jobs on, as :meth:`Outputs.store` does for one. Safe to repeat.

        :param complete: a job that needs no approval has no effect either: it is completed.
        :return: the jobs as they are now, without their input and permissions.
        """
        found = self._database.transact(
            lambda connection: _store(connection, left, actor, complete), repeatable=True, step="set.store"
        )
        taken = {each.job_id: each for each in left if each.output.error is None}
        return [found.get(each.job_id) if taken.get(each.job_id) is each else None for each in left]


def _permit(
    connection: LedgerConnection, wishes: Sequence[Wish], actor: Actor, lease: timedelta
) -> dict[tuple[int, int], Intent]:
    """Permit those that are plain, by job and revision."""
    wanted = {wish.job_id: wish for wish in wishes}
    jobs = {
        job_id: job
        for job_id, job in history.lock_many(connection, list(wanted)).items()
        if job.state is JobState.QUEUED
        and job.revision == wanted[job_id].number
        and job.max_cost_usd is None
        and job.cancelling is None
    }
    values = {"job_ids": list(jobs), "numbers": [job.revision for job in jobs.values()]}
    first = {row["job_id"]: Revision(**row) for row in connection.execute(_FIRST, values).fetchall()} if jobs else {}
    if not first:
        return {}
    is_weighed, now = _is_weighed(connection, [jobs[job_id] for job_id in first], list(first.values()))
    if is_weighed:
        return {}
    steps = [
        Move(
            jobs[job_id],
            JobEvent.SUBMIT_INTENDED,
            {"revision": revision.number, "token": str(wanted[job_id].token)},
        )
        for job_id, revision in first.items()
    ]
    history.move_many(connection, steps, actor=actor, at=now)
    marks = {
        "ids": [revision.revision_id for revision in first.values()],
        "tokens": [wanted[job_id].token for job_id in first],
        "worst": [wanted[job_id].worst for job_id in first],
        "lease": lease,
    }
    return _intents(connection.execute(_MARK_SUBMITTING, marks).fetchall())


def _intents(rows: Sequence[dict[str, Any]]) -> dict[tuple[int, int], Intent]:
    """The permissions that revisions have, by job and revision."""
    permitted: dict[tuple[int, int], Intent] = {}
    for row in rows:
        left = float(row.pop("seconds_left"))
        revision = Revision(**row)
        permitted[revision.job_id, revision.number] = Intent(revision, revision.submit_token, left=left)
    return permitted


def _is_weighed(
    connection: LedgerConnection, jobs: Sequence[Job], revisions: Sequence[Revision]
) -> tuple[bool, datetime]:
    """Whether something has to be asked for each of these requests by itself; and the database's clock."""
    values = {
        "kind": LimitKind.OPENAI,
        "conn_ids": list({revision.conn_id for revision in revisions}),
        "rate_keys": list({revision.rate_key for revision in revisions if revision.rate_key is not None}),
        "job_types": list({job.job_type for job in jobs}),
        "dag_ids": list({job.dag_id for job in jobs}),
    }
    row = connection.execute(_IS_WEIGHED, values).fetchone()
    assert row is not None
    return bool(row["is_weighed"]), row["now"]


def _record(connection: LedgerConnection, answers: Sequence[Answer], actor: Actor) -> dict[str, Revision]:
    """Store the ids of those that are plain, by the id."""
    jobs = history.lock_many(connection, [answer.job_id for answer in answers])
    known = {
        row["response_id"]: Revision(**row)
        for row in connection.execute(_KNOWN, [[answer.response_id for answer in answers]]).fetchall()
    }
    values: Mapping[str, Any] = {
        "response_ids": [answer.response_id for answer in answers],
        "job_ids": [answer.job_id for answer in answers],
    }
    more = {row["response_id"] for row in connection.execute(_HAVE_MORE, values).fetchall()}
    plain_ones = [
        answer
        for answer in answers
        if answer.response_id not in known
        and answer.response_id not in more
        and answer.job_id in jobs
        and jobs[answer.job_id].revision == answer.number
    ]
    marks = {
        "job_ids": [answer.job_id for answer in plain_ones],
        "numbers": [answer.number for answer in plain_ones],
        "tokens": [answer.token for answer in plain_ones],
        "response_ids": [answer.response_id for answer in plain_ones],
        "statuses": [answer.status.value for answer in plain_ones],
    }
    running, now = _read_at(connection.execute(_MARK_RUNNING, marks).fetchall() if plain_ones else [])
    steps = [
        Move(
            jobs[revision.job_id],
            JobEvent.SUBMITTED,
            {"revision": revision.number, "response_id": revision.response_id},
        )
        for revision in running
    ]
    history.move_many(connection, steps, actor=actor, at=now)
    found = {str(revision.response_id): revision for revision in running}
    for answer in plain_ones:
        if answer.response_id in found:
            hear(connection, LimitKind.OPENAI, found[answer.response_id].conn_id, answer.heard)
    return {**known, **found}


def _store(connection: LedgerConnection, left: Sequence[Left], actor: Actor, complete: bool) -> dict[int, Job]:
    """Store the outputs of those that are plain; the jobs as they are now, by id."""
    wanted = {each.job_id: each for each in left if each.output.error is None}
    jobs = {
        job_id: job
        for job_id, job in history.lock_many(connection, list(wanted)).items()
        if job.state is JobState.RUNNING and job.revision == wanted[job_id].number and job.cancelling is None
    }
    if not jobs:
        return {}
    values = {
        "job_ids": list(jobs),
        "numbers": [job.revision for job in jobs.values()],
        "response_ids": [wanted[job_id].response_id for job_id in jobs],
    }
    running, now = _read_at(connection.execute(_RUNNING, values).fetchall())
    if not running:
        return {}
    outputs = _output_values(running, [wanted[revision.job_id].output for revision in running])
    stored = [Revision(**row) for row in connection.execute(_STORE_OUTPUTS, outputs).fetchall()]
    for revision in stored:
        count_response(connection, jobs[revision.job_id], revision, wanted[revision.job_id].output)
    moved = history.move_many(connection, _steps(connection, jobs, stored), actor=actor, at=now)
    if complete:
        approved = [job for job in moved if job.state is JobState.APPROVED]
        over = history.move_many(connection, [Move(job, JobEvent.ALL_APPLIED) for job in approved], actor=actor, at=now)
        moved = [*moved, *over]
    return {job.job_id: job for job in moved}


def _read_at(rows: Sequence[dict[str, Any]]) -> tuple[list[Revision], datetime | None]:
    """Revisions that were read, and the database's clock at that time; None where there are none."""
    at = max((row.pop("now") for row in rows), default=None)
    return [Revision(**row) for row in rows], at


def _output_values(running: Sequence[Revision], outputs: Sequence[Output]) -> dict[str, Any]:
    """The columns of revisions whose outputs are stored, one array each."""
    texts = [canonical_json(output.output) for output in outputs]
    return {
        "ids": [revision.revision_id for revision in running],
        "statuses": [None if output.status is None else output.status.value for output in outputs],
        "outputs": texts,
        "digests": [digest_of_json(text) for text in texts],
        "usages": [None if output.usage is None else canonical_json(output.usage) for output in outputs],
        "costs": [output.cost_usd for output in outputs],
    }


def _steps(connection: LedgerConnection, jobs: Mapping[int, Job], stored: Sequence[Revision]) -> list[Move]:
    """What becomes of jobs whose output was stored: a review; or the approval that their author wrote down."""
    accepted = [revision for revision in stored if jobs[revision.job_id].approval != "required"]
    values = {
        "job_ids": [revision.job_id for revision in accepted],
        "revisions": [revision.number for revision in accepted],
        "digests": [revision.output_digest for revision in accepted],
        "comments": [jobs[revision.job_id].approval_reason for revision in accepted],
    }
    made = connection.execute(_ACCEPT, values).fetchall() if accepted else []
    decided = {row["job_id"]: row["decision_id"] for row in made}
    steps = []
    for revision in stored:
        job = jobs[revision.job_id]
        detail = {"revision": revision.number, "output_digest": revision.output_digest}
        if job.job_id not in decided:
            steps.append(Move(job, JobEvent.OUTPUT_STORED, detail))
            continue
        connection.count(signals.DECISIONS, job_type=job.job_type, verdict="approve", by="policy")
        why = f"approval not required: {job.approval_reason}"
        changes = {"decision_id": decided[job.job_id]}
        steps.append(Move(job, JobEvent.OUTPUT_ACCEPTED, detail, why, changes))
    return steps
