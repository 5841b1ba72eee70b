"""Requests for jobs: recorded once each, and one Dag run for each, whatever dies in between.

Every method is one short transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.database.history import as_json
from airflow_provider_aihandoff.core.errors import (
    CannotCancel,
    JobRequestConflict,
    JobRequestInProgress,
    JobRequestNotFound,
    TooManyRequests,
)
from airflow_provider_aihandoff.core.event_delivery.outbox import EVENT_OF_REQUEST
from airflow_provider_aihandoff.core.job_requests.job_request import (
    JobRequest,
    RequestState,
    Wanted,
    standing_of_ended,
)
from airflow_provider_aihandoff.core.models import Actor, Job, columns
from airflow_provider_aihandoff.core.text import plain

#: Seconds for which the one who begins to make a run of a request is left alone with it.
LEASE_SECONDS = 15

#: How often making a run is tried; then the request fails. With the pauses between them, two hours.
MAX_TRIES = 30

#: Between two tries, in seconds.
_PAUSE_BASE, _PAUSE_CAP = 2, 300

#: Requests of one requester, and those of one login and type, count under these locks, so that no two count the same
#: ones. Everyone takes them in this order. The count asks for the time of its statement, which begins after the lock: a
#: clock that goes on within a statement uses no index.
_LOCK_REQUESTER = "SELECT pg_advisory_xact_lock(hashtextextended('aihandoff.job_requests of ' || %s, 0))"
_LOCK_COUNT = "SELECT pg_advisory_xact_lock(hashtextextended('aihandoff.job_requests' || %s || ' ' || %s, 0))"
_COUNT = """
    SELECT (
        SELECT count(*) FROM aihandoff.job_requests
        WHERE requested_by = %(requested_by)s AND recorded_by_kind = 'user'
            AND created_at > statement_timestamp() - interval '1 minute') AS in_all, (
        SELECT count(*) FROM aihandoff.job_requests
        WHERE recorded_by = %(recorded_by)s AND recorded_by_kind = 'user' AND job_type = %(job_type)s
            AND created_at > statement_timestamp() - interval '1 minute') AS of_type"""
_INSERT = f"""
    INSERT INTO aihandoff.job_requests (request_id, job_type, job_key, input, permissions, requested_by,
        requested_by_id, recorded_by, recorded_by_kind, idempotency_key, tries, try_at)
    VALUES (%(request_id)s, %(job_type)s, %(job_key)s, %(input)s, %(permissions)s, %(requested_by)s,
        %(requested_by_id)s, %(recorded_by)s, 'user', %(idempotency_key)s, 1,
        clock_timestamp() + {LEASE_SECONDS} * interval '1 second')
    ON CONFLICT DO NOTHING RETURNING {columns(JobRequest)}"""
_FIND = f"""
    SELECT {columns(JobRequest)} FROM aihandoff.job_requests
    WHERE (job_type = %(job_type)s AND job_key = %(job_key)s)
        OR (recorded_by = %(recorded_by)s AND idempotency_key = %(idempotency_key)s)"""
_READ = f"SELECT {columns(JobRequest)} FROM aihandoff.job_requests WHERE request_id = %s"
_OF_RUN = f"SELECT {columns(JobRequest)} FROM aihandoff.job_requests WHERE request_id = %s AND job_type = %s"
#: What no one is busy with. Two processes that ask at the same time are given different ones.
_CLAIM = f"""
    UPDATE aihandoff.job_requests SET tries = tries + 1,
        try_at = clock_timestamp() + {LEASE_SECONDS} * interval '1 second'
    WHERE request_id = ANY(ARRAY(
        SELECT request_id FROM aihandoff.job_requests WHERE state = 'recorded' AND try_at <= clock_timestamp()
        ORDER BY try_at LIMIT %s FOR UPDATE SKIP LOCKED))
    RETURNING {columns(JobRequest)}"""
_STARTED = f"""
    UPDATE aihandoff.job_requests SET state = 'started', state_reason = NULL, dag_id = %(dag_id)s, run_id = %(run_id)s,
        events_show_result = %(events_show_result)s, updated_at = clock_timestamp()
    WHERE request_id = %(request_id)s AND state = 'recorded'
    RETURNING {columns(JobRequest)}"""
#: Another run may have been made meanwhile, by the one who was thought dead: only what is still recorded is ended.
_END = f"""
    WITH ended AS (
        UPDATE aihandoff.job_requests SET state = %(state)s, state_reason = %(reason)s, updated_at = clock_timestamp()
        WHERE request_id = %(request_id)s AND state = ANY(%(states)s)
        RETURNING {columns(JobRequest)}){EVENT_OF_REQUEST}
    SELECT {columns(JobRequest)} FROM ended"""
_POSTPONE = f"""
    UPDATE aihandoff.job_requests SET state_reason = %(reason)s, updated_at = clock_timestamp(),
        try_at = clock_timestamp() + least({_PAUSE_BASE} * 2 ^ least(tries, 10), {_PAUSE_CAP}) * interval '1 second'
    WHERE request_id = %(request_id)s AND state = 'recorded'
    RETURNING {columns(JobRequest)}"""
#: What is a job by now: the state of the job says the rest.
_SETTLE = """
    UPDATE aihandoff.job_requests AS q SET state = 'job', updated_at = clock_timestamp()
    WHERE request_id = ANY(ARRAY(
        SELECT request_id FROM aihandoff.job_requests JOIN aihandoff.jobs USING (job_type, job_key)
        WHERE job_requests.state = 'started' LIMIT 1000 FOR UPDATE OF job_requests SKIP LOCKED))"""
_CLAIM_JOBLESS = f"""
    UPDATE aihandoff.job_requests SET try_at = clock_timestamp() + interval '30 seconds'
    WHERE request_id = ANY(ARRAY(
        SELECT request_id FROM aihandoff.job_requests WHERE state = 'started' AND try_at <= clock_timestamp()
        ORDER BY try_at LIMIT %s FOR UPDATE SKIP LOCKED))
    RETURNING {columns(JobRequest)}"""
_JOB_OF = f"SELECT {columns(Job)} FROM aihandoff.jobs WHERE job_type = %s AND job_key = %s"

_NOT_RECORDED = "Nothing was recorded, and no external write was made."


@dataclass(frozen=True)
class Followed:
    """A request with its job, if it has become one."""

    request: JobRequest
    job: Job | None


class JobRequests:
    """The requests for jobs of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self, wanted: Wanted, *, recorded_by: str, per_minute: int, requests_per_minute: int | None = None
    ) -> JobRequest:
        """Record what someone asks for, or find it where they have asked before.

        :param recorded_by: the login.
        :param per_minute: how many the login may make of this type in a minute.
        :param requests_per_minute: how many the requester may make of all types together; None: as many as they like.
        :raises JobRequestConflict: the key is that of another request.
        :raises JobRequestInProgress: a transaction that is under way has the same key.
        :raises TooManyRequests: they have made as many as they may.
        """
        own = uuid4()
        values = {
            "request_id": own,
            "job_type": wanted.job_type,
            "job_key": str(own) if wanted.job_key is None else wanted.job_key,
            "input": as_json(wanted.input),
            "permissions": as_json(wanted.permissions),
            "requested_by": wanted.requested_by,
            "requested_by_id": wanted.requested_by_id,
            "recorded_by": recorded_by,
            "idempotency_key": wanted.idempotency_key,
        }

        def work(connection: LedgerConnection) -> JobRequest:
            if found := _same(connection, wanted, values):
                return found
            if requests_per_minute is not None:
                connection.execute(_LOCK_REQUESTER, [wanted.requested_by])
            connection.execute(_LOCK_COUNT, [recorded_by, wanted.job_type])
            (counted,) = connection.execute(_COUNT, values).fetchall()
            try:
                row = connection.execute(_INSERT, values).fetchone()
            except psycopg.errors.LockNotAvailable as error:
                raise JobRequestInProgress(
                    "another request with the same key is being recorded.",
                    written=_NOT_RECORDED,
                    remedy="Send this one again in a moment.",
                ) from error
            if row is None:  # another one was committed since
                found = _same(connection, wanted, values)
                assert found is not None
                return found
            if counted["of_type"] >= per_minute:
                raise _too_many(recorded_by, counted["of_type"], f" of the type {wanted.job_type}", per_minute)
            if requests_per_minute is not None and counted["in_all"] >= requests_per_minute:
                raise _too_many(wanted.requested_by, counted["in_all"], "", requests_per_minute)
            return JobRequest(**row)

        return self._database.transact(work, repeatable=True, step="request.record")

    def read(self, request_id: UUID, *, settled: bool = False) -> Followed:
        """Return a request, with its job.

        :param settled: wait for a transaction that is changing it, such as one that cancels it.
        :raises JobRequestNotFound: there is none.
        """

        def work(connection: LedgerConnection) -> Followed:
            query = f"{_READ} FOR SHARE" if settled else _READ
            return _followed(connection, _request(connection.execute(query, [request_id]).fetchone(), request_id))

        return self._database.transact(work)

    def claim(self, limit: int) -> list[JobRequest]:
        """Return requests of which no run is known, for the caller to make one of each. Others leave them alone for
        :data:`LEASE_SECONDS`."""

        def work(connection: LedgerConnection) -> list[JobRequest]:
            return [JobRequest(**row) for row in connection.execute(_CLAIM, [limit]).fetchall()]

        return self._database.transact(work, step="request.claim")

    def started(self, request: JobRequest, *, dag_id: str, events_show_result: bool = False) -> JobRequest:
        """Record that the run of a request was made. Safe to repeat.

        :param events_show_result: as the author of the Dag says.
        """
        values = {
            "request_id": request.request_id,
            "dag_id": dag_id,
            "run_id": request.own_run_id,
            "events_show_result": events_show_result,
        }
        return self._change(_STARTED, values, step="request.started")

    def refuse(self, request: JobRequest, why: str) -> JobRequest:
        """End a request that is not what its type takes."""
        return self._end(request, RequestState.REFUSED, why, (RequestState.RECORDED,))

    def postpone(self, request: JobRequest, why: str) -> JobRequest:
        """Have the run made later, or fail the request where that was tried as often as it may be.

        :param why: as a text for those who run the Dags.
        """
        if request.tries >= MAX_TRIES:
            return self._end(request, RequestState.FAILED, why, (RequestState.RECORDED,))
        return self._change(_POSTPONE, {"request_id": request.request_id, "reason": plain(why)}, step="request.ended")

    def fail(self, request: JobRequest, why: str) -> JobRequest:
        """End a request whose run has ended without a job."""
        return self._end(request, RequestState.FAILED, why, (RequestState.STARTED,))

    def claim_jobless(self, limit: int) -> list[JobRequest]:
        """Return requests whose run was made a while ago, and which are no job yet: each half a minute, to one caller.

        Those that are a job by now are recorded as such.
        """

        def work(connection: LedgerConnection) -> list[JobRequest]:
            connection.execute(_SETTLE)
            return [JobRequest(**row) for row in connection.execute(_CLAIM_JOBLESS, [limit]).fetchall()]

        return self._database.transact(work, step="request.claim")

    def cancel(self, request_id: UUID, *, actor: Actor) -> Followed:
        """Cancel a request that is no job yet: its task finds that, and asks no model. Safe to repeat.

        :return: the request. Where it has a job, nothing was done, and the job is what to cancel.
        :raises JobRequestNotFound: there is none.
        :raises CannotCancel: it has ended.
        """

        def work(connection: LedgerConnection) -> Followed:
            row = connection.execute(f"{_READ} FOR UPDATE", [request_id]).fetchone()
            found = _followed(connection, _request(row, request_id))
            if found.job is not None or found.request.state is RequestState.CANCELLED:
                return found
            if found.request.state not in (RequestState.RECORDED, RequestState.STARTED):
                raise CannotCancel(f"it has {found.request.state.value} already.", job=found.request.label)
            values = {
                "request_id": request_id,
                "state": RequestState.CANCELLED.value,
                "reason": f"{actor.label} has cancelled it",
                "states": [RequestState.RECORDED.value, RequestState.STARTED.value],
                "standing": standing_of_ended(RequestState.CANCELLED).value,
            }
            return Followed(_request(connection.execute(_END, values).fetchone(), request_id), None)

        return self._database.transact(work, repeatable=True, step="request.ended")

    def of_run(self, run_id: str, job_type: str) -> JobRequest | None:
        """The request that a run was made for; None where it was made for none of this type."""
        try:
            request_id = UUID(run_id.removeprefix("request__"))
        except ValueError:
            return None

        def work(connection: LedgerConnection) -> JobRequest | None:
            row = connection.execute(_OF_RUN, [request_id, job_type]).fetchone()
            return None if row is None or JobRequest(**row).own_run_id != run_id else JobRequest(**row)

        return self._database.transact(work)

    def _end(self, request: JobRequest, state: RequestState, why: str, states: Sequence[RequestState]) -> JobRequest:
        values = {
            "request_id": request.request_id,
            "state": state.value,
            "reason": plain(why),
            "states": [each.value for each in states],
            "standing": standing_of_ended(state).value,
        }
        return self._change(_END, values, step="request.ended")

    def _change(self, statement: str, values: dict[str, Any], *, step: str) -> JobRequest:
        """Change a request, and return it; as it is, where it is no longer what the change is about."""

        def work(connection: LedgerConnection) -> JobRequest:
            row = connection.execute(statement, values).fetchone()
            row = row or connection.execute(_READ, [values["request_id"]]).fetchone()
            return _request(row, values["request_id"])

        return self._database.transact(work, repeatable=True, step=step)


