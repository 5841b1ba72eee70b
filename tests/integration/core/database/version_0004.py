"""What a ledger at version 0004 of the schema holds: who acted, decided and edited, in words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.types.json import Json

from airflow_provider_aihandoff.core.database.history import GENESIS
from airflow_provider_aihandoff.core.models import RECONCILER, TIMEOUT, Actor, Event, Owner
from tests.factories import line_of_version_1

#: What stands in the history, and who that is.
ACTORS = {
    "task:publishing/manual__1/draft#1": Owner("publishing", "manual__1", "draft", -1, "", 1).actor,
    "task:d/a/b#1/t[0]/c [x]/draft[12]#3": Owner("d", "a/b#1/t[0]/c [x]", "draft", 12, "", 3).actor,
    "task:d/run\nof two lines/draft[0]#1": Owner("d", "run\nof two lines", "draft", 0, "", 1).actor,
    "task:cut off": Actor.program("task:cut off"),
    "task:d/r/t[007]#1": Actor.program("task:d/r/t[007]#1"),
    "task:d/r/t#99999999999": Actor.program("task:d/r/t#99999999999"),
    "user:alice": Actor.user("alice"),
    "user:alice (7)": Actor.user("alice", "7"),
    "user:alice (in Paris) (7)": Actor.user("alice", "in Paris) (7"),
    "user:alice (": Actor.user("alice ("),
    "user:alice ()": Actor.user("alice", ""),
    "user:a/b": Actor.user("a/b"),
    "user:a%b_(c)": Actor.user("a%b_(c)"),
    "user:model": Actor.user("model"),
    "user:timeout": Actor.user("timeout"),
    "user:": Actor.user(""),
    "user:cli:carol": Actor.terminal("carol"),
    "user:cli:carol (8)": Actor.user("cli:carol", "8"),
    "policy:small@1": Actor.policy("small@1"),
    "policy:all (of) them@2": Actor.policy("all (of) them@2"),
    "webhook:openai_default": Actor.webhook("openai_default"),
    "timeout": TIMEOUT,
    "reconciler": RECONCILER,
    "a script": Actor.program("a script"),
    "": Actor.program(""),
}
#: Who decided: kind and text of before, and who that is.
DECIDERS = {
    ("user", "bob"): Actor.user("bob"),
    ("user", "bob (7)"): Actor.user("bob", "7"),
    ("user", "cli:bob"): Actor.terminal("bob"),
    ("user", "cli:bob (7)"): Actor.user("cli:bob", "7"),
    ("user", "bob (b.) (7)"): Actor.user("bob", "b.) (7"),
    ("user", "bob ("): Actor.user("bob ("),
    ("policy", "cli:bob (7)"): Actor.policy("cli:bob (7)"),
    ("policy", "approval not required"): Actor.policy("approval not required"),
    ("timeout", "timeout"): TIMEOUT,
}
#: Who wrote the revisions; None for the model.
AUTHORS = {
    "model": None,
    "bob": Actor.user("bob"),
    "bob (7)": Actor.user("bob", "7"),
    "cli:carol": Actor.terminal("carol"),
}


def write_rows(connection: psycopg.Connection[Any], actors: Sequence[str] = tuple(ACTORS)) -> None:
    """Fill an empty ledger at that version: one job, in review, whose history has a line of each actor."""
    lines: list[Event] = []
    for seq, actor in enumerate(actors, 1):
        lines.append(
            line_of_version_1(
                job_id=1,
                seq=seq,
                at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC) + timedelta(seconds=seq),
                actor=actor,
                event="attached",
                from_state="review",
                to_state="review",
                reason=None,
                detail={"seq": seq},
                previous_hash=lines[-1].hash if lines else GENESIS,
            )
        )
    connection.execute(
        """INSERT INTO aihandoff.jobs (job_type, job_key, state, input, input_digest, requested_by, permissions,
            approval, max_revisions, revision, review_digest, review, dag_id, run_id, task_id, map_index, ti_id,
            try_number, event_seq, event_hash, created_at, updated_at)
        VALUES ('publishing', 'post:1', 'review', '{}', 'digest', 'alice', '{}', 'required', 3, 1, 'review',
            '{"approvals": 3}', 'publishing', 'manual__2', 'draft', -1, 'ti-1', 1, %s, %s, now(), now())""",
        [len(lines), lines[-1].hash],
    )
    for number, author in enumerate(AUTHORS, 1):
        connection.execute(
            """INSERT INTO aihandoff.revisions (job_id, number, author, state, conn_id, request, request_digest,
                deadline, response_status, output, output_digest, created_at)
            VALUES (1, %s, %s, 'completed', 'openai_default', '{}', 'digest', now(), 'in_progress', '"A kettle."',
                'output', now())""",
            [number, author],
        )
    for kind, decided_by in DECIDERS:
        connection.execute(
            """INSERT INTO aihandoff.decisions (job_id, revision, verdict, digest, decided_by, decided_by_kind,
                created_at)
            VALUES (1, 1, 'approve', 'review', %s, %s, now())""",
            [decided_by, kind],
        )
    connection.execute(
        """INSERT INTO aihandoff.inbox (webhook_id, conn_id, event_type, body, disposition, received_at, updated_at,
            looks, look_at)
        VALUES ('wh_1', 'openai_default', 'response.completed', '{}', 'quarantined', now(), now(), 2, '2026-01-02')"""
    )
    for line in lines:
        connection.execute(
            """INSERT INTO aihandoff.events (job_id, seq, at, actor, event, from_state, to_state, reason, detail,
                previous_hash, hash)
            VALUES (%(job_id)s, %(seq)s, %(at)s, %(actor)s, %(event)s, %(from_state)s, %(to_state)s, %(reason)s,
                %(detail)s, %(previous_hash)s, %(hash)s)""",
            {**vars(line), "detail": Json(line.detail)},
        )
