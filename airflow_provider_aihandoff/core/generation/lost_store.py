"""Counts a lost request, and decides by what the ledger knows how long no other one may be sent."""

from __future__ import annotations

from datetime import timedelta

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.generation.lost import WEBHOOKS_WITHIN, LostWait, how_long, wait_of
from airflow_provider_aihandoff.core.generation.revision_store import count_unknown
from airflow_provider_aihandoff.core.models import Actor, Job, Revision, columns
from airflow_provider_aihandoff.core.states import RevisionState

#: The newest jobs of a type, whose responses say how long one may take.
_JOBS = 1000

_WEBHOOKS_ARRIVE = """
    SELECT EXISTS (
        SELECT FROM aihandoff.inbox WHERE conn_id = %s AND received_at > clock_timestamp() - %s::interval) AS arrive"""
#: A response that still runs has taken as long as it has run until now.
_LONGEST = f"""
    SELECT count(completed_at) AS known,
        coalesce(max(coalesce(completed_at, clock_timestamp()) - submitted_at), interval '0') AS longest
    FROM aihandoff.revisions
    JOIN (SELECT job_id FROM aihandoff.jobs WHERE job_type = %s ORDER BY job_id DESC LIMIT {_JOBS}) AS newest
        USING (job_id)
    WHERE response_id IS NOT NULL AND batch_id IS NULL AND submitted_at IS NOT NULL
        AND state IN ('running', 'completed', 'failed')"""
_WAIT_LESS = f"""
    UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp() + %(wait)s
    WHERE revision_id = %(revision_id)s AND deadline > clock_timestamp() + %(wait)s
    RETURNING {columns(Revision)}"""


def _wait(connection: LedgerConnection, job: Job, revision: Revision, orphan_wait: timedelta) -> timedelta:
    """How long no request of this revision may be sent, now that one is lost."""
    if revision.conversation_id is not None:  # it is asked at once
        return timedelta(0)
    webhooks = connection.execute(_WEBHOOKS_ARRIVE, [revision.conn_id, WEBHOOKS_WITHIN]).fetchone()
    taken = connection.execute(_LONGEST, [job.job_type]).fetchone()
    assert webhooks is not None
    assert taken is not None
    return how_long(
        revision.on_lost,
        left=revision.deadline - history.now(connection),
        webhooks=webhooks["arrive"],
        known=taken["known"],
        longest=taken["longest"],
        orphan_wait=orphan_wait,
    )


def count_lost(
    connection: LedgerConnection,
    job: Job,
    revision: Revision,
    actor: Actor,
    reason: str,
    orphan_wait: timedelta = timedelta(0),
) -> timedelta:
    """Count a request whose permission ended without an outcome, if there is one.

    :param orphan_wait: as in :func:`core.generation.lost.how_long`.
    :return: how long no request may be sent from now on.
    """
    if revision.state is not RevisionState.SUBMITTING or revision.submit_token is None:
        return timedelta(0)
    wait = _wait(connection, job, revision, orphan_wait)
    count_unknown(connection, job, revision, actor=actor, reason=reason, wait=wait)
    return wait


def wait_less(
    connection: LedgerConnection, job: Job, revision: Revision, orphan_wait: timedelta = timedelta(0)
) -> Revision:
    """Shorten the wait for a lost request, where the ledger knows more of its job type now than when it was lost.

    That is one until the deadline. What its author chose stays, and so does the wait for what a handle says.

    :param orphan_wait: as in :func:`core.generation.lost.how_long`.
    """
    if wait_of(revision) is not LostWait.FAILS or revision.on_lost is not None:
        return revision
    marks = {"wait": _wait(connection, job, revision, orphan_wait), "revision_id": revision.revision_id}
    row = connection.execute(_WAIT_LESS, marks).fetchone()
    return revision if row is None else Revision(**row)