def _too_many(who: str, made: int, what: str, allowed: int) -> TooManyRequests:
    return TooManyRequests(
        f"{who} has made {made} requests{what} in the last minute; {allowed} are allowed.",
        written=_NOT_RECORDED,
        remedy="Send this one again in a minute.",
    )


def _same(connection: LedgerConnection, wanted: Wanted, values: dict[str, Any]) -> JobRequest | None:
    """The request that was recorded for the same; None where there is none of these keys.

    :raises JobRequestConflict: there is one, and it is another.
    """
    found = [JobRequest(**row) for row in connection.execute(_FIND, values).fetchall()]
    if not found:
        return None
    if len(found) > 1 or not found[0].is_same(wanted):
        by = "Idempotency-Key" if found[0].idempotency_key == wanted.idempotency_key is not None else "key"
        raise JobRequestConflict(
            f"the {by} was used before, by a request with another content.",
            written=_NOT_RECORDED,
            remedy="Give new work a key of its own.",
        )
    return found[0]


def _followed(connection: LedgerConnection, request: JobRequest) -> Followed:
    row = connection.execute(_JOB_OF, [request.job_type, request.job_key]).fetchone()
    return Followed(request, None if row is None else history.read(connection, row["job_id"]))


def _request(row: dict[str, Any] | None, request_id: UUID) -> JobRequest:
    if row is None:
        raise JobRequestNotFound(f"there is no request {request_id}.", written="")
    return JobRequest(**row)
