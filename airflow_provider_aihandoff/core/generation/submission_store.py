"""The submit and wait protocols: one job, one bill.

Open or attach → intend (commit) → send → record the response id, or what became of the request.
Every function is one short transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.database.history import as_json
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.effects.plan_store import anything_touched, void_plans
from airflow_provider_aihandoff.core.errors import (
    CannotRegenerate,
    HandoffError,
    InputChanged,
    JobCancelled,
    JobFailed,
    RevisionsExhausted,
)
from airflow_provider_aihandoff.core.generation.revision_store import (
    COUNTED,
    count_unknown,
    fail_revision,
    give_up,
    mark_running,
    next_number,
    read_revision,
)
from airflow_provider_aihandoff.core.jobs.attach import Attachment, Step, decide_attachment
from airflow_provider_aihandoff.core.models import Actor, Job, JobSpec, Owner, Revision, columns
from airflow_provider_aihandoff.core.states import TOUCHED_EFFECT_STATES, JobEvent, JobState, RevisionState
from airflow_provider_aihandoff.core.text import plain, plain_or_none
from airflow_provider_aihandoff.core.webhooks.inbox import adopt_early, lock_response

#: Requests of one revision that may have been accepted without the id being known. One is allowed, since a crash
#: looks the same as a loss; a second would break "one job, one bill".
MAX_UNKNOWN_SUBMISSIONS = 1


@dataclass(frozen=True)
class Opened:
    """What :meth:`Submission.open` found or made.

    :param superseded: the response of an older revision that still runs and is no longer needed.
    """

    job: Job
    revision: Revision
    next: Attachment
    superseded: Revision | None = None


@dataclass(frozen=True)
class Intent:
    """The permission to send one request.

    :param token: proof of the permission; None when another attempt has it, or has just got an id.
    :param wait: seconds until the other attempt's permission ends, when there is one.
    """

    revision: Revision
    token: UUID | None
    wait: float = 0.0


_INSERT_JOB = f"""
    INSERT INTO aihandoff.jobs (job_type, job_key, state, input, input_digest, requested_by, permissions, approval,
        approval_reason, max_revisions, max_cost_usd, triggered_by, revision, dag_id, run_id, task_id, map_index, ti_id,
        try_number, event_seq, event_hash, created_at, updated_at)
    VALUES (%(job_type)s, %(job_key)s, 'queued', %(input)s, %(input_digest)s, %(requested_by)s, %(permissions)s,
        %(approval)s, %(approval_reason)s, %(max_revisions)s, %(max_cost_usd)s, %(triggered_by)s, 1, %(dag_id)s,
        %(run_id)s, %(task_id)s, %(map_index)s, %(ti_id)s, %(try_number)s, 0, %(genesis)s, clock_timestamp(),
        clock_timestamp())
    ON CONFLICT (job_type, job_key) DO NOTHING
    RETURNING {columns(Job)}"""
_LOCK_JOB_BY_KEY = f"""
    SELECT {columns(Job)} FROM aihandoff.jobs WHERE job_type = %s AND job_key = %s FOR UPDATE"""
_INSERT_REVISION = f"""
    INSERT INTO aihandoff.revisions
        (job_id, number, author, author_kind, state, conn_id, request, request_digest, deadline, created_at)
    VALUES (%(job_id)s, %(number)s, 'model', 'model', 'queued', %(conn_id)s, %(request)s, %(request_digest)s,
        %(deadline)s, clock_timestamp())
    RETURNING {columns(Revision)}"""
_REFRESH_UNSENT = """
    UPDATE aihandoff.revisions SET conn_id = %(conn_id)s, request = %(request)s, request_digest = %(request_digest)s
    WHERE job_id = %(job_id)s AND number = %(number)s AND state = 'queued' AND based_on IS NULL"""
_KEEP_REQUEST = """
    UPDATE aihandoff.revisions SET request = %s, request_digest = %s
    WHERE job_id = %s AND number = %s AND state = 'queued'"""
_COUNT_MODEL_REVISIONS = f"SELECT count(*) AS n FROM aihandoff.revisions WHERE job_id = %s AND {COUNTED}"
#: A line that a task of a Dag run has written.
_OF_RUN = "actor_kind = 'task' AND actor_dag_id = %s AND actor_run_id = %s"
_MARK_SUBMITTING = f"""
    UPDATE aihandoff.revisions SET state = 'submitting', submissions = submissions + 1, submit_token = %(token)s,
        submit_lease_until = clock_timestamp() + %(lease)s, submitted_at = clock_timestamp()
    WHERE revision_id = %(revision_id)s
    RETURNING {columns(Revision)}"""
_MARK_NOT_SENT = """
    UPDATE aihandoff.revisions SET state = 'queued', submissions = submissions - 1, submit_token = NULL,
        submit_lease_until = NULL
    WHERE revision_id = %s"""


def _revision_values(job: Job, spec: JobSpec) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "number": job.revision,
        "conn_id": spec.conn_id,
        "request": as_json(spec.kept_request),
        "request_digest": digest(spec.request),
        "deadline": spec.deadline,
    }


def _has_seen(connection: LedgerConnection, job: Job, owner: Owner) -> bool:
    """Whether a task of the same Dag run has made or attached to the job before."""
    row = connection.execute(
        f"SELECT EXISTS (SELECT FROM aihandoff.events WHERE job_id = %s AND {_OF_RUN}) AS seen",
        [job.job_id, owner.dag_id, owner.run_id],
    ).fetchone()
    assert row is not None
    return bool(row["seen"])


def _has_made(connection: LedgerConnection, job: Job, owner: Owner) -> bool:
    """Whether a task of the same Dag run has made a revision of the job: a retry or a clear does not make another."""
    row = connection.execute(
        f"""SELECT EXISTS (SELECT FROM aihandoff.events WHERE job_id = %s AND event IN ('created', 'revised')
            AND {_OF_RUN}) AS made""",
        [job.job_id, owner.dag_id, owner.run_id],
    ).fetchone()
    assert row is not None
    return bool(row["made"])


def _written(connection: LedgerConnection, job: Job) -> str:
    """The external writes that may have been made for the job, as text."""
    rows = connection.execute(
        "SELECT name, state FROM aihandoff.effects WHERE job_id = %s AND state = ANY(%s) ORDER BY position",
        [job.job_id, [state.value for state in TOUCHED_EFFECT_STATES]],
    ).fetchall()
    return ", ".join(f"{row['name']} is {row['state']}" for row in rows) or "no external write was made"


class Submission:
    """The steps from a task's request to a stored output, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, spec: JobSpec) -> Opened:
        """Create the job, or attach to the one with the same type and key. Safe to repeat.

        :raises InputChanged: the key stands for other work, and something may have been written for it.
        :raises RevisionsExhausted: a new revision is called for, and there have been ``max_revisions`` already.
        :raises JobCancelled: the job was cancelled.
        :raises CannotRegenerate: a new revision is asked for, and something is applied that was not undone.
        """
        return self._database.transact(lambda connection: self._open(connection, spec), step="submit.open")

    def _open(self, connection: LedgerConnection, spec: JobSpec) -> Opened:
        input_digest = digest(spec.input)
        values = {
            **vars(spec),
            **vars(spec.owner),
            "input": as_json(spec.kept_input),
            "permissions": as_json(spec.permissions),
            "requested_by": plain(spec.requested_by),
            "triggered_by": plain_or_none(spec.triggered_by),
            "input_digest": input_digest,
            "genesis": history.GENESIS,
        }
        row = connection.execute(_INSERT_JOB, values).fetchone()
        if row is not None:
            return self._created(connection, Job(**row), spec)
        row = connection.execute(_LOCK_JOB_BY_KEY, [spec.job_type, spec.job_key]).fetchone()
        assert row is not None
        job = Job(**row)
        step = decide_attachment(
            job.state,
            same_input=job.input_digest == input_digest,
            same_run=_has_seen(connection, job, spec.owner),
            touched=anything_touched(connection, job.job_id),
            regenerate=spec.regenerate and not _has_made(connection, job, spec.owner),
            cancelling=job.cancelling is not None,
        )
        if step is Step.REVISE:
            return self._revise(connection, job, spec, input_digest)
        if step is Step.REFUSE_CANCELLED:
            raise JobCancelled(
                f"it was cancelled ({job.state_reason}).",
                job=job.label,
                remedy="A cancelled job stays cancelled. For the same work, give the task another job_key.",
            )
        if step is Step.REFUSE_CHANGED:
            raise self._input_changed(connection, job, spec)
        if step is Step.REFUSE_REGENERATE:
            raise CannotRegenerate(
                f"it is {job.state.value.replace('_', ' ')}, and {_written(connection, job)}.",
                job=job.label,
                written="No external write was made now.",
                remedy=f"Roll back what was applied (`airflow aihandoff rollback {job.job_id}`), then run this again.",
            )
        job = history.move(
            connection,
            job,
            JobEvent.ATTACHED,
            actor=spec.owner.actor,
            **vars(spec.owner),
            detail={"next": step},
        )
        # How it is processed, and over which connection, may have changed since: a request not sent yet is the newest.
        connection.execute(_REFRESH_UNSENT, _revision_values(job, spec))
        return Opened(job, read_revision(connection, job.job_id, job.revision), Attachment(step))

    def _created(self, connection: LedgerConnection, job: Job, spec: JobSpec) -> Opened:
        detail = {"requested_by": spec.requested_by, "input_digest": job.input_digest}
        job = history.begin(connection, job, actor=spec.owner.actor, detail=detail)
        return Opened(job, self._new_revision(connection, job, spec), Attachment.SUBMIT)

    @staticmethod
    def _new_revision(connection: LedgerConnection, job: Job, spec: JobSpec) -> Revision:
        row = connection.execute(_INSERT_REVISION, _revision_values(job, spec)).fetchone()
        assert row is not None
        return Revision(**row)

    def _revise(self, connection: LedgerConnection, job: Job, spec: JobSpec, input_digest: str) -> Opened:
        row = connection.execute(_COUNT_MODEL_REVISIONS, [job.job_id]).fetchone()
        assert row is not None
        if row["n"] >= spec.max_revisions:
            raise RevisionsExhausted(
                f"it is {job.state.value} ({job.state_reason}) after {row['n']} of {spec.max_revisions} revisions.",
                job=job.label,
                remedy="Raise max_revisions to let the model try again, or give the task another job_key.",
            )
        old, number = read_revision(connection, job.job_id, job.revision), next_number(connection, job.job_id)
        job, _ = count_unknown(
            connection, job, old, actor=spec.owner.actor, reason="its revision was replaced while it was being sent"
        )
        give_up(connection, job.job_id, job.revision)
        void_plans(connection, job)
        if job.input_digest != input_digest:
            why = "the input changed"
        else:
            asked = ", and a new revision was requested" if spec.regenerate else ""
            why = f"revision {old.number} was {job.state.value.replace('_', ' ')}{asked}"
        job = history.move(
            connection,
            job,
            JobEvent.REVISED,
            actor=spec.owner.actor,
            reason=why,
            detail={
                "revision": number,
                "input_digest": input_digest,
                "requested_by": spec.requested_by,
                "superseded": old.response_id if old.state is RevisionState.RUNNING else None,
            },
            input=spec.kept_input,
            requested_by=plain(spec.requested_by),
            permissions=spec.permissions,
            input_digest=input_digest,
            triggered_by=plain_or_none(spec.triggered_by),
            revision=number,
            approval=spec.approval,
            approval_reason=spec.approval_reason,
            max_revisions=spec.max_revisions,
            max_cost_usd=spec.max_cost_usd,
            review_digest=None,
            review_deadline=None,
            decision_id=None,
            cancelling=None,
            **vars(spec.owner),
        )
        superseded = old if old.state is RevisionState.RUNNING else None
        return Opened(job, self._new_revision(connection, job, spec), Attachment.SUBMIT, superseded)

    @staticmethod
    def _input_changed(connection: LedgerConnection, job: Job, spec: JobSpec) -> InputChanged:
        fields = sorted(
            name
            for name in job.input.keys() | spec.kept_input.keys()
            if digest(job.input.get(name)) != digest(spec.kept_input.get(name))
        )
        written = _written(connection, job)
        what = ", ".join(fields) or "a masked value"
        return InputChanged(
            f"this key was used for other work (changed: {what}), and the job is {job.state.value}.",
            job=job.label,
            written=f"For the earlier input, {written}.",
            remedy="Give the new work a job_key of its own, or restore the input to attach to the job that exists.",
        )

    def take_over(self, job_id: int, number: int, *, owner: Owner, request: dict[str, Any]) -> Revision | None:
        """Make the task that goes on with a revision the owner of its job, and keep the request as it will be sent.

        :param request: with its secrets masked.
        :return: the revision; None where another one is current by now, or nothing is left to send or to wait for.
        """

        def work(connection: LedgerConnection) -> Revision | None:
            job = history.lock(connection, job_id)
            if job.revision != number or job.state not in (JobState.QUEUED, JobState.RUNNING):
                return None
            if job.owner != owner:
                history.move(connection, job, JobEvent.ATTACHED, actor=owner.actor, **vars(owner))
            connection.execute(_KEEP_REQUEST, [as_json(request), digest(request), job_id, number])
            return read_revision(connection, job_id, number)

        return self._database.transact(work, step="submit.open")

    def intend(
        self, job_id: int, number: int, *, actor: Actor, lease: timedelta, orphan_wait: timedelta = timedelta(0)
    ) -> Intent:
        """Write down that a request is about to be sent, and get the one permission to send it.

        An earlier permission that expired without an id means that its request may have been accepted: it is counted
        as an unknown submission, and there may be :data:`MAX_UNKNOWN_SUBMISSIONS` of them.

        :param lease: how long the permission is valid: longer than the request may take.
        :param orphan_wait: how long a webhook may take to bring the response of a request whose answer was lost,
            before one more request is sent.
        :raises JobFailed: one more unknown submission would break the bound; the job is failed.
        :raises JobCancelled: the job was cancelled meanwhile.
        :raises InputChanged: a task with other input has taken the key over meanwhile.
        """
        token = uuid4()

        def work(connection: LedgerConnection) -> Intent | HandoffError:
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            if revision.submit_token == token:
                return Intent(revision, token)
            if job.state is JobState.CANCELLED:
                return JobCancelled("it was cancelled before the request was sent.", job=job.label)
            if job.revision != number:
                return InputChanged(
                    f"revision {number} was replaced by {job.revision}: a task with other input came meanwhile.",
                    job=job.label,
                    remedy="Give each piece of work a job_key of its own.",
                )
            if revision.state not in (RevisionState.QUEUED, RevisionState.SUBMITTING):
                return Intent(revision, None)
            at = history.now(connection)
            if revision.submit_lease_until is not None and revision.submit_lease_until > at:
                return Intent(revision, None, (revision.submit_lease_until - at).total_seconds())
            counted = revision.unknown_submissions
            job, revision = count_unknown(
                connection,
                job,
                revision,
                actor=actor,
                reason="an attempt ended without recording the outcome of its request",
                wait=orphan_wait,
            )
            if revision.unknown_submissions > counted and orphan_wait:
                return Intent(revision, None, orphan_wait.total_seconds())
            if revision.unknown_submissions > MAX_UNKNOWN_SUBMISSIONS:
                return self._too_many_unknown(connection, job, revision, actor)
            history.move(
                connection,
                job,
                JobEvent.SUBMIT_INTENDED,
                actor=actor,
                detail={"revision": number, "token": str(token)},
            )
            row = connection.execute(
                _MARK_SUBMITTING,
                {"token": token, "lease": lease, "revision_id": revision.revision_id},
            ).fetchone()
            assert row is not None
            return Intent(Revision(**row), token)

        return self._database.transact(work, repeatable=True, step="submit.intend")

    def _too_many_unknown(
        self, connection: LedgerConnection, job: Job, revision: Revision, actor: Actor
    ) -> HandoffError:
        fail_revision(
            connection,
            job,
            revision,
            actor=actor,
            reason="unknown submission, twice: whether a response exists cannot be proved, so none is requested again",
            error={"kind": "unknown submission"},
        )
        return JobFailed(
            "two requests may have been accepted by OpenAI, and their answers were lost.",
            job=job.label,
            remedy="Search OpenAI's logs for responses with this job's metadata; clear the task to send another one. "
            "Where each request times out, the server may have no background mode.",
        )

    def submitted(
        self, job_id: int, number: int, *, token: UUID, response_id: str, status: str, actor: Actor
    ) -> Revision | None:
        """Store the id of the response that was created, and apply the webhooks that came before it. Safe to repeat.

        Where the permission expired, and no one has asked for another one yet, this is the response that is waited for.

        :return: the revision; None when it was given up meanwhile (the job was cancelled or revised, or another
            attempt took over the permission), and the response is orphaned: the caller cancels it at OpenAI.
        """

        def work(connection: LedgerConnection) -> Revision | None:
            lock_response(connection, response_id)
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            if revision.response_id == response_id:
                return revision
            found = revision.submit_token is None and revision.state in (RevisionState.QUEUED, RevisionState.SUBMITTING)
            if revision.submit_token != token and not (found and revision.unknown_submissions):
                history.move(
                    connection,
                    job,
                    JobEvent.OUTPUT_LATE,
                    actor=actor,
                    reason="a response was created for a revision that had been given up",
                    detail={"revision": number, "response_id": response_id},
                )
                return None
            revision = mark_running(connection, revision, response_id, status, found=found)
            detail = {"revision": number, "response_id": response_id}
            job = history.move(connection, job, JobEvent.SUBMITTED, actor=actor, detail=detail)
            return adopt_early(connection, job, revision)

        return self._database.persist(work, step="submit.store")

    def not_submitted(self, job_id: int, number: int, *, token: UUID, actor: Actor, reason: str) -> None:
        """Record that the request was refused or never sent, so that no response exists and it may be sent again."""

        def work(connection: LedgerConnection) -> None:
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            if revision.submit_token == token:
                connection.execute(_MARK_NOT_SENT, [revision.revision_id])
                history.move(connection, job, JobEvent.SUBMIT_REFUSED, actor=actor, reason=reason)

        self._database.persist(work, step="submit.refused")

    def submission_lost(
        self,
        job_id: int,
        number: int,
        *,
        token: UUID,
        actor: Actor,
        reason: str,
        orphan_wait: timedelta = timedelta(0),
    ) -> None:
        """Record that the request was sent and no answer came: a response may exist. Ends the permission at once.

        :param orphan_wait: as in :meth:`intend`.
        """

        def work(connection: LedgerConnection) -> None:
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            if revision.submit_token == token:
                count_unknown(connection, job, revision, actor=actor, reason=reason, wait=orphan_wait)

        self._database.persist(work, step="submit.lost")
