"""The intended effects of a job: stored, replaced and voided, in the transaction of a protocol that has locked it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.database.history import Move, as_json
from airflow_provider_aihandoff.core.digests import effect_key
from airflow_provider_aihandoff.core.errors import EffectNotFound, IllegalTransition
from airflow_provider_aihandoff.core.models import Actor, Effect, EffectPlan, Job, columns
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind
from airflow_provider_aihandoff.core.rates.rate_store import connection_of, slot_freed
from airflow_provider_aihandoff.core.states import (
    SETTLED_EFFECT_STATES,
    TOUCHED_EFFECT_STATES,
    EffectEvent,
    EffectState,
    JobEvent,
    JobState,
    next_effect_state,
)

_READ_EFFECT = f"""
    SELECT {columns(Effect)} FROM aihandoff.effects WHERE job_id = %s AND revision = %s AND name = %s"""
_READ_EFFECT_BY_ID = f"SELECT {columns(Effect)} FROM aihandoff.effects WHERE effect_id = %s"
_READ_CURRENT = f"""
    SELECT {columns(Effect)} FROM aihandoff.effects WHERE job_id = %s AND revision = %s ORDER BY position"""
_HAVE_OPEN = """
    SELECT job_id FROM unnest(%(job_ids)s::bigint[], %(revisions)s::integer[]) AS job (job_id, revision)
    WHERE EXISTS (
        SELECT FROM aihandoff.effects AS e
        WHERE e.job_id = job.job_id AND e.revision = job.revision AND e.state <> ALL(%(settled)s))"""
_DELETE_UNTOUCHED = """
    DELETE FROM aihandoff.effects
    WHERE job_id = %s AND revision = %s AND state IN ('planned', 'refused', 'skipped', 'void')"""
#: What stands in a new effect, and how it is handed over for many.
_OF_A_PLAN = {
    "job_id": "bigint",
    "revision": "integer",
    "name": "text",
    "position": "integer",
    "kind": "text",
    "effect_key": "text",
    "state": "text",
    "plan": "json",
    "plan_digest": "text",
    "undo": "json",
    "after_effects": "json",
    "undoes": "bigint",
    "current": "json",
    "find_counts": "boolean",
    "probe_note": "text",
    "task_id": "text",
    "external_url": "text",
}
_NEW_EFFECT = f"""
    INSERT INTO aihandoff.effects ({", ".join(_OF_A_PLAN)}, created_at, updated_at)
    SELECT {{values}}, clock_timestamp(), clock_timestamp()"""
_INSERT_EFFECT = f"""
    {_NEW_EFFECT.format(values=", ".join(f"%({name})s::{kind}" for name, kind in _OF_A_PLAN.items()))}
    RETURNING {columns(Effect)}"""
_INSERT_EFFECTS = f"""
    {_NEW_EFFECT.format(values=", ".join(f"given.{name}" for name in _OF_A_PLAN))}
    FROM unnest({", ".join(f"%({name})s::{kind}[]" for name, kind in _OF_A_PLAN.items())})
        AS given ({", ".join(_OF_A_PLAN)})"""
#: What a step changes of an effect, and how it is handed over for many.
_OF_A_STEP = {
    "effect_id": "bigint",
    "state": "text",
    "attempt": "integer",
    "claim_token": "uuid",
    "claimed_by": "text",
    "claimed": "boolean",
    "lease": "interval",
    "lost": "boolean",
    "external_id": "text",
    "result": "json",
    "error": "text",
    "resends": "integer",
    "not_now": "boolean",
    "find_counts": "boolean",
    "own": "boolean",
    "probe_note": "text",
    "filled": "json",
    "external_url": "text",
    "rate_key": "text",
    "conn_id": "text",
}
_CHANGES = """state = {state}, attempt = {attempt}, claim_token = {claim_token}, claimed_by = {claimed_by},
        claimed_at = CASE WHEN {claimed} THEN clock_timestamp() ELSE e.claimed_at END,
        claim_until = CASE WHEN {claimed} THEN clock_timestamp() + {lease} ELSE e.claim_until END,
        unknown_since = CASE WHEN {lost} THEN clock_timestamp() ELSE e.unknown_since END,
        external_id = {external_id}, result = {result}, error = {error}, resends = {resends},
        not_now = {not_now}, find_counts = {find_counts}, own = {own}, probe_note = {probe_note},
        filled = {filled}, external_url = {external_url}, rate_key = {rate_key}, conn_id = {conn_id},
        updated_at = clock_timestamp(),
        held_kind = NULL, held_name = NULL, held_why = NULL, held_since = NULL, held_until = NULL"""
_UPDATE_EFFECT = f"""
    UPDATE aihandoff.effects AS e SET {_CHANGES.format_map({name: f"%({name})s" for name in _OF_A_STEP})}
    WHERE e.effect_id = %(effect_id)s
    RETURNING {columns(Effect, "e")}"""
_UPDATE_EFFECTS = f"""
    UPDATE aihandoff.effects AS e SET {_CHANGES.format_map({name: f"step.{name}" for name in _OF_A_STEP})}
    FROM unnest({", ".join(f"%({name})s::{kind}[]" for name, kind in _OF_A_STEP.items())})
        AS step ({", ".join(_OF_A_STEP)})
    WHERE e.effect_id = step.effect_id
    RETURNING {columns(Effect, "e")}"""
_VOID_UNSENT = """
    UPDATE aihandoff.effects SET state = 'void', updated_at = clock_timestamp()
    WHERE job_id = %s AND revision = %s AND undoes IS NULL AND state IN ('planned', 'refused')"""
#: An effect that was applied and then undone counts as never applied.
_TOUCHED = """
    SELECT EXISTS (
        SELECT FROM aihandoff.effects AS e WHERE job_id = %s AND undoes IS NULL AND state = ANY(%s)
            AND NOT EXISTS (SELECT FROM aihandoff.effects AS u WHERE u.undoes = e.effect_id AND u.state = 'applied')
    ) AS touched"""


def anything_touched(connection: LedgerConnection, job_id: int) -> bool:
    """Whether any effect of the job may have made an external write, and was not undone."""
    row = connection.execute(_TOUCHED, [job_id, [state.value for state in TOUCHED_EFFECT_STATES]]).fetchone()
    assert row is not None
    return bool(row["touched"])


def void_plans(connection: LedgerConnection, job: Job) -> int:
    """Void the effects of the current revision that were not sent, and return how many."""
    return connection.execute(_VOID_UNSENT, [job.job_id, job.revision]).rowcount


def replace_plans(connection: LedgerConnection, job: Job, plans: Sequence[EffectPlan]) -> None:
    """Replace the plans of a job's current revision. None of the earlier ones may have been written."""
    connection.execute(_DELETE_UNTOUCHED, [job.job_id, job.revision])
    for position, plan in enumerate(plans):
        insert_plan(connection, job, plan, position)


