"""What a triggerer asks the ledger, asynchronously and on one connection: which waits have ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from airflow_provider_aihandoff.core.admission.spending_limit_store import TURN
from airflow_provider_aihandoff.core.budgets.reservation_store import ASK_NOW_OF_ALL, PATIENCE
from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.database.connection import CONNECTION_DEFAULTS, JOB_ID
from airflow_provider_aihandoff.core.generation.batch_provider import ENDED_BATCH_STATUSES
from airflow_provider_aihandoff.core.generation.sign_store import SEEN
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES
from airflow_provider_aihandoff.triggers.waits import SetResponses

AsyncConnection = psycopg.AsyncConnection[DictRow]

#: Returned for a revision whose end the ledger has recorded already.
SETTLED = "settled"

#: Of these revisions, the ones whose response has ended, or that no one waits for any longer.
_ENDED_RESPONSES = """
    SELECT job_id, number, CASE WHEN r.state = 'running' THEN r.response_status ELSE %(settled)s END AS status
    FROM unnest(%(job_ids)s::bigint[], %(numbers)s::integer[]) AS waiting (job_id, number)
    JOIN aihandoff.revisions AS r USING (job_id, number)
    WHERE r.state <> 'running' OR r.response_status = ANY(%(ended)s)"""

#: Of these sets, the ones of which other responses run than these. Each revision is found by its index: OFFSET 0 keeps
#: the planner from reading all revisions for each set.
_OTHERS_RUN = """
    SELECT waiting.set_id FROM unnest(%(set_ids)s::bigint[], %(digests)s::bytea[]) AS waiting (set_id, digest)
    CROSS JOIN LATERAL (
        SELECT sha256(convert_to(coalesce(string_agg(r.job_id || '.' || r.number, ',' ORDER BY j.job_id), ''), 'UTF8'))
            AS digest
        FROM aihandoff.jobs AS j
        CROSS JOIN LATERAL (
            SELECT * FROM aihandoff.revisions AS r WHERE r.job_id = j.job_id AND r.number = j.revision OFFSET 0) AS r
        WHERE j.set_id = waiting.set_id AND j.state = 'running' AND r.state = 'running' AND r.changes IS NULL
            AND r.batch_id IS NULL AND r.response_id IS NOT NULL
            AND (r.response_status IS NULL OR r.response_status <> ALL(%(ended)s))) AS running
    WHERE running.digest <> waiting.digest"""

#: Of these revisions, the ones whose request may be sent now, or need not be sent any more. By the database's clock.
_SETTLED_SUBMISSIONS = """
    SELECT job_id, number, lease_until
    FROM unnest(%(job_ids)s::bigint[], %(numbers)s::integer[], %(leases)s::text[])
        AS waiting (job_id, number, lease_until)
    LEFT JOIN aihandoff.revisions AS r USING (job_id, number)
    WHERE coalesce(r.state, '') NOT IN ('queued', 'submitting')
        OR r.submit_lease_until IS DISTINCT FROM waiting.lease_until::timestamptz
        OR least(r.submit_lease_until, r.deadline) <= clock_timestamp()
        OR r.held_kind = 'pause' AND NOT EXISTS (
            SELECT FROM aihandoff.pauses WHERE pause_id::text = r.held_name AND ended_at IS NULL)
        OR r.held_kind = 'spending limit' AND NOT EXISTS (
            SELECT FROM aihandoff.spending_limits AS reached WHERE reached.conn_id = r.held_name AND clock_timestamp() <
                reached.try_at + CASE WHEN reached.try_job_id = r.job_id THEN interval '0' ELSE %(turn)s END)"""

#: Of these questions, the ones that are no longer asked like this: the job has left the review, has another plan, or
#: was reassigned to others, who are to be notified.
_ANSWERED_REVIEWS = """
    SELECT job_id, digest, waiting.reassigned
    FROM unnest(%(job_ids)s::bigint[], %(digests)s::text[], %(reassigned)s::integer[])
        AS waiting (job_id, digest, reassigned)
    LEFT JOIN aihandoff.jobs AS j USING (job_id)
    WHERE j.state IS DISTINCT FROM 'review' OR j.review_digest IS DISTINCT FROM waiting.digest
        OR coalesce((j.reassigned ->> 'number')::integer, 0) <> waiting.reassigned"""

#: Of these effects, the ones that are no longer as they were, or no longer held.
_CHANGED_EFFECTS = """
    SELECT effect_id, waiting.state, waiting.attempt, waiting.held
    FROM unnest(%(effect_ids)s::bigint[], %(states)s::text[], %(attempts)s::integer[], %(held)s::boolean[])
        AS waiting (effect_id, state, attempt, held)
    LEFT JOIN aihandoff.effects AS e USING (effect_id)
    WHERE e.state IS DISTINCT FROM waiting.state OR e.attempt IS DISTINCT FROM waiting.attempt
        OR waiting.held AND (e.held_kind IS NULL OR e.held_kind = 'pause' AND NOT EXISTS (
            SELECT FROM aihandoff.pauses WHERE pause_id::text = e.held_name AND ended_at IS NULL)
            OR e.held_kind = 'rate' AND e.held_until <= clock_timestamp())"""

#: In a set, people are asked about no job, and want no change of one, any longer.
_NONE_ASKED = """
    NOT EXISTS (
        SELECT FROM aihandoff.jobs AS j WHERE j.set_id = waiting.set_id AND j.review_digest IS NOT NULL
            AND j.state = 'review')
    AND NOT EXISTS (
        SELECT FROM aihandoff.jobs AS j
        JOIN aihandoff.revisions AS r ON r.job_id = j.job_id AND r.number = j.revision
        WHERE j.set_id = waiting.set_id AND j.state IN ('queued', 'running') AND r.changes IS NOT NULL)"""

#: Of these sets, the ones in which no job waits for a decision, or for a change, any longer; or one has been changed
#: since its task read them: it has no plan any more, or the model is to be asked again.
_CHANGED_SETS = f"""
    SELECT waiting.set_id, waiting.since
    FROM unnest(%(set_ids)s::bigint[], %(since)s::text[]) AS waiting (set_id, since)
    WHERE {_NONE_ASKED}
        OR EXISTS (
            SELECT FROM aihandoff.jobs AS j WHERE j.set_id = waiting.set_id AND j.state = 'review'
                AND j.review_digest IS NULL AND j.updated_at > waiting.since::timestamptz)
        OR EXISTS (
            SELECT FROM aihandoff.jobs AS j
            JOIN aihandoff.revisions AS r ON r.job_id = j.job_id AND r.number = j.revision
            WHERE j.set_id = waiting.set_id AND j.state = 'queued' AND r.changes IS NOT NULL AND r.state = 'queued'
                AND r.submit_lease_until IS NULL AND r.held_kind IS NULL)"""  # noqa: S608

#: Of these sets, the ones in which a job was approved since, of which the task has not tried the write yet; or people
#: are asked about no job, and want no change of one, any longer.
_DECIDED_SETS = f"""
    SELECT waiting.set_id, waiting.task_id, waiting.since
    FROM unnest(%(set_ids)s::bigint[], %(task_ids)s::text[], %(since)s::text[]) AS waiting (set_id, task_id, since)
    WHERE EXISTS (
            SELECT FROM aihandoff.jobs AS j WHERE j.set_id = waiting.set_id AND j.state IN ('approved', 'applying')
                AND j.updated_at > waiting.since::timestamptz
                AND NOT EXISTS (
                    SELECT FROM aihandoff.effects AS e WHERE e.job_id = j.job_id AND e.revision = j.revision
                        AND e.undoes IS NULL AND e.task_id = waiting.task_id
                        AND (e.state <> 'planned' OR e.attempt > 0 OR e.held_kind IS NOT NULL)))
        OR {_NONE_ASKED}"""  # noqa: S608

#: Of these batches, the ones of which the ledger knows that they have ended, or that are over.
_ENDED_BATCHES = """
    SELECT batch_id FROM aihandoff.batches
    WHERE batch_id = ANY(%(batch_ids)s::bigint[]) AND (state IN ('ended', 'read', 'abandoned')
        OR provider_status = ANY(%(ended)s))"""

_RECORD_POLLS = """
    INSERT INTO aihandoff.polls (conn_id, polled_at)
    SELECT conn_id, clock_timestamp() FROM unnest(%s::text[]) AS polled (conn_id) ORDER BY conn_id
    ON CONFLICT (conn_id) DO UPDATE SET polled_at = greatest(polls.polled_at, excluded.polled_at)"""

#: How long ago each connection brought its newest webhook, if it ever did.
_SINCE_WEBHOOK = """
    SELECT conn_id, extract(epoch FROM clock_timestamp() - newest)::float8 AS seconds
    FROM unnest(%s::text[]) AS waiting (conn_id)
    CROSS JOIN LATERAL (
        SELECT max(received_at) AS newest FROM aihandoff.inbox WHERE inbox.conn_id = waiting.conn_id) AS webhooks
    WHERE newest IS NOT NULL"""


async def connect(conninfo: Mapping[str, Any]) -> AsyncConnection:
    """Open a connection to the ledger that commits by itself.

    :param conninfo: libpq's connection parameters by name.
    :raises psycopg.OperationalError: the database cannot be reached.
    :raises LedgerSchemaError: the schema is not the one that this package needs.
    """
    connection = await AsyncConnection.connect(
        **{**CONNECTION_DEFAULTS, **conninfo}, autocommit=True, row_factory=dict_row
    )
    try:
        await schema.check_async(connection)
    except BaseException:
        await connection.close()
        raise
    return connection


async def clock(connection: AsyncConnection) -> datetime:
    """The database's clock."""
    row = await (await connection.execute("SELECT clock_timestamp() AS now")).fetchone()
    assert row is not None
    now: datetime = row["now"]
    return now


