"""Records that a person has seen that a job failed, so that no one is asked about it any more."""

from __future__ import annotations

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.errors import CannotAcknowledge, HandoffError
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.states import JobEvent, JobState


class Acknowledgements:
    """The failed jobs that people have seen, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acknowledge(self, job_id: int, *, revision: int, actor: Actor, reason: str) -> Job:
        """Record it in the history of a failed job, which no longer needs a person then; until it fails again.

        Safe to repeat: what was acknowledged before does not change. It pays nothing, and makes no external write.

        :param revision: the number of the revision that failed, as they saw it: a later failure is another one.
        :param reason: why nothing is left to do, or what was done.
        :raises JobNotFound: there is none with this id.
        :raises CannotAcknowledge: it has not failed, or another revision has failed since; nothing was recorded.
        """

        def work(connection: LedgerConnection) -> Job | HandoffError:
            job = history.lock(connection, job_id)
            if problem := cannot_acknowledge(job, revision):
                return problem
            if job.acknowledged_at is not None:
                return job
            detail = {"revision": revision}
            return history.move(
                connection, job, JobEvent.ACKNOWLEDGED, actor=actor, reason=reason, detail=detail, keep_reason=True
            )

        return self._database.transact(work, step="acknowledge.record")


def cannot_acknowledge(job: Job, revision: int) -> CannotAcknowledge | None:
    """Why a job cannot be acknowledged; None where it can, or was. Pure."""
    common = {"job": job.label, "written": "Nothing was recorded. This step made no external write."}
    if job.state is not JobState.FAILED:
        return CannotAcknowledge(
            f"it is {job.state.value.replace('_', ' ')}: only a failed job can be acknowledged.",
            remedy=f"`airflow aihandoff jobs show {job.job_id}` shows what happened.",
            **common,
        )
    if job.revision != revision:
        return CannotAcknowledge(
            f"it has failed again since you saw it: revision {job.revision}, and not {revision}.",
            remedy="Read the new reason first.",
            **common,
        )
    return None