def insert_plan(
    connection: LedgerConnection, job: Job, plan: EffectPlan, position: int, *, undoes: int | None = None
) -> Effect:
    """Store one intended effect of a job's current revision.

    :param undoes: the id of the effect that it undoes.
    """
    row = connection.execute(
        _INSERT_EFFECT, _plan_values(ledger_id(connection), job, plan, position, undoes)
    ).fetchone()
    assert row is not None
    return Effect(**row)


def insert_plans(connection: LedgerConnection, plans: Sequence[tuple[Job, Sequence[EffectPlan]]]) -> None:
    """Store the intended effects of the current revisions of jobs that have none."""
    own = ledger_id(connection)
    rows = [_plan_values(own, job, plan, position) for job, of_job in plans for position, plan in enumerate(of_job)]
    if rows:
        connection.execute(_INSERT_EFFECTS, {name: [row[name] for row in rows] for name in _OF_A_PLAN})


def ledger_id(connection: LedgerConnection) -> str:
    """The identity of the ledger."""
    row = connection.execute("SELECT ledger_id FROM aihandoff.ledger").fetchone()
    assert row is not None
    return str(row["ledger_id"])


def _plan_values(own: str, job: Job, plan: EffectPlan, position: int, undoes: int | None = None) -> dict[str, Any]:
    """The columns of an intended effect.

    :param own: the identity of the ledger.
    """
    return {
        "job_id": job.job_id,
        "revision": job.revision,
        "name": plan.name,
        "position": position,
        "kind": plan.kind,
        "effect_key": effect_key(own, job.job_id, job.revision, plan.name, plan.plan_digest),
        "plan": as_json(plan.shown),
        "plan_digest": plan.plan_digest,
        "undo": None if plan.undo is None else as_json(plan.undo),
        "after_effects": as_json(list(plan.after)),
        "undoes": undoes,
        "current": None if plan.current is None else as_json(plan.current),
        "find_counts": plan.find_counts,
        "probe_note": plan.probe_note,
        "task_id": plan.task_id,
        "external_url": plan.external_url,
        "state": EffectState.SKIPPED if plan.skipped else EffectState.PLANNED,
    }