async def woken_jobs(connection: AsyncConnection, *, within: float) -> set[int]:
    """Wait for a notification, for so many seconds, and return the ids of the jobs that have been notified."""
    payloads = [notification.payload async for notification in connection.notifies(timeout=within, stop_after=1)]
    return {int(payload) for payload in payloads if JOB_ID.fullmatch(payload)}


async def ended_responses(
    connection: AsyncConnection, revisions: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], str]:
    """Of these ``(job id, revision)``, the ones to wait for no longer, with OpenAI's status, or :data:`SETTLED`."""
    cursor = await connection.execute(
        _ENDED_RESPONSES,
        {
            "job_ids": [job_id for job_id, _ in revisions],
            "numbers": [number for _, number in revisions],
            "ended": [status.value for status in ENDED_RESPONSE_STATUSES],
            "settled": SETTLED,
        },
    )
    return {(row["job_id"], row["number"]): row["status"] for row in await cursor.fetchall()}


async def others_run(connection: AsyncConnection, sets: Sequence[SetResponses]) -> set[int]:
    """The ids of those of these sets of which other responses run than the ones that are waited for."""
    values = {
        "set_ids": [each.set_id for each in sets],
        "digests": [each.digest for each in sets],
        "ended": [status.value for status in ENDED_RESPONSE_STATUSES],
    }
    return {row["set_id"] for row in await (await connection.execute(_OTHERS_RUN, values)).fetchall()}


