"""Moves a job from state to state: one row, one event, one hash, in the caller's transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from psycopg.types.json import Json

from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.database.step_log import say_step
from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.errors import IllegalTransition, JobNotFound
from airflow_provider_aihandoff.core.models import PERSON_KINDS, Actor, Event, Job, JobHead, columns
from airflow_provider_aihandoff.core.states import WAKING_JOB_EVENTS, JobEvent, JobState, next_job_state
from airflow_provider_aihandoff.core.text import plain_or_none

GENESIS = "0" * 64

_LOCK_JOB = f"SELECT {columns(Job)} FROM aihandoff.jobs WHERE job_id = %s FOR UPDATE"
_READ_JOB = f"SELECT {columns(Job)} FROM aihandoff.jobs WHERE job_id = %s"
#: One statement for both, so that no line is written for a job that another process has moved.
_MOVE = f"""
    WITH moved AS (UPDATE aihandoff.jobs SET {{}} WHERE job_id = %(job_id)s AND state = %(was)s
        AND event_seq = %(seq)s - 1 RETURNING job_id)
    INSERT INTO aihandoff.events ({columns(Event)})
    SELECT {", ".join(f"%({field.name})s" for field in fields(Event))} FROM moved"""
#: The same for the lines of many jobs that stay in their states.
_APPEND_EACH = f"""
    WITH line AS (SELECT * FROM json_populate_recordset(NULL::aihandoff.events, %s)),
    moved AS (UPDATE aihandoff.jobs AS j SET event_seq = line.seq, event_hash = line.hash, updated_at = line.at
        FROM line WHERE j.job_id = line.job_id AND j.state = line.from_state AND j.event_seq = line.seq - 1
        RETURNING j.job_id)
    INSERT INTO aihandoff.events ({columns(Event)})
    SELECT {columns(Event, "line")} FROM line JOIN moved USING (job_id)"""
#: What the hashes of new lines cover, and the fields of a line that those of version 1 do not.
_HASH_VERSION = 2
_SINCE_VERSION_2 = frozenset({*(f"actor_{field.name}" for field in fields(Actor)), "hash_version"})
_JSON_COLUMNS = frozenset({"input", "permissions", "review", "reassigned"})


def as_json(value: Any) -> Json:
    """Wrap a value for a ``json`` column, as the bytes that digests are made from."""
    return Json(value, dumps=canonical_json)


def now(connection: LedgerConnection) -> datetime:
    """The database's clock: the one clock that every process shares."""
    row = connection.execute("SELECT clock_timestamp() AS now").fetchone()
    assert row is not None
    at: datetime = row["now"]
    return at


def read(connection: LedgerConnection, job_id: int) -> Job:
    """Return the job.

    :raises JobNotFound: there is none with this id.
    """
    return _job(connection.execute(_READ_JOB, [job_id]).fetchone(), job_id)


def lock(connection: LedgerConnection, job_id: int) -> Job:
    """Return the job and keep others from changing it until the transaction ends.

    :raises JobNotFound: there is none with this id.
    """
    return _job(connection.execute(_LOCK_JOB, [job_id]).fetchone(), job_id)


def _job(row: Mapping[str, Any] | None, job_id: int) -> Job:
    if row is None:
        raise JobNotFound(
            f"the ledger has no job {job_id}.", remedy="`airflow aihandoff jobs list` shows the ones it has."
        )
    return Job(**row)


def move(
    connection: LedgerConnection,
    job: Job,
    event: JobEvent,
    *,
    actor: Actor,
    reason: str | None = None,
    detail: Mapping[str, Any] | None = None,
    at: datetime | None = None,
    keep_reason: bool = False,
    **changes: Any,
) -> Job:
    """Apply ``event`` to a locked job and append it to the history. The caller commits.

    :param reason: why, as a text for people.
    :param detail: what belongs to the event: ids and digests, never content and never a secret.
    :param changes: further columns of the job to set.
    :param at: the time of the line, if the database was asked for it since the job was locked; by default it is asked.
    :param keep_reason: the reason is about this line alone, and not why the job is in its state.
    :return: the job as it is now.
    :raises IllegalTransition: the event is not valid in the job's state.
    """
    state = next_job_state(job.state, event)
    if state is None:
        raise _not_valid(job, event)
    reason = plain_or_none(reason)
    line = _next_line(job, event, state.value, at or now(connection), actor, reason, dict(detail or {}))
    after = replace(
        job,
        state=state,
        state_reason=job.state_reason if keep_reason or (reason is None and state is job.state) else reason,
        acknowledged_at=_acknowledged_at(job, state, line),
        event_seq=line.seq,
        event_hash=line.hash,
        updated_at=line.at,
        **changes,
    )
    _store(connection, before=job, after=after, line=line)
    if event in WAKING_JOB_EVENTS:
        connection.woken.add(job.job_id)
    return after


@dataclass(frozen=True)
class Step:
    """An event that leaves a locked job in its state.

    :param detail: as of :func:`move`. No text in it has a NUL character.
    :param at: the time of the line, for which the database was asked since the job was locked.
    """

    job: JobHead
    event: JobEvent
    actor: Actor
    detail: Mapping[str, Any]
    at: datetime


