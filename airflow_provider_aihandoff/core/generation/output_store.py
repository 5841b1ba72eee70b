"""The end of a response: its output is stored once, or the job fails, or is cancelled.

Every function is one short transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.admission import spending_limit_store
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.database.history import as_json
from airflow_provider_aihandoff.core.errors import IllegalTransition
from airflow_provider_aihandoff.core.generation.response_counts import count_response
from airflow_provider_aihandoff.core.generation.revision_store import (
    Output,
    count_unknown,
    fail_revision,
    give_up,
    read_revision,
    settle_cost,
    write_output,
)
from airflow_provider_aihandoff.core.models import Actor, Job, Owner, Revision
from airflow_provider_aihandoff.core.states import (
    ENDED_RESPONSE_STATUSES,
    JobEvent,
    JobState,
    ResponseStatus,
    RevisionState,
)

_STORE_LATE_COST = """
    UPDATE aihandoff.revisions SET response_status = %(status)s, usage = %(usage)s, cost_usd = %(cost_usd)s,
        completed_at = clock_timestamp()
    WHERE revision_id = %(revision_id)s"""
#: The request that was lost is known to be the one that was accepted. A newer permission to send ends with that.
_FOUND_BY_HANDLE = """
    UPDATE aihandoff.revisions SET unknown_submissions = 0, submit_token = NULL, submit_lease_until = NULL
    WHERE revision_id = %s"""
_MARK_ENDED = "UPDATE aihandoff.revisions SET response_status = %s WHERE revision_id = %s"


def _brings_cost(revision: Revision, output: Output) -> bool:
    """Whether a response that was given up as lost was billed after all."""
    return revision.state is RevisionState.FAILED and revision.usage is None and output.usage is not None


class Outputs:
    """The steps that end a revision, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def store(
        self,
        job_id: int,
        number: int,
        output: Output,
        *,
        actor: Actor,
        reason: str | None = None,
        response_id: str | None = None,
    ) -> Job:
        """Store what a response left, and move the job on. Stored once: a second call changes nothing.

        Where a person has asked to cancel the job meanwhile, it is cancelled, and what the response left is late.

        :param reason: why there is no output, when there is none.
        :param response_id: the response that left it; nothing is stored where the revision has another one by now.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            if response_id is not None and revision.response_id != response_id:
                return job
            return self.store_within(connection, job, revision, output, actor=actor, reason=reason)

        return self._database.transact(work, step="output.store")

    def store_within(
        self,
        connection: LedgerConnection,
        job: Job,
        revision: Revision,
        output: Output,
        *,
        actor: Actor,
        reason: str | None,
    ) -> Job:
        """:meth:`store` in the transaction of a caller that has locked the job.

        :param revision: with the response that has left this.
        """
        if revision.completed_at is not None and not _brings_cost(revision, output):
            return job
        if revision.state in (RevisionState.CANCELLED, RevisionState.FAILED):
            return self._store_late(connection, job, revision, output, actor)
        if revision.state is not RevisionState.RUNNING:
            raise IllegalTransition(
                f"an output cannot be stored for a revision that is {revision.state.value}.", job=job.label
            )
        if job.cancelling is not None:
            job = self._cancel(connection, job, revision, actor=actor, status=output.status)
            return self._store_late(connection, job, revision, output, actor)
        return self._take(connection, job, revision, output, actor=actor, reason=reason)

    def cancel_within(self, connection: LedgerConnection, job: Job, revision: Revision, *, actor: Actor) -> Job:
        """End a job that a person wants to be cancelled, in the transaction of a caller that has locked it."""
        return self._cancel(connection, job, revision, actor=actor, status=None)

    def store_found(self, job_id: int, number: int, output: Output, *, actor: Actor, reason: str | None = None) -> Job:
        """Store what the response of a lost request left, as the provider's handle has it. Its id is not known.

        Does nothing where the revision has an output, or a response with an id, or was given up.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            unsent = revision.state in (RevisionState.QUEUED, RevisionState.SUBMITTING)
            if job.state is not JobState.QUEUED or job.revision != number or not unsent:
                return job
            connection.execute(_FOUND_BY_HANDLE, [revision.revision_id])
            revision = read_revision(connection, job_id, number)
            return self._take(connection, job, revision, output, actor=actor, reason=reason)

        return self._database.transact(work, step="output.store")

    def _take(
        self,
        connection: LedgerConnection,
        job: Job,
        revision: Revision,
        output: Output,
        *,
        actor: Actor,
        reason: str | None,
    ) -> Job:
        """Store an output that is the first one of its revision."""
        if output.error is not None:
            if output.error.get("spent"):
                spending_limit_store.reached(connection, job, revision, reason or "a limit of money is reached")
            return fail_revision(
                connection, job, revision, actor=actor, reason=reason, error=output.error, output=output
            )
        stored = write_output(connection, job, revision, RevisionState.COMPLETED, output)
        event = JobEvent.OUTPUT_STORED if job.approval == "required" else JobEvent.OUTPUT_ACCEPTED
        detail = {"revision": revision.number, "output_digest": stored.output_digest}
        if event is JobEvent.OUTPUT_STORED:
            return history.move(connection, job, event, actor=actor, detail=detail)
        return self._accept(connection, job, stored, actor, detail)

    @staticmethod
    def _store_late(connection: LedgerConnection, job: Job, revision: Revision, output: Output, actor: Actor) -> Job:
        """Record what an orphaned response cost. Its output is not taken."""
        connection.execute(
            _STORE_LATE_COST,
            {
                "status": output.status,
                "usage": None if output.usage is None else as_json(output.usage),
                "cost_usd": output.cost_usd,
                "revision_id": revision.revision_id,
            },
        )
        settle_cost(connection, revision, output)
        ended = revision.completed_at is not None and revision.response_status in ENDED_RESPONSE_STATUSES
        count_response(connection, job, revision, output, counted=ended)
        detail = {"revision": revision.number, "status": output.status, "usage": output.usage}
        return history.move(connection, job, JobEvent.OUTPUT_LATE, actor=actor, detail=detail)

    @staticmethod
    def _accept(
        connection: LedgerConnection, job: Job, revision: Revision, actor: Actor, detail: Mapping[str, Any]
    ) -> Job:
        """Approve by the policy that the author wrote down instead of an approval."""
        row = connection.execute(
            """INSERT INTO aihandoff.decisions
                (job_id, revision, verdict, digest, decided_by, decided_by_kind, comment, created_at)
            VALUES (%s, %s, 'approve', %s, 'approval not required', 'policy', %s, clock_timestamp())
            RETURNING decision_id""",
            [job.job_id, revision.number, revision.output_digest, job.approval_reason],
        ).fetchone()
        assert row is not None
        connection.count(signals.DECISIONS, job_type=job.job_type, verdict="approve", by="policy")
        return history.move(
            connection,
            job,
            JobEvent.OUTPUT_ACCEPTED,
            actor=actor,
            reason=f"approval not required: {job.approval_reason}",
            detail=detail,
            decision_id=row["decision_id"],
        )

    def ended(self, job_id: int, number: int, *, status: ResponseStatus, actor: Actor) -> Job:
        """Record that the response has ended, as a webhook does, and leave its output to the job's task.

        Does nothing when that is known, or the job has moved on.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            running = job.revision == number and revision.state is RevisionState.RUNNING
            if not running or revision.response_status in ENDED_RESPONSE_STATUSES:
                return job
            connection.execute(_MARK_ENDED, [status, revision.revision_id])
            detail = {"revision": number, "response_id": revision.response_id, "status": status}
            return history.move(connection, job, JobEvent.RESPONSE_ENDED, actor=actor, detail=detail)

        return self._database.transact(work, step="wait.ended")

    def fail(
        self,
        job_id: int,
        number: int,
        *,
        actor: Actor,
        reason: str,
        error: dict[str, Any],
        status: ResponseStatus | None = None,
        as_of: int | None = None,
        response_id: str | None = None,
    ) -> Job:
        """End the revision and its job without an output. Does nothing when they have ended already.

        :param response_id: the response that was given up; does nothing where the revision has another one by now.
        :param as_of: the newest event of the job that the caller knows of; does nothing when there is a newer one.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            if job.state not in (JobState.QUEUED, JobState.RUNNING) or revision.number != job.revision:
                return job
            if as_of not in (None, job.event_seq) or response_id not in (None, revision.response_id):
                return job
            if job.cancelling is not None:
                return self._cancel(connection, job, revision, actor=actor, status=status)
            return fail_revision(
                connection,
                job,
                revision,
                actor=actor,
                reason=reason,
                error=error,
                output=Output(status or revision.response_status, error=error),
            )

        return self._database.transact(work, step="output.store")

    def request_cancel(
        self, job_id: int, *, owner: Owner, actor: Actor, reason: str, as_of: int | None = None
    ) -> Revision | None:
        """Write down that a running response is to be cancelled, if the owner still owns the job.

        :param as_of: the newest event of the job that the caller knows of; does nothing when there is a newer one.
        :return: the revision whose response is to be cancelled at OpenAI; None where there is nothing to do:
            another attempt owns the job, or it does not run.
        """

        def work(connection: LedgerConnection) -> Revision | None:
            job = history.lock(connection, job_id)
            if job.owner != owner or job.state is not JobState.RUNNING or as_of not in (None, job.event_seq):
                return None
            history.move(connection, job, JobEvent.CANCEL_REQUESTED, actor=actor, reason=reason)
            return read_revision(connection, job_id, job.revision)

        return self._database.transact(work, step="cancel.request")

    def cancelled(self, job_id: int, number: int, *, actor: Actor, reason: str, status: ResponseStatus | None) -> Job:
        """Record that the response was stopped. Does nothing when the job has moved on.

        :param status: what the provider says about it; None where it says nothing.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            if job.state not in (JobState.QUEUED, JobState.RUNNING) or job.revision != number:
                return job
            revision = read_revision(connection, job_id, number)
            return self._cancel(connection, job, revision, actor=actor, status=status, reason=reason)

        return self._database.transact(work, step="cancel.record")

    @staticmethod
    def _cancel(
        connection: LedgerConnection,
        job: Job,
        revision: Revision,
        *,
        actor: Actor,
        status: ResponseStatus | None,
        reason: str | None = None,
    ) -> Job:
        """End a revision and its job as cancelled: for the reason that was recorded with the wish, if there is one."""
        job, _ = count_unknown(
            connection, job, revision, actor=actor, reason="the job was cancelled while a request was being sent"
        )
        give_up(connection, job.job_id, revision.number)
        return history.move(
            connection,
            job,
            JobEvent.CANCELLED,
            actor=actor,
            reason=job.cancelling or reason,
            detail={"status": status},
            cancelling=None,
        )