def find_effect(connection: LedgerConnection, job: Job, name: str) -> Effect | None:
    """Return an effect of the current revision, or None where there is none of this name."""
    row = connection.execute(_READ_EFFECT, [job.job_id, job.revision, name]).fetchone()
    return None if row is None else Effect(**row)


def find_effect_by_id(connection: LedgerConnection, effect_id: int) -> Effect | None:
    """Return an effect, or None where there is none with this id."""
    row = connection.execute(_READ_EFFECT_BY_ID, [effect_id]).fetchone()
    return None if row is None else Effect(**row)


def read_effect(connection: LedgerConnection, effect_id: int) -> Effect:
    """Return an effect.

    :raises EffectNotFound: there is none with this id.
    """
    effect = find_effect_by_id(connection, effect_id)
    if effect is None:
        raise EffectNotFound(
            f"the ledger has no effect {effect_id}.", remedy="`airflow aihandoff effects list` shows the ones it has."
        )
    return effect


def digest_key(connection: LedgerConnection) -> str:
    """The ledger's own secret with which digests cover other secrets."""
    row = connection.execute("SELECT digest_key FROM aihandoff.ledger").fetchone()
    assert row is not None
    return str(row["digest_key"])


def current_effects(connection: LedgerConnection, job: Job) -> list[Effect]:
    """The effects of the current revision, and their undos, in the order of the plan."""
    return [Effect(**row) for row in connection.execute(_READ_CURRENT, [job.job_id, job.revision]).fetchall()]


@dataclass(frozen=True)
class EffectMove:
    """One step of an effect of a locked job.

    :param changes: further columns to set.
    """

    job: Job
    effect: Effect
    event: EffectEvent
    changes: Mapping[str, Any]


def change_effect(connection: LedgerConnection, job: Job, effect: Effect, event: EffectEvent, **changes: Any) -> Effect:
    """Move an effect of a locked job, and set further columns.

    :raises IllegalTransition: the event is not valid in the effect's state.
    """
    row = connection.execute(_UPDATE_EFFECT, _changed(EffectMove(job, effect, event, changes))).fetchone()
    assert row is not None
    connection.count(signals.EFFECTS, target=effect.kind, step=event)
    if effect.state is EffectState.CLAIMED:
        slot_freed(connection, LimitKind.TARGET, connection_of(effect), effect.rate_key)
    return Effect(**row)


def change_effects(connection: LedgerConnection, steps: Sequence[EffectMove]) -> list[Effect]:
    """:func:`change_effect` for many, in one round trip. The caller sees to those who wait for one of them to end.

    :return: the effects as they are now, in the same order.
    :raises IllegalTransition: an event is not valid in the state of its effect.
    """
    # In one statement: of several that are sent together, the server does not count the time between them, and a
    # process that is stopped there keeps its locks.
    changed = [_changed(step) for step in steps]
    given = {name: [values[name] for values in changed] for name in _OF_A_STEP}
    rows = {row["effect_id"]: Effect(**row) for row in connection.execute(_UPDATE_EFFECTS, given)}
    for step in steps:
        connection.count(signals.EFFECTS, target=step.effect.kind, step=step.event)
    return [rows[step.effect.effect_id] for step in steps if step.effect.effect_id in rows]


