"""Pauses: a person stops requests to the model, and external writes too if they say so, for the whole fleet at once.

Each request and each write asks in the transaction that permits it. So what is permitted after the pause was committed
is held, on whatever host; what was permitted before is being sent, and is recorded as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_provider_aihandoff.core.admission.hold import Hold
from airflow_provider_aihandoff.core.admission.hold_store import release
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.errors import PauseNotFound
from airflow_provider_aihandoff.core.models import Actor, ActorKind, Effect, Job, Revision, columns
from airflow_provider_aihandoff.core.text import plain

#: How many pauses that have ended are listed.
_MAX_ENDED = 100


@dataclass(frozen=True)
class Scope:
    """What a pause is about: everything that matches all that is named. Nothing named is everything.

    :param conn_id: an OpenAI connection; of a pause that stops writes, also the connection of a target.
    :param set_id: only jobs of this set.
    """

    conn_id: str | None = None
    job_type: str | None = None
    dag_id: str | None = None
    set_id: int | None = None

    def __str__(self) -> str:
        named = (
            ("connection", self.conn_id),
            ("type", self.job_type),
            ("Dag", self.dag_id),
            ("set", self.set_id),
        )
        return ", ".join(f"{what} {name}" for what, name in named if name is not None) or "everything"


@dataclass(frozen=True)
class Pause:
    """One pause.

    :param writes: it stops external writes too.
    :param actor_kind: with the two after it, who began it.
    :param ended_by_kind: with the two after it, who ended it.
    """

    pause_id: int
    conn_id: str | None
    job_type: str | None
    dag_id: str | None
    writes: bool
    reason: str
    actor_kind: str
    actor_name: str
    actor_user_id: str | None
    created_at: datetime
    ended_at: datetime | None
    ended_reason: str | None
    ended_by_kind: str | None
    ended_by_name: str | None
    ended_by_user_id: str | None
    set_id: int | None

    @property
    def scope(self) -> Scope:
        """What it is about."""
        return Scope(self.conn_id, self.job_type, self.dag_id, self.set_id)

    @property
    def by(self) -> Actor:
        """Who began it."""
        return Actor(ActorKind(self.actor_kind), self.actor_name, self.actor_user_id)

    @property
    def ended_by(self) -> Actor | None:
        """Who ended it; None while it is in force."""
        if self.ended_by_kind is None:
            return None
        return Actor(ActorKind(self.ended_by_kind), self.ended_by_name, self.ended_by_user_id)

    @property
    def stops(self) -> str:
        """What it stops, in words."""
        return "requests to the model and external writes" if self.writes else "requests to the model"


@dataclass(frozen=True)
class Held:
    """How much a pause holds back.

    :param requests: to the model, and ``writes``: external ones; of tasks that wait, or would.
    :param running: how many responses run in its scope: it does not stop them.
    """

    requests: int
    writes: int
    running: int


_INSERT = f"""
    INSERT INTO aihandoff.pauses
        (conn_id, job_type, dag_id, set_id, writes, reason, actor_kind, actor_name, actor_user_id, created_at)
    VALUES (%(conn_id)s, %(job_type)s, %(dag_id)s, %(set_id)s, %(writes)s, %(reason)s, %(kind)s, %(name)s, %(user_id)s,
        clock_timestamp())
    RETURNING {columns(Pause)}"""
_END = f"""
    UPDATE aihandoff.pauses SET ended_at = clock_timestamp(), ended_reason = %(reason)s, ended_by_kind = %(kind)s,
        ended_by_name = %(name)s, ended_by_user_id = %(user_id)s
    WHERE pause_id = %(pause_id)s AND ended_at IS NULL
    RETURNING {columns(Pause)}"""
_READ = f"SELECT {columns(Pause)} FROM aihandoff.pauses WHERE pause_id = %s"
_LIST_IN_FORCE = f"SELECT {columns(Pause)} FROM aihandoff.pauses WHERE ended_at IS NULL ORDER BY pause_id DESC"
_LIST_ENDED = f"""
    SELECT {columns(Pause)} FROM aihandoff.pauses WHERE ended_at IS NOT NULL ORDER BY pause_id DESC LIMIT %s"""
_IN_FORCE = f"""
    SELECT {columns(Pause)} FROM aihandoff.pauses
    WHERE ended_at IS NULL AND (writes OR NOT %(write)s) AND (conn_id IS NULL OR conn_id = %(conn_id)s)
        AND (job_type IS NULL OR job_type = %(job_type)s) AND (dag_id IS NULL OR dag_id = %(dag_id)s)
        AND (set_id IS NULL OR set_id = %(set_id)s)
    ORDER BY pause_id LIMIT 1"""
_COUNT_HELD = """
    SELECT (SELECT count(*) FROM aihandoff.revisions
            WHERE held_kind = 'pause' AND held_name = %(name)s AND state IN ('queued', 'submitting')) AS requests,
        (SELECT count(*) FROM aihandoff.effects WHERE held_kind = 'pause' AND held_name = %(name)s
            AND state IN ('planned', 'refused', 'unknown')) AS writes,
        (SELECT count(*) FROM aihandoff.revisions AS r JOIN aihandoff.jobs AS j USING (job_id)
            WHERE r.state = 'running' AND (%(conn_id)s::text IS NULL OR r.conn_id = %(conn_id)s)
            AND (%(job_type)s::text IS NULL OR j.job_type = %(job_type)s)
            AND (%(dag_id)s::text IS NULL OR j.dag_id = %(dag_id)s)
            AND (%(set_id)s::bigint IS NULL OR j.set_id = %(set_id)s)) AS running"""
_RUNNING = """
    SELECT job_id FROM aihandoff.revisions AS r JOIN aihandoff.jobs AS j USING (job_id)
    WHERE r.state = 'running' AND j.state = 'running' AND r.number = j.revision
        AND (%(conn_id)s::text IS NULL OR r.conn_id = %(conn_id)s)
        AND (%(job_type)s::text IS NULL OR j.job_type = %(job_type)s)
        AND (%(dag_id)s::text IS NULL OR j.dag_id = %(dag_id)s)
        AND (%(set_id)s::bigint IS NULL OR j.set_id = %(set_id)s)
    ORDER BY job_id"""


def hold_of_request(connection: LedgerConnection, job: Job, revision: Revision) -> Hold | None:
    """The pause that holds a request to the model back; None where there is none."""
    return _hold(connection, job, revision.conn_id, write=False)


def hold_of_write(connection: LedgerConnection, job: Job, effect: Effect) -> Hold | None:
    """The pause that holds an external write back; None where there is none."""
    conn_id = effect.plan.get("connection")
    return _hold(connection, job, conn_id if isinstance(conn_id, str) else None, write=True)


def _hold(connection: LedgerConnection, job: Job, conn_id: str | None, *, write: bool) -> Hold | None:
    values = {"write": write, "conn_id": conn_id, "job_type": job.job_type, "dag_id": job.dag_id, "set_id": job.set_id}
    row = connection.execute(_IN_FORCE, values).fetchone()
    if row is None:
        return None
    pause = Pause(**row)
    why = f"{pause.by.label} has paused {pause.stops} ({pause.scope}): {pause.reason.rstrip('.')}."
    return Hold("pause", str(pause.pause_id), why)


class Pauses:
    """The pauses of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, scope: Scope, *, writes: bool, reason: str, actor: Actor) -> Pause:
        """Stop what matches. What is permitted after this has returned is held.

        :param writes: external writes too.
        :raises ValueError: there is no reason, or a name in the scope is empty.
        """
        reason = _reason(reason)
        if "" in (scope.conn_id, scope.job_type, scope.dag_id):
            raise ValueError("A connection, a type and a Dag that are named must not be empty.")
        values = {**vars(scope), "writes": writes, "reason": reason, **_who(actor)}

        def work(connection: LedgerConnection) -> Pause:
            row = connection.execute(_INSERT, values).fetchone()
            assert row is not None
            return Pause(**row)

        return self._database.transact(work)

    def end(self, pause_id: int, *, reason: str, actor: Actor) -> Pause:
        """End a pause, and wake what it holds. Does nothing to one that has ended.

        :raises ValueError: there is no reason.
        :raises PauseNotFound: there is none with this id.
        """
        values = {"pause_id": pause_id, "reason": _reason(reason), **_who(actor)}

        def work(connection: LedgerConnection) -> Pause:
            row = connection.execute(_END, values).fetchone()
            if row is None:
                return _read(connection, pause_id)
            release(connection, "pause", str(pause_id))
            return Pause(**row)

        return self._database.transact(work)

    def read(self, pause_id: int) -> Pause:
        """Return one pause.

        :raises PauseNotFound: there is none with this id.
        """
        return self._database.transact(lambda connection: _read(connection, pause_id))

    def find(self, *, ended: bool = False) -> list[Pause]:
        """Return all pauses in force, the newest first; and then the newest that have ended, if they are wanted."""

        def work(connection: LedgerConnection) -> list[Pause]:
            rows = connection.execute(_LIST_IN_FORCE).fetchall()
            if ended:
                rows += connection.execute(_LIST_ENDED, [_MAX_ENDED]).fetchall()
            return [Pause(**row) for row in rows]

        return self._database.transact(work)

    def held(self, pause: Pause) -> Held:
        """Count what a pause holds back, and what runs all the same."""

        def work(connection: LedgerConnection) -> Held:
            row = connection.execute(_COUNT_HELD, {"name": str(pause.pause_id), **vars(pause.scope)}).fetchone()
            assert row is not None
            return Held(**row)

        return self._database.transact(work)

    def running(self, scope: Scope) -> Sequence[int]:
        """The ids of the jobs whose responses run in a scope, oldest first."""

        def work(connection: LedgerConnection) -> list[int]:
            return [row["job_id"] for row in connection.execute(_RUNNING, vars(scope)).fetchall()]

        return self._database.transact(work)


def _read(connection: LedgerConnection, pause_id: int) -> Pause:
    row = connection.execute(_READ, [pause_id]).fetchone()
    if row is None:
        raise PauseNotFound(
            f"the ledger has no pause {pause_id}.", remedy="`airflow aihandoff pauses` lists the ones in force."
        )
    return Pause(**row)


def _reason(reason: str) -> str:
    text = plain(reason).strip()
    if not text:
        raise ValueError("A pause needs a reason, and so does its end: it goes on the record.")
    return text


def _who(actor: Actor) -> dict[str, Any]:
    return {"kind": actor.kind.value, "name": actor.name, "user_id": actor.user_id}
