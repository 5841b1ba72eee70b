"""Fills a ledger with many jobs at once, for benchmarks. The rows are such as the protocols would leave them."""

from __future__ import annotations

from typing import Any

import psycopg

_JOBS = """
    INSERT INTO aihandoff.jobs (job_type, job_key, state, input, input_digest, requested_by, permissions, approval,
        max_revisions, revision, dag_id, run_id, task_id, map_index, ti_id, try_number, event_seq, event_hash,
        created_at, updated_at)
    SELECT %(kind)s, %(prefix)s || ':' || n, %(state)s, '{"model": "gpt-5.2", "input": "Write about the kettle."}',
        md5(n::text), 'alice', '{}', 'required', 3, 1, 'publishing', 'run_' || n / 100, 'draft', -1, 'ti_' || n, 1, 0,
        repeat('0', 64), now() - (%(number)s - n) * interval '1 second', now()
    FROM generate_series(0, %(number)s - 1) AS n"""

_REVISIONS = """
    INSERT INTO aihandoff.revisions (job_id, number, author, author_kind, state, conn_id, request, request_digest,
        deadline, submissions, response_id, response_status, output, output_digest, created_at, submitted_at,
        completed_at)
    SELECT job_id, 1, 'model', 'model', %(revision_state)s, 'openai_default', '{"model": "gpt-5.2"}', input_digest,
        now() + interval '1 day', 1, 'resp_' || replace(job_key, ':', '_'),
        CASE WHEN %(revision_state)s = 'running' THEN 'running' ELSE 'completed' END,
        CASE WHEN %(revision_state)s = 'completed' THEN to_json(repeat('It boils. ', 40)) END,
        CASE WHEN %(revision_state)s = 'completed' THEN input_digest END,
        created_at, created_at, CASE WHEN %(revision_state)s = 'completed' THEN now() END
    FROM aihandoff.jobs WHERE job_type = %(kind)s AND starts_with(job_key, %(prefix)s || ':')"""

_DECISIONS = """
    INSERT INTO aihandoff.decisions (job_id, revision, verdict, digest, decided_by, decided_by_kind, created_at)
    SELECT job_id, 1, 'approve', input_digest, 'bob', 'user', now() FROM aihandoff.jobs WHERE job_type = 'completed'"""

_EFFECTS = """
    INSERT INTO aihandoff.effects (job_id, revision, name, position, kind, effect_key, state, plan, plan_digest,
        attempt, claim_token, claimed_by, claimed_at, external_id, result, created_at, updated_at)
    SELECT job_id, 1, 'post', 0, 'http', 'aih-' || job_id || '-r1-' || input_digest, 'applied',
        json_build_object('method', 'POST', 'url', 'http://channel/messages', 'body', repeat('It boils. ', 40)),
        input_digest, 1, gen_random_uuid(), 'publishing/run', now(), 'message-' || job_id, '{"status": 201}', now(),
        now()
    FROM aihandoff.jobs WHERE job_type = 'completed'"""

_EVENTS = """
    INSERT INTO aihandoff.events (job_id, seq, at, actor, actor_kind, actor_name, event, from_state, to_state, detail,
        previous_hash, hash)
    SELECT job_id, seq, now(), 'publishing/run', 'other', 'publishing/run', 'effect applied', 'applying', 'applying',
        json_build_object('effect_key', input_digest), repeat('0', 64), repeat('0', 64)
    FROM aihandoff.jobs, generate_series(1, 8) AS seq WHERE job_type = 'completed'"""


def fill_effects(connection: psycopg.Connection[Any], number: int) -> None:
    """Add completed jobs with an applied effect each, its decision, and a history of eight lines."""
    values = {"kind": "completed", "state": "completed", "prefix": "old", "number": number}
    connection.execute(_JOBS, values)
    connection.execute(_REVISIONS, {**values, "revision_state": "completed"})
    for rows in (_DECISIONS, _EFFECTS, _EVENTS):
        connection.execute(rows)
    connection.commit()
    connection.autocommit = True
    connection.execute("VACUUM ANALYZE")
    connection.execute("CHECKPOINT")


def fill(connection: psycopg.Connection[Any], completed: int, *, running: int, prefixes: tuple[str, ...]) -> None:
    """Add jobs that are completed, and for each prefix jobs with a response ``resp_<prefix>_<number>`` that runs.

    The running ones come with numbers from 0, as the type ``running`` and the key ``<prefix>:<number>``.
    """
    kinds = [("completed", "completed", "old", completed)]
    kinds += [("running", "running", prefix, running) for prefix in prefixes]
    for kind, state, prefix, number in kinds:
        values = {"kind": kind, "state": state, "prefix": prefix, "number": number, "revision_state": state}
        connection.execute(_JOBS, values)
        connection.execute(_REVISIONS, values)
    connection.commit()
    connection.autocommit = True
    connection.execute("VACUUM ANALYZE aihandoff.jobs, aihandoff.revisions")
    connection.execute("CHECKPOINT")