def _changed(step: EffectMove) -> dict[str, Any]:
    """The columns of an effect after a step."""
    effect, event = step.effect, step.event
    state = next_effect_state(effect.state, event)
    if state is None:
        raise IllegalTransition(
            f"the event {event.value!r} is not valid for the effect {effect.name!r} in the state "
            f"{effect.state.value!r}.",
            job=step.job.label,
            written="This step made no external write.",
            remedy=f"See `airflow aihandoff effects show {effect.effect_id}`.",
        )
    claimed, lost = event is EffectEvent.CLAIM, event is EffectEvent.LOSE
    values = {"lease": None, **vars(effect), **step.changes, "state": state, "claimed": claimed, "lost": lost}
    return values | {name: None if values[name] is None else as_json(values[name]) for name in ("result", "filled")}


def is_element(name: str, *, of: str) -> bool:
    """Whether an effect is one of those that a task makes for each element of a list: ``label[3]`` of ``label``."""
    return name.startswith(f"{of}[")


def progress(effects: Sequence[Effect]) -> str:
    """How far the effects of one revision are, as text: ``2 of 3 effects applied``."""
    intended = [effect for effect in effects if effect.undoes is None]
    counts = Counter(effect.state for effect in intended)
    refused = counts[EffectState.REFUSED] or counts[EffectState.VOID]
    begin = "partly applied: " if counts[EffectState.APPLIED] and refused else ""
    skipped = f", {counts[EffectState.SKIPPED]} skipped" if counts[EffectState.SKIPPED] else ""
    return f"{begin}{counts[EffectState.APPLIED]} of {len(intended)} effects applied{skipped}"


def settle(connection: LedgerConnection, job: Job, *, actor: Actor) -> Job:
    """Move a locked job on where none of its effects is left to apply or, while it rolls back, to undo.

    A job that is being cancelled ends as soon as the outcome of each effect under way is known.
    """
    effects = current_effects(connection, job)
    if job.state is JobState.ROLLING_BACK:
        undos = [effect for effect in effects if effect.undoes is not None]
        if not all(undo.state is EffectState.APPLIED for undo in undos):
            return job
        reason = f"{len(undos)} of {len(undos)} effects undone"
        return history.move(connection, job, JobEvent.ALL_UNDONE, actor=actor, reason=reason)
    open_states = {effect.state for effect in effects if effect.state not in SETTLED_EFFECT_STATES}
    if job.cancelling is not None and not open_states & {EffectState.CLAIMED, EffectState.UNKNOWN}:
        if open_states and void_plans(connection, job):
            effects = current_effects(connection, job)
        if open_states:
            reason = f"{job.cancelling}; {progress(effects)}"
            return history.move(connection, job, JobEvent.CANCELLED, actor=actor, reason=reason, cancelling=None)
    if open_states:
        return job
    return history.move(connection, job, JobEvent.ALL_APPLIED, actor=actor, cancelling=None)


def settle_many(connection: LedgerConnection, jobs: Sequence[Job], *, actor: Actor, at: datetime) -> list[Job]:
    """:func:`settle` for locked jobs that were approved just now.

    :param at: the moment, by the database's clock.
    :return: the jobs as they are now, in the same order.
    """
    values = {
        "job_ids": [job.job_id for job in jobs],
        "revisions": [job.revision for job in jobs],
        "settled": [state.value for state in SETTLED_EFFECT_STATES],
    }
    have_open = {row["job_id"] for row in connection.execute(_HAVE_OPEN, values).fetchall()}
    over = [job for job in jobs if job.job_id not in have_open and job.cancelling is None]
    done = history.move_many(connection, [Move(job, JobEvent.ALL_APPLIED) for job in over], actor=actor, at=at)
    done += [settle(connection, job, actor=actor) for job in jobs if job.cancelling is not None]
    found = {job.job_id: job for job in done}
    return [found.get(job.job_id, job) for job in jobs]
