"""The row of one revision: read, stored and ended, in the transaction of a protocol that has locked its job."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.budgets import reservation_store
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.database.history import as_json
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.response_counts import count_response, model_of
from airflow_provider_aihandoff.core.models import Actor, Job, Revision, columns
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind
from airflow_provider_aihandoff.core.rates.rate_store import slot_freed
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES, JobEvent, ResponseStatus, RevisionState

#: The kinds of error of a revision that was given up before its response had ended.
GIVEN_UP_KINDS = frozenset({"deadline", "gone", "unknown submission"})

#: The revisions that count towards ``max_revisions``: not one whose request was never taken, as by a spending limit.
COUNTED = "author_kind = 'model' AND NOT (state = 'failed' AND submissions = 0)"
_SELECT_REVISION = f"SELECT {columns(Revision)} FROM aihandoff.revisions WHERE job_id = %s AND number = %s"
_NEXT_NUMBER = "SELECT coalesce(max(number), 0) + 1 AS number FROM aihandoff.revisions WHERE job_id = %s"
_MARK_RUNNING = f"""
    UPDATE aihandoff.revisions SET state = 'running', response_id = %(response_id)s, response_status = %(status)s,
        submissions = submissions + %(uncounted)s, unknown_submissions = unknown_submissions - %(counted)s,
        submit_token = NULL, submit_lease_until = NULL
    WHERE revision_id = %(revision_id)s
    RETURNING {columns(Revision)}"""
_MARK_UNKNOWN = f"""
    UPDATE aihandoff.revisions SET submit_token = NULL,
        unknown_submissions = CASE WHEN conversation_id IS NULL THEN unknown_submissions + 1 ELSE 1 END,
        submit_lease_until = clock_timestamp() + %(wait)s
    WHERE revision_id = %(revision_id)s
    RETURNING {columns(Revision)}"""
_STORE_OUTPUT = f"""
    UPDATE aihandoff.revisions SET state = %(state)s, response_status = %(status)s, output = %(output)s,
        output_digest = %(output_digest)s, error = %(error)s, usage = %(usage)s, cost_usd = %(cost_usd)s,
        submit_token = NULL, submit_lease_until = NULL, completed_at = clock_timestamp()
    WHERE revision_id = %(revision_id)s
    RETURNING {columns(Revision)}"""
#: It also returns what the revision counted for in limits on what is in flight.
_GIVE_UP = """
    UPDATE aihandoff.revisions SET state = 'cancelled', submit_token = NULL, submit_lease_until = NULL,
        held_kind = NULL, held_name = NULL, held_why = NULL, held_since = NULL
    WHERE job_id = %s AND number = %s AND state IN ('queued', 'submitting', 'running')
    RETURNING conn_id, rate_key"""


def read_revision(connection: LedgerConnection, job_id: int, number: int) -> Revision:
    """Return one revision of a job that exists."""
    revision = find_revision(connection, job_id, number)
    assert revision is not None
    return revision


def find_revision(connection: LedgerConnection, job_id: int, number: int) -> Revision | None:
    """Return one revision, or None where there is none."""
    row = connection.execute(_SELECT_REVISION, [job_id, number]).fetchone()
    return None if row is None else Revision(**row)


def next_number(connection: LedgerConnection, job_id: int) -> int:
    """The number of the next revision of a locked job. The current one need not be the newest."""
    row = connection.execute(_NEXT_NUMBER, [job_id]).fetchone()
    assert row is not None
    return int(row["number"])


def is_given_up(state: RevisionState, error_kind: str | None) -> bool:
    """Whether a revision in this state, with this kind of error, ended without waiting for its response to end."""
    return state is RevisionState.CANCELLED or (state is RevisionState.FAILED and error_kind in GIVEN_UP_KINDS)


def mark_running(
    connection: LedgerConnection,
    revision: Revision,
    response_id: str,
    status: ResponseStatus,
    *,
    found: bool = False,
    token: UUID | None = None,
) -> Revision:
    """Store the id of the response that runs for a revision.

    :param found: it is the response of a request whose answer was lost: if that one was counted as unknown, it is
        known now; if it was taken for refused, it is counted. While another attempt may be sending, it is not known
        which of the two requests it answers.
    :param token: of the permission of the request that it answers, if that is known.
    """
    lost = found and revision.submit_token is None
    # A handle takes one response at a time, and had none of an earlier request.
    counted = revision.unknown_submissions > 0 and (lost or revision.conversation_id is not None)
    row = connection.execute(
        _MARK_RUNNING,
        {
            "response_id": response_id,
            "status": status,
            "uncounted": int(lost and not counted),
            "counted": int(counted),
            "revision_id": revision.revision_id,
        },
    ).fetchone()
    assert row is not None
    reservation_store.name_response(connection, revision.job_id, revision.number, response_id, token=token)
    return Revision(**row)


def count_unknown(
    connection: LedgerConnection,
    job: Job,
    revision: Revision,
    *,
    actor: Actor,
    reason: str,
    wait: timedelta = timedelta(0),
) -> tuple[Job, Revision]:
    """Count the request of a permission that ended, without an outcome, as an unknown submission.

    A permission whose end was recorded no longer has a token; there is nothing to count then. What became of a request
    in a batch is found out with its batch.

    :param wait: for how long no one may send again, so that a webhook can bring the response that may exist.
    """
    if revision.state is not RevisionState.SUBMITTING or revision.submit_token is None or revision.batch_id is not None:
        return job, revision
    row = connection.execute(_MARK_UNKNOWN, {"wait": wait, "revision_id": revision.revision_id}).fetchone()
    assert row is not None
    detail = {"revision": revision.number}
    reason = f"unknown submission: {reason}; a response may exist, and may be billed"
    job = history.move(connection, job, JobEvent.SUBMIT_UNKNOWN, actor=actor, reason=reason, detail=detail)
    labels = {"job_type": job.job_type, "model": model_of(revision)}
    connection.count(signals.UNKNOWN_SUBMISSIONS, **labels)
    return job, Revision(**row)


def give_up(connection: LedgerConnection, job_id: int, number: int) -> None:
    """End a revision that has not ended: the job was cancelled, or a newer revision takes its place."""
    for row in connection.execute(_GIVE_UP, [job_id, number]).fetchall():
        slot_freed(connection, LimitKind.OPENAI, row["conn_id"], row["rate_key"])


def fail_revision(
    connection: LedgerConnection,
    job: Job,
    revision: Revision,
    *,
    actor: Actor,
    reason: str | None,
    error: dict[str, Any],
    output: Output | None = None,
) -> Job:
    """End a revision without an output, and its job; or go back, where a reviewer wanted it to follow another one."""
    job, revision = count_unknown(
        connection, job, revision, actor=actor, reason="the job failed while a request was being sent"
    )
    write_output(connection, job, revision, RevisionState.FAILED, output or Output(None, error=error))
    detail = {"revision": revision.number, "kind": error.get("kind")}
    if revision.based_on is not None:
        why = f"the change was not made: {reason or error.get('kind') or 'no output'}"
        return history.move(
            connection,
            job,
            JobEvent.CHANGE_FAILED,
            actor=actor,
            reason=why,
            detail={**detail, "based_on": revision.based_on},
            revision=revision.based_on,
        )
    return history.move(connection, job, JobEvent.FAILED, actor=actor, reason=reason, detail=detail)


def write_output(
    connection: LedgerConnection, job: Job, revision: Revision, state: RevisionState, output: Output
) -> Revision:
    """Write what a response left into its revision."""
    has_output = state is RevisionState.COMPLETED
    row = connection.execute(
        _STORE_OUTPUT,
        {
            "state": state,
            "status": output.status,
            "output": as_json(output.output) if has_output else None,
            "output_digest": digest(output.output) if has_output else None,
            "error": None if output.error is None else as_json(output.error),
            "usage": None if output.usage is None else as_json(output.usage),
            "cost_usd": output.cost_usd,
            "revision_id": revision.revision_id,
        },
    ).fetchone()
    assert row is not None
    stored = Revision(**row)
    settle_cost(connection, stored, output)
    slot_freed(connection, LimitKind.OPENAI, stored.conn_id, stored.rate_key)
    count_response(connection, job, stored, output)
    return stored


def settle_cost(connection: LedgerConnection, revision: Revision, output: Output) -> None:
    """Count what a response has cost in the budgets. Nothing is known yet of one that has not ended."""
    if output.status not in ENDED_RESPONSE_STATUSES:
        return
    refused = bool((output.error or {}).get("spent"))  # the provider's own limit is reached: it did nothing
    cost_usd = Decimal(0) if refused else output.cost_usd
    reservation_store.settle(
        connection, revision.job_id, revision.number, revision.response_id, cost_usd, usage=output.usage
    )
