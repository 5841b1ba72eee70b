"""Moves a job from state to state: one row, one event, one hash, in the caller's transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from psycopg.types.json import Json

from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.database.step_log import say_steps
from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.errors import IllegalTransition, JobNotFound
from airflow_provider_aihandoff.core.event_delivery.outbox import EVENT_OF_EACH_JOB, EVENT_OF_JOB, changed_standing
from airflow_provider_aihandoff.core.models import PERSON_KINDS, Actor, Event, Job, JobHead, columns
from airflow_provider_aihandoff.core.states import WAKING_JOB_EVENTS, JobEvent, JobState, next_job_state
from airflow_provider_aihandoff.core.text import plain_or_none

GENESIS = "0" * 64

_JSON_COLUMNS = frozenset({"input", "permissions", "review", "reassigned"})


def _sql_type(name: str, kind: str) -> str:
    """The type of a column in SQL, by that of the field."""
    if name in _JSON_COLUMNS:
        return "json"
    types = {"datetime": "timestamptz", "int": "bigint", "Decimal": "numeric", "list[str]": "text[]"}
    return types.get(kind.removesuffix(" | None"), "text")


#: What a step of many jobs reads of none of them: it may be large.
_LARGE = frozenset({"input", "permissions"})
_LOCK_JOB = f"SELECT {columns(Job)} FROM aihandoff.jobs WHERE job_id = %s FOR UPDATE"
_READ_JOB = f"SELECT {columns(Job)} FROM aihandoff.jobs WHERE job_id = %s"
_LOCK_JOBS = f"""
    SELECT {columns(Job, without=_LARGE)} FROM aihandoff.jobs WHERE job_id = ANY(%s) ORDER BY job_id FOR UPDATE"""
#: One statement for both, so that no line is written for a job that another process has moved.
_MOVE = f"""
    WITH moved AS (UPDATE aihandoff.jobs SET {{changes}} WHERE job_id = %(job_id)s AND state = %(was)s
        AND event_seq = %(seq)s - 1 RETURNING job_id){{outbox}}
    INSERT INTO aihandoff.events ({columns(Event)})
    SELECT {", ".join(f"%({each.name})s" for each in fields(Event))} FROM moved"""
#: What stands in the line of one job alone, and how it is handed over for many: who acted is the same for all.
_OF_EACH_LINE = {
    "job_id": "bigint",
    "was": "text",
    "seq": "integer",
    "at": "timestamptz",
    "event": "text",
    "from_state": "text",
    "to_state": "text",
    "reason": "text",
    "detail": "json",
    "previous_hash": "text",
    "hash": "text",
    "job_type": "text",
    "revision": "integer",
    "standing": "text",
}
#: :data:`_MOVE` for many jobs of which the same columns change.
_MOVE_EACH = f"""
    WITH line AS (SELECT * FROM unnest({{given}}) AS line ({{names}})),
    moved AS (UPDATE aihandoff.jobs AS j SET {{changes}} FROM line WHERE j.job_id = line.job_id AND j.state = line.was
        AND j.event_seq = line.seq - 1 RETURNING j.job_id, line.seq){{outbox}}
    INSERT INTO aihandoff.events ({columns(Event)})
    SELECT {", ".join(f"line.{x.name}" if x.name in _OF_EACH_LINE else f"%({x.name})s" for x in fields(Event))}
    FROM line JOIN moved USING (job_id, seq)"""
#: The same for the lines of many jobs that stay in their states, of which no more is read than their heads.
_APPEND_EACH = f"""
    WITH line AS (SELECT * FROM json_populate_recordset(NULL::aihandoff.events, %s)),
    moved AS (UPDATE aihandoff.jobs AS j SET event_seq = line.seq, event_hash = line.hash, updated_at = line.at
        FROM line WHERE j.job_id = line.job_id AND j.state = line.from_state AND j.event_seq = line.seq - 1
        RETURNING j.job_id)
    INSERT INTO aihandoff.events ({columns(Event)})
    SELECT {columns(Event, "line")} FROM line JOIN moved USING (job_id)"""
#: What the hashes of new lines cover, and the fields of a line that those of version 1 do not.
_HASH_VERSION = 2
_SINCE_VERSION_2 = frozenset({*(f"actor_{each.name}" for each in fields(Actor)), "hash_version"})
#: How a column of a job is handed over for many jobs.
_COLUMN_TYPES = {each.name: _sql_type(each.name, str(each.type)) for each in fields(Job)}


def as_json(value: Any) -> Json:
    """Wrap a value for a ``json`` column, as the bytes that digests are made from."""
    return Json(value, dumps=canonical_json)


def json_of_text(text: str) -> Json:
    """:func:`as_json` of the value that a canonical JSON text says."""
    return Json(text, dumps=str)


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


def lock_many(connection: LedgerConnection, job_ids: Sequence[int], *, waits: bool = True) -> dict[int, Job]:
    """Return those of the jobs that there are, by id, and keep others from changing them until the transaction ends.

    They are locked in the order of their ids, so that two such steps cannot wait for each other; where a transaction
    locks several lots, it takes these in that order too. Input and permissions are not read: they are empty here.

    :param waits: for those that another transaction has locked; otherwise these are left out.
    """
    rows = connection.execute(_LOCK_JOBS if waits else f"{_LOCK_JOBS} SKIP LOCKED", [sorted(job_ids)]).fetchall()
    return {row["job_id"]: Job(**row, input={}, permissions={}) for row in rows}


def _job(row: Mapping[str, Any] | None, job_id: int) -> Job:
    if row is None:
        raise JobNotFound(
            f"the ledger has no job {job_id}.", remedy="`airflow aihandoff jobs list` shows the ones it has."
        )
    return Job(**row)


@dataclass(frozen=True)
class Move:
    """What happens to one of many jobs.

    :param detail: as of :func:`move`, and so are ``reason`` and ``changes``.
    """

    job: Job
    event: JobEvent
    detail: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


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
    step = Move(job, event, detail or {}, reason, changes)
    after, line = _moved(step, actor=actor, at=at or now(connection), keep_reason=keep_reason)
    _store(connection, [(job, after, line)])
    return after


def move_many(
    connection: LedgerConnection, steps: Sequence[Move], *, actor: Actor, at: datetime | None = None
) -> list[Job]:
    """:func:`move` for many locked jobs, in few round trips: all of them at one time of the database's clock.

    :param at: as of :func:`move`.
    :return: the jobs as they are now, in the order of the steps.
    :raises IllegalTransition: an event is not valid in the state of its job.
    """
    if not steps:
        return []
    at = at or now(connection)
    moved = [_moved(step, actor=actor, at=at) for step in steps]
    _store(connection, [(step.job, after, line) for step, (after, line) in zip(steps, moved, strict=True)])
    return [after for after, _ in moved]


def _moved(step: Move, *, actor: Actor, at: datetime, keep_reason: bool = False) -> tuple[Job, Event]:
    """A job after a step, and the line of it. Pure.

    :raises IllegalTransition: the event is not valid in the job's state.
    """
    job, event = step.job, step.event
    state = next_job_state(job.state, event)
    if state is None:
        raise _not_valid(job, event)
    reason = plain_or_none(step.reason)
    line = _next_line(job, event, state.value, at, actor, reason, dict(step.detail))
    after = replace(
        job,
        state=state,
        state_reason=job.state_reason if keep_reason or (reason is None and state is job.state) else reason,
        acknowledged_at=_acknowledged_at(job, state, line),
        event_seq=line.seq,
        event_hash=line.hash,
        updated_at=line.at,
        **step.changes,
    )
    return after, line


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
        raise _moved_meanwhile([step.job for step in steps])
    _tell(connection, [(step.job, line) for step, line in zip(steps, lines, strict=True)])


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


def _moved_meanwhile(jobs: Sequence[Job | JobHead]) -> IllegalTransition:
    return IllegalTransition(
        "another process moved the job at the same time.",
        job=jobs[0].label if len(jobs) == 1 else f"one of {len(jobs)} jobs",
        written="This step made no external write.",
        remedy="Retry: that is safe.",
    )


def _tell(connection: LedgerConnection, steps: Sequence[tuple[Job | JobHead, Event]]) -> None:
    """Log and count lines once they are committed, and wake those who wait for their jobs."""
    connection.signals.append(partial(say_steps, steps))
    connection.woken.update(job.job_id for job, line in steps if line.event in WAKING_JOB_EVENTS)


def _acknowledged_at(job: Job, state: JobState, line: Event) -> datetime | None:
    """When a person saw that the job failed. One who acts on it then has; it holds until the job leaves the state."""
    if state is JobState.FAILED and line.actor_kind in PERSON_KINDS:
        return line.at
    return job.acknowledged_at if state is job.state else None


def begin(connection: LedgerConnection, job: Job, *, actor: Actor, detail: Mapping[str, Any]) -> Job:
    """Write the first line of a job that was just inserted, and return the job as it is now."""
    return begin_many(connection, [(job, detail)], actor=actor)[0]


def begin_many(
    connection: LedgerConnection, jobs: Sequence[tuple[Job, Mapping[str, Any]]], *, actor: Actor
) -> list[Job]:
    """:func:`begin` for many jobs, in few round trips.

    :param jobs: each with the detail of its line.
    """
    begun = []
    for job, detail in jobs:
        line = _line(job, JobEvent.CREATED, None, job.state.value, job.created_at, actor, None, dict(detail))
        begun.append((job, replace(job, event_seq=line.seq, event_hash=line.hash), line))
    _store(connection, begun)
    return [after for _, after, _ in begun]


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
    line: dict[str, Any] = {
        "job_id": job.job_id,
        "seq": job.event_seq + 1,
        "at": at,
        "actor": str(actor),
        "event": event.value,
        "from_state": from_state,
        "to_state": to_state,
        "reason": reason,
        "detail": detail,
        "previous_hash": job.event_hash,
        "actor_kind": actor.kind,
        "actor_name": actor.name,
        "actor_user_id": actor.user_id,
        "actor_dag_id": actor.dag_id,
        "actor_run_id": actor.run_id,
        "actor_task_id": actor.task_id,
        "actor_map_index": actor.map_index,
        "actor_try_number": actor.try_number,
        "hash_version": _HASH_VERSION,
    }
    return Event(**line, hash=_hash_of(line))


def _store(connection: LedgerConnection, steps: Sequence[tuple[Job, Job, Event]]) -> None:
    """Write the columns that differ, and the line, of each ``(before, after, line)``; if the row still is in the state
    and at the event that was read."""
    alike: dict[tuple[bool, tuple[str, ...]], list[dict[str, Any]]] = {}
    for before, after, line in steps:
        old, new = vars(before), vars(after)
        changed = {name: new[name] for name in new if new[name] != old[name]}
        standing = changed_standing(line.from_state, line.to_state)
        values = {f"new_{name}": value for name, value in changed.items()}
        values |= {**vars(line), "was": before.state, "standing": standing}
        values |= {"job_type": after.job_type, "revision": after.revision}
        alike.setdefault((standing is not None, tuple(changed)), []).append(values)
    for (is_event, names), rows in alike.items():
        if _write(connection, names, rows, is_event=is_event) != len(rows):
            raise _moved_meanwhile([before for before, _, _ in steps])
    _tell(connection, [(after, line) for _, after, line in steps])


def _write(
    connection: LedgerConnection, names: Sequence[str], rows: Sequence[Mapping[str, Any]], *, is_event: bool
) -> int:
    """Write the lines of jobs of which the same columns change, by one actor, and return how many were written.

    :param names: of these columns, which are fields of the record.
    :param is_event: those who asked see a change.
    """
    if len(rows) == 1 or "tags" in names:  # an array of arrays would be one of texts
        changes = ", ".join(f"{name} = %(new_{name})s" for name in names)
        statement = _MOVE.format(changes=changes, outbox=EVENT_OF_JOB if is_event else "")
        return sum(connection.execute(statement, _as_given(row)).rowcount for row in rows)
    types = {**_OF_EACH_LINE, **{f"new_{name}": _COLUMN_TYPES[name] for name in names}}
    statement = _MOVE_EACH.format(
        given=", ".join(f"%({name})s::{kind}[]" for name, kind in types.items()),
        names=", ".join(types),
        changes=", ".join(f"{name} = line.new_{name}" for name in names),
        outbox=EVENT_OF_EACH_JOB if is_event else "",
    )
    given = {name: [_element(row[name], kind) for row in rows] for name, kind in types.items()}
    return connection.execute(statement, {**rows[0], **given}).rowcount


def _as_given(row: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one line as a statement takes them."""
    as_texts = {f"new_{name}" for name in _JSON_COLUMNS} | {"detail"}
    return {name: as_json(value) if name in as_texts and value is not None else value for name, value in row.items()}


def _element(value: Any, kind: str) -> Any:
    """A value as an array of this type takes it."""
    if value is None:
        return None
    if kind == "json":
        return canonical_json(value)
    return str(value) if kind == "text" else value


def event_hash(line: Event) -> str:
    """SHA-256 over every field of the line and the hash of the line before it.

    That of a line of version 1, from before the facts of who acted were columns, covers the others.
    """
    left_out = {"hash"} | (_SINCE_VERSION_2 if line.hash_version == 1 else set())
    return _hash_of({name: value for name, value in vars(line).items() if name not in left_out})


def _hash_of(covered: Mapping[str, Any]) -> str:
    covered = {**covered, "at": covered["at"].astimezone(UTC).isoformat(timespec="microseconds")}
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