async def settled_submissions(
    connection: AsyncConnection, waiting: Sequence[tuple[int, int, str]]
) -> set[tuple[int, int, str]]:
    """Of these ``(job id, revision, end of its lease)``, the ones to wait for no longer."""
    values = {
        "job_ids": [job_id for job_id, _, _ in waiting],
        "numbers": [number for _, number, _ in waiting],
        "leases": [lease_until for _, _, lease_until in waiting],
        "turn": TURN,
    }
    cursor = await connection.execute(_SETTLED_SUBMISSIONS, values)
    return {(row["job_id"], row["number"], row["lease_until"]) for row in await cursor.fetchall()}


async def use_budgets(connection: AsyncConnection) -> None:
    """Let those ask again that wait for a budget which has room for them, in this triggerer or in another one.

    As a rule, what makes the room has done so. Nothing does where the one before them has left the queue.
    """
    await connection.execute(ASK_NOW_OF_ALL, {"patience": PATIENCE})


async def answered_reviews(
    connection: AsyncConnection, asked: Sequence[tuple[int, str, int]]
) -> set[tuple[int, str, int]]:
    """Of these ``(job id, review digest, times it was reassigned)``, the ones that no longer wait for a decision so."""
    values = {
        "job_ids": [job_id for job_id, _, _ in asked],
        "digests": [digest for _, digest, _ in asked],
        "reassigned": [number for _, _, number in asked],
    }
    cursor = await connection.execute(_ANSWERED_REVIEWS, values)
    return {(row["job_id"], row["digest"], row["reassigned"]) for row in await cursor.fetchall()}


