"""What a ledger at version 0002 of the schema holds: jobs in the midst of their effects, and one that is done."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Json

from airflow_provider_aihandoff.core.database.history import GENESIS
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.models import Event
from tests.factories import line_of_version_1

#: The effects of two jobs, by name, and what each has become: one job is being applied, and one is completed.
EFFECTS = {
    1: {"sent": "claimed", "lost": "unknown", "done": "applied", "next": "planned", "said no": "refused"},
    2: {"publish": "applied"},
}
#: The lines of their histories: event, and the state that it led to.
HISTORIES = {
    1: [
        ("created", "queued"),
        ("approved", "approved"),
        ("effect claimed", "applying"),
        ("effect unknown", "applying"),
    ],
    2: [("created", "queued"), ("effect applied", "applying"), ("all applied", "completed")],
}
TOKEN = UUID(int=7)
PLAN = {"method": "PUT", "url": "http://cms/posts/kettle"}


def write_rows(connection: psycopg.Connection[Any]) -> None:
    """Fill an empty ledger at that version."""
    for job_id, effects in EFFECTS.items():
        lines = _history(job_id)
        decided = {"job_id": job_id, "output": digest("A kettle."), "review": digest(["review", job_id])}
        connection.execute(
            """INSERT INTO aihandoff.jobs (job_type, job_key, state, input, input_digest, requested_by, permissions,
                approval, max_revisions, revision, review_digest, dag_id, run_id, task_id, map_index, ti_id, try_number,
                event_seq, event_hash, created_at, updated_at)
            VALUES ('publishing', %(key)s, %(state)s, '{}', 'digest', 'alice', '{}', 'required', 3, 1, %(review)s,
                'publishing', 'manual__1', 'draft', -1, 'ti-1', 1, %(seq)s, %(hash)s, now(), now())""",
            {
                **decided,
                "key": f"post:{job_id}",
                "state": lines[-1].to_state,
                "seq": len(lines),
                "hash": lines[-1].hash,
            },
        )
        connection.execute(
            """INSERT INTO aihandoff.revisions (job_id, number, author, state, conn_id, request, request_digest,
                deadline, submissions, response_id, response_status, output, output_digest, created_at, completed_at)
            VALUES (%(job_id)s, 1, 'model', 'completed', 'openai_default', '{}', 'digest', now(), 1,
                'resp_' || %(job_id)s, 'completed', '"A kettle."', %(output)s, now(), now())""",
            decided,
        )
        connection.execute(
            """WITH decision AS (
                INSERT INTO aihandoff.decisions (job_id, revision, verdict, digest, decided_by, decided_by_kind,
                    created_at)
                VALUES (%(job_id)s, 1, 'approve', %(review)s, 'bob', 'user', now()) RETURNING decision_id)
            UPDATE aihandoff.jobs SET decision_id = (SELECT decision_id FROM decision) WHERE job_id = %(job_id)s""",
            decided,
        )
        for position, (name, state) in enumerate(effects.items()):
            connection.execute(
                """INSERT INTO aihandoff.effects (job_id, revision, name, position, kind, effect_key, state, plan,
                    plan_digest, undo, attempt, claim_token, claimed_by, claimed_at, external_id, result, error,
                    created_at, updated_at)
                VALUES (%(job_id)s, 1, %(name)s, %(position)s, 'http', %(key)s, %(state)s, %(plan)s, %(digest)s,
                    '{"method": "DELETE", "endpoint": "/posts/kettle"}', %(attempt)s, %(token)s, %(by)s,
                    CASE WHEN %(attempt)s = 1 THEN now() - interval '2 minutes' END, %(external_id)s, %(result)s,
                    %(error)s, now() - interval '1 hour', now() - interval '1 minute')""",
                {
                    "job_id": job_id,
                    "name": name,
                    "position": position,
                    "key": f"aih-{job_id}-{position}",
                    "state": state,
                    "plan": Json(PLAN),
                    "digest": digest(PLAN),
                    "attempt": int(state != "planned"),
                    "token": TOKEN if state != "planned" else None,
                    "by": "who held it" if state != "planned" else None,
                    "external_id": "post-1" if state == "applied" else None,
                    "result": Json({"status": 201}) if state == "applied" else None,
                    "error": "time-out" if state == "unknown" else None,
                },
            )
        for line in lines:
            connection.execute(
                """INSERT INTO aihandoff.events (job_id, seq, at, actor, event, from_state, to_state, reason, detail,
                    previous_hash, hash)
                VALUES (%(job_id)s, %(seq)s, %(at)s, %(actor)s, %(event)s, %(from_state)s, %(to_state)s, %(reason)s,
                    %(detail)s, %(previous_hash)s, %(hash)s)""",
                {**vars(line), "detail": Json(line.detail)},
            )


def _history(job_id: int) -> list[Event]:
    lines: list[Event] = []
    for seq, (event, to_state) in enumerate(HISTORIES[job_id], 1):
        line = line_of_version_1(
            job_id=job_id,
            seq=seq,
            at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC) + timedelta(seconds=seq),
            actor="task:publishing/manual__1/draft#1",
            event=event,
            from_state=lines[-1].to_state if lines else None,
            to_state=to_state,
            reason=None,
            detail={"seq": seq},
            previous_hash=lines[-1].hash if lines else GENESIS,
        )
        lines.append(line)
    return lines
