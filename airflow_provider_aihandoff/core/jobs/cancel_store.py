"""Cancels a job: what stops at once, what is waited for, and what becomes void.

Every function is one short transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.effects.plan_store import current_effects, settle, void_plans
from airflow_provider_aihandoff.core.errors import CannotCancel, HandoffError
from airflow_provider_aihandoff.core.generation.revision_store import count_unknown, give_up, read_revision
from airflow_provider_aihandoff.core.models import Actor, Job, Owner, Revision
from airflow_provider_aihandoff.core.states import EffectState, JobEvent, JobState
from airflow_provider_aihandoff.core.text import plain

_IN_FLIGHT = frozenset({EffectState.CLAIMED, EffectState.UNKNOWN})


@dataclass(frozen=True)
class CancelRequest:
    """The result of cancelling so far.

    :param revision: the revision whose response is to be stopped at OpenAI; None where none runs.
    """

    job: Job
    revision: Revision | None = None


class Cancels:
    """The steps that stop a job, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def cancel(self, job_id: int, *, actor: Actor, reason: str) -> CancelRequest:
        """Stop a job: nothing of it is sent from now on. Safe to repeat.

        Before a request is sent, in review and when it is approved, the job is cancelled at once. While a response
        runs, the wish is recorded, and the caller stops the response (:func:`core.generation.stop.cancel_job`); an
        output that comes in between is not taken. While effects are applied, those that were not claimed are void;
        the job is cancelled as soon as the outcome of the others is known, and completed if all of them were applied
        after all.

        :raises JobNotFound: there is none with this id.
        :raises CannotCancel: the job has ended, or is being rolled back.
        """

        def work(connection: LedgerConnection) -> CancelRequest | HandoffError:
            job = history.lock(connection, job_id)
            match job.state:
                case JobState.CANCELLED:
                    return CancelRequest(job)
                case JobState.QUEUED:
                    return CancelRequest(self._cancel_unsent(connection, job, actor, reason))
                case JobState.RUNNING:
                    job = self._request_cancel(connection, job, actor, reason)
                    return CancelRequest(job, read_revision(connection, job_id, job.revision))
                case JobState.REVIEW | JobState.APPROVED:
                    void_plans(connection, job)
                    return CancelRequest(history.move(connection, job, JobEvent.CANCELLED, actor=actor, reason=reason))
                case JobState.APPLYING:
                    return CancelRequest(self._cancel_applying(connection, job, actor, reason))
            return cannot_cancel(job)

        return self._database.transact(work, step="cancel.request")

    def cancel_unsent(self, job_id: int, *, owner: Owner, actor: Actor, reason: str) -> None:
        """Cancel a job whose response is not known, if it still belongs to this attempt of a task."""

        def work(connection: LedgerConnection) -> None:
            job = history.lock(connection, job_id)
            if job.state is JobState.QUEUED and job.owner == owner:
                self._cancel_unsent(connection, job, actor, reason)

        self._database.transact(work, step="cancel.request")

    def cancel_review(self, job_id: int, *, run: tuple[str, str], actor: Actor, reason: str) -> None:
        """Cancel a job that waits for a decision, if it still belongs to this ``(dag id, run id)``."""

        def work(connection: LedgerConnection) -> None:
            job = history.lock(connection, job_id)
            if job.state is JobState.REVIEW and (job.dag_id, job.run_id) == run:
                void_plans(connection, job)
                history.move(connection, job, JobEvent.CANCELLED, actor=actor, reason=reason)

        self._database.transact(work, step="cancel.request")

    @staticmethod
    def _cancel_unsent(connection: LedgerConnection, job: Job, actor: Actor, reason: str) -> Job:
        """A request that is in transit is counted; its response is stopped when its answer comes."""
        revision = read_revision(connection, job.job_id, job.revision)
        job, _ = count_unknown(
            connection, job, revision, actor=actor, reason="the job was cancelled while a request was being sent"
        )
        give_up(connection, job.job_id, job.revision)
        return history.move(connection, job, JobEvent.CANCELLED, actor=actor, reason=reason)

    @staticmethod
    def _request_cancel(connection: LedgerConnection, job: Job, actor: Actor, reason: str) -> Job:
        if job.cancelling is not None:
            return job
        wish = plain(reason)
        return history.move(connection, job, JobEvent.CANCEL_REQUESTED, actor=actor, reason=reason, cancelling=wish)

    @staticmethod
    def _cancel_applying(connection: LedgerConnection, job: Job, actor: Actor, reason: str) -> Job:
        if job.cancelling is not None:
            return job
        void_plans(connection, job)
        under_way = [effect.name for effect in current_effects(connection, job) if effect.state in _IN_FLIGHT]
        wait = f"; the outcome of {', '.join(under_way)} is not known yet" if under_way else ""
        job = history.move(
            connection,
            job,
            JobEvent.CANCEL_REQUESTED,
            actor=actor,
            reason=f"{reason}{wait}",
            cancelling=plain(reason),
        )
        return settle(connection, job, actor=actor)


def cannot_cancel(job: Job) -> CannotCancel:
    """Why a job that has ended, or is being rolled back, cannot be cancelled. Pure."""
    if job.state is JobState.COMPLETED:
        return CannotCancel(
            "it is completed: there is nothing left to stop.",
            job=job.label,
            written="What it wrote stays as it is.",
            remedy=f"If its effects declare an undo, roll it back with `airflow aihandoff rollback {job.job_id}`.",
        )
    return CannotCancel(
        f"it is {job.state.value.replace('_', ' ')}: there is nothing left to stop.",
        job=job.label,
        written="Nothing was changed. This step made no external write.",
        remedy=f"`airflow aihandoff jobs show {job.job_id}` shows what happened.",
    )