def append_each(connection: LedgerConnection, steps: Sequence[Step]) -> None:
    """Append an event to the history of each of several locked jobs, as :func:`move` does to one, in one statement.

    :param steps: no two of the same job.
    :raises IllegalTransition: one of the events is not valid in its job's state, or would move it. The caller must not
        commit.
    """
    lines = [_line_that_stays(step) for step in steps]
    if not lines:
        return
    rows = [{**vars(line), "at": line.at.isoformat()} for line in lines]
    if connection.execute(_APPEND_EACH, [Json(rows)]).rowcount != len(lines):
        raise _moved_meanwhile(steps[0].job)
    for step, line in zip(steps, lines, strict=True):
        connection.signals.append(partial(say_step, step.job, line))
        if step.event in WAKING_JOB_EVENTS:
            connection.woken.add(step.job.job_id)


def _line_that_stays(step: Step) -> Event:
    job = step.job
    if next_job_state(job.state, step.event) is not job.state:
        raise _not_valid(job, step.event)
    return _next_line(job, step.event, job.state.value, step.at, step.actor, None, dict(step.detail))


def _not_valid(job: Job | JobHead, event: JobEvent) -> IllegalTransition:
    return IllegalTransition(
        f"the event {event.value!r} is not valid in the state {job.state.value!r}.",
        job=job.label,
        written="This step made no external write.",
        remedy=f"`airflow aihandoff jobs show {job.job_id}` shows how the job reached this state.",
    )


def _moved_meanwhile(job: Job | JobHead) -> IllegalTransition:
    return IllegalTransition(
        "another process moved the job at the same time.",
        job=job.label,
        written="This step made no external write.",
        remedy="Retry: that is safe.",
    )


def _acknowledged_at(job: Job, state: JobState, line: Event) -> datetime | None:
    """When a person saw that the job failed. One who acts on it then has; it holds until the job leaves the state."""
    if state is JobState.FAILED and line.actor_kind in PERSON_KINDS:
        return line.at
    return job.acknowledged_at if state is job.state else None


def begin(connection: LedgerConnection, job: Job, *, actor: Actor, detail: Mapping[str, Any]) -> Job:
    """Write the first line of a job that was just inserted, and return the job as it is now."""
    line = _line(job, JobEvent.CREATED, None, job.state.value, job.created_at, actor, None, dict(detail))
    after = replace(job, event_seq=line.seq, event_hash=line.hash)
    _store(connection, before=job, after=after, line=line)
    return after


def _next_line(
    job: Job | JobHead,
    event: JobEvent,
    to_state: str,
    at: datetime,
    actor: Actor,
    reason: str | None,
    detail: dict[str, Any],
) -> Event:
    return _line(job, event, job.state.value, to_state, at, actor, reason, detail)


def _line(
    job: Job | JobHead,
    event: JobEvent,
    from_state: str | None,
    to_state: str,
    at: datetime,
    actor: Actor,
    reason: str | None,
    detail: dict[str, Any],
) -> Event:
    """The line after the newest one of a job."""
    line = Event(
        job_id=job.job_id,
        seq=job.event_seq + 1,
        at=at,
        actor=str(actor),
        event=event.value,
        from_state=from_state,
        to_state=to_state,
        reason=reason,
        detail=detail,
        previous_hash=job.event_hash,
        hash="",
        actor_kind=actor.kind,
        actor_name=actor.name,
        actor_user_id=actor.user_id,
        actor_dag_id=actor.dag_id,
        actor_run_id=actor.run_id,
        actor_task_id=actor.task_id,
        actor_map_index=actor.map_index,
        actor_try_number=actor.try_number,
        hash_version=_HASH_VERSION,
    )
    return replace(line, hash=event_hash(line))


def _store(connection: LedgerConnection, *, before: Job, after: Job, line: Event) -> None:
    """Write the columns that differ, and the line; if the row still is in the state and at the event that was read."""
    old, new = vars(before), vars(after)
    changed = {name: new[name] for name in new if new[name] != old[name]}
    # The names are those of the record's fields.
    assignments = ", ".join(f"{name} = %(new_{name})s" for name in changed)
    values = {
        f"new_{name}": as_json(value) if name in _JSON_COLUMNS and value is not None else value
        for name, value in changed.items()
    }
    values |= {**vars(line), "was": before.state, "detail": as_json(line.detail)}
    if connection.execute(_MOVE.format(assignments), values).rowcount != 1:
        raise _moved_meanwhile(before)
    connection.signals.append(partial(say_step, after, line))


def event_hash(line: Event) -> str:
    """SHA-256 over every field of the line and the hash of the line before it.

    That of a line of version 1, from before the facts of who acted were columns, covers the others.
    """
    left_out = {"hash"} | (_SINCE_VERSION_2 if line.hash_version == 1 else set())
    covered = {name: value for name, value in vars(line).items() if name not in left_out}
    covered["at"] = line.at.astimezone(UTC).isoformat(timespec="microseconds")
    return hashlib.sha256(canonical_json(covered).encode("ascii")).hexdigest()


def first_break(lines: Iterable[Event], job: Job | None = None) -> int | None:
    """The ``seq`` of the first line of a whole history that was altered, removed or added; None if none was.

    :param job: the job, which names its newest line: without it, lines that are missing at the end stay unnoticed.
    """
    previous, expected = GENESIS, 1
    for line in lines:
        if line.seq != expected or line.previous_hash != previous or line.hash != event_hash(line):
            return expected
        if not _names_its_actor(line):
            return expected
        previous, expected = line.hash, expected + 1
    if job is not None and (job.event_seq, job.event_hash) != (expected - 1, previous):
        last = expected - 1
        return last if last == job.event_seq else min(last, job.event_seq) + 1
    return None


def _names_its_actor(line: Event) -> bool:
    """Whether the facts of who acted are those that the text names: no hash of version 1 covers them."""
    return line.by.is_whole and str(line.by) == line.actor