async def changed_effects(
    connection: AsyncConnection, waiting: Sequence[tuple[int, str, int, bool]]
) -> set[tuple[int, str, int, bool]]:
    """Of these ``(effect id, state, attempt, whether it is held)``, the ones that are no longer so."""
    names = ("effect_ids", "states", "attempts", "held")
    values = {name: [key[place] for key in waiting] for place, name in enumerate(names)}
    cursor = await connection.execute(_CHANGED_EFFECTS, values)
    return {(row["effect_id"], row["state"], row["attempt"], row["held"]) for row in await cursor.fetchall()}


async def changed_sets(connection: AsyncConnection, waiting: Sequence[tuple[int, str]]) -> set[tuple[int, str]]:
    """Of these ``(set id, when its task read them)``, the ones that their task is to read again."""
    values = {"set_ids": [set_id for set_id, _ in waiting], "since": [since for _, since in waiting]}
    cursor = await connection.execute(_CHANGED_SETS, values)
    return {(row["set_id"], row["since"]) for row in await cursor.fetchall()}


async def decided_sets(
    connection: AsyncConnection, waiting: Sequence[tuple[int, str, str]]
) -> set[tuple[int, str, str]]:
    """Of these ``(set id, task id, since when)``, the ones for which the task has something to do."""
    names = ("set_ids", "task_ids", "since")
    values = {name: [key[place] for key in waiting] for place, name in enumerate(names)}
    cursor = await connection.execute(_DECIDED_SETS, values)
    return {(row["set_id"], row["task_id"], row["since"]) for row in await cursor.fetchall()}


async def ended_batches(connection: AsyncConnection, batch_ids: Sequence[int]) -> set[int]:
    """Of these batches, the ones to wait for no longer."""
    values = {"batch_ids": list(batch_ids), "ended": [status.value for status in ENDED_BATCH_STATUSES]}
    cursor = await connection.execute(_ENDED_BATCHES, values)
    return {row["batch_id"] for row in await cursor.fetchall()}


async def since_webhook(connection: AsyncConnection, conn_ids: Sequence[str]) -> dict[str, float]:
    """Seconds since the newest webhook of each connection; a connection that never had one is left out."""
    cursor = await connection.execute(_SINCE_WEBHOOK, [list(conn_ids)])
    return {row["conn_id"]: row["seconds"] for row in await cursor.fetchall()}


async def record_polls(connection: AsyncConnection, conn_ids: Sequence[str]) -> None:
    """Record that responses of these connections were polled a moment ago: the overview shows when."""
    await connection.execute(_RECORD_POLLS, [list(conn_ids)])


async def record_signs(connection: AsyncConnection, seen: Mapping[int, int]) -> None:
    """Record that the responses of these revisions, by the id of their job, were seen to run a moment ago."""
    await connection.execute(SEEN, [list(seen.keys()), list(seen.values())])
