"""Writes down what holds a request, or an external write, and lets it continue."""

from __future__ import annotations

from airflow_provider_aihandoff.core.admission.hold import Hold
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.models import Actor, Effect, HeldKind, Job, Revision, columns
from airflow_provider_aihandoff.core.states import JobEvent

_HOLD_REQUEST = f"""
    UPDATE aihandoff.revisions SET held_kind = %(kind)s, held_name = %(name)s, held_why = %(why)s,
        held_since = coalesce(held_since, clock_timestamp()),
        submit_lease_until = least(coalesce(%(until)s::timestamptz, deadline), deadline)
    WHERE revision_id = %(revision_id)s RETURNING {columns(Revision)}"""
_HOLD_WRITE = f"""
    UPDATE aihandoff.effects SET held_kind = %(kind)s, held_name = %(name)s, held_why = %(why)s,
        held_since = coalesce(held_since, clock_timestamp()), held_until = %(until)s
    WHERE effect_id = %(effect_id)s RETURNING {columns(Effect)}"""

#: What is being asked about at this moment is left out: it finds out by itself.
_RELEASE_REQUESTS = """
    UPDATE aihandoff.revisions SET held_kind = NULL, held_name = NULL, held_why = NULL, held_since = NULL,
        submit_lease_until = NULL
    WHERE revision_id IN (
        SELECT revision_id FROM aihandoff.revisions
        WHERE held_kind = %(kind)s AND held_name = %(name)s AND state IN ('queued', 'submitting')
        ORDER BY held_since FOR UPDATE SKIP LOCKED)
    RETURNING job_id"""
_RELEASE_WRITES = """
    UPDATE aihandoff.effects SET held_kind = NULL, held_name = NULL, held_why = NULL, held_since = NULL,
        held_until = NULL
    WHERE effect_id IN (
        SELECT effect_id FROM aihandoff.effects
        WHERE held_kind = %(kind)s AND held_name = %(name)s AND state IN ('planned', 'refused', 'unknown')
        ORDER BY held_since FOR UPDATE SKIP LOCKED)
    RETURNING job_id"""

#: How many waiting tasks are notified when what holds them ends. The others are found by the triggerers' next sweep.
_NOTIFIED = 1_000


def hold_request(connection: LedgerConnection, job: Job, revision: Revision, hold: Hold, *, actor: Actor) -> Revision:
    """Write down why the request of a revision is held. The history has one line for each thing that holds it."""
    row = connection.execute(_HOLD_REQUEST, {**vars(hold), "revision_id": revision.revision_id}).fetchone()
    assert row is not None
    if (revision.held_kind, revision.held_name) != (hold.kind, hold.name):
        detail = {"revision": revision.number, "held_by": hold.kind, "name": hold.name}
        history.move(connection, job, JobEvent.HELD, actor=actor, reason=hold.why, detail=detail)
    return Revision(**row)


def hold_write(connection: LedgerConnection, job: Job, effect: Effect, hold: Hold, *, actor: Actor) -> Effect:
    """Write down why an effect is held. The history has one line for each thing that holds it."""
    row = connection.execute(_HOLD_WRITE, {**vars(hold), "effect_id": effect.effect_id}).fetchone()
    assert row is not None
    if (effect.held_kind, effect.held_name) != (hold.kind, hold.name):
        detail = {"effect": effect.name, "held_by": hold.kind, "name": hold.name}
        reason = f"{effect.name}: {hold.why}"
        history.move(connection, job, JobEvent.HELD, actor=actor, reason=reason, detail=detail)
    return Effect(**row)


def release(connection: LedgerConnection, kind: HeldKind, name: str) -> None:
    """Let everything continue that this held, and wake the tasks. In the transaction that ends it.

    Something that is being held at the same moment, and is committed later, is found by the triggerers' next sweep.
    """
    held = {"kind": kind, "name": name}
    for statement in (_RELEASE_REQUESTS, _RELEASE_WRITES):
        rows = connection.execute(statement, held).fetchall()
        connection.woken.update(row["job_id"] for row in rows[:_NOTIFIED])
