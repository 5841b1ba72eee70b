"""Gives a review to other people than its author named: one short transaction, with who and why in the history."""

from __future__ import annotations

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.errors import CannotReassign
from airflow_provider_aihandoff.core.models import Actor, Decision, Job
from airflow_provider_aihandoff.core.review.decide import is_over, of_now
from airflow_provider_aihandoff.core.review.reassignment import cannot_reassign, reassigned, voided_by
from airflow_provider_aihandoff.core.review.rules import Reassignment, Reviewers
from airflow_provider_aihandoff.core.states import JobEvent

_VOID = "UPDATE aihandoff.decisions SET voided_at = %s WHERE decision_id = ANY(%s)"


class Reassignments:
    """The step that gives a review to other people, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def reassign(self, job_id: int, to: Reviewers, *, actor: Actor, reason: str, seen: int | None = None) -> Job:
        """Let other people decide than those whom the author of a job has named. Safe to repeat.

        The author's other rules stay, as does the digest that is decided on. Approvals by people who may no longer
        decide are void; the others stay.

        :param to: who may decide, and to whom it is escalated; what is empty stays as it is.
        :param seen: how often it was reassigned when the person saw it; None: they did not look.
        :return: the job as it is now.
        :raises JobNotFound: there is none with this id.
        :raises CannotReassign: it does not wait for a decision, its time to decide has ended, it was reassigned since
            it was seen, or too few of these people may decide. Nothing was changed then.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            now = Reassignment.from_json(job.reassigned)
            asked_again = seen is None or now.number == seen + 1
            if asked_again and now.by[-1:] == (actor,) and to.over(now.reviewers) == now.reviewers:
                return job
            if why := self._why_not(connection, job, to, actor, seen):
                raise CannotReassign(
                    why,
                    job=job.label,
                    written="Nothing was changed. No external write was made.",
                    remedy="Check who may decide on it now, and name others.",
                )
            return _reassign(connection, job, to, actor, reason)

        return self._database.transact(work, step="review.reassign")

    @staticmethod
    def _why_not(connection: LedgerConnection, job: Job, to: Reviewers, actor: Actor, seen: int | None) -> str | None:
        if why := cannot_reassign(job, to, by=actor):
            return why
        if is_over(connection, job):
            return "the time to decide has ended."
        if seen not in (None, Reassignment.from_json(job.reassigned).number):
            return "it was reassigned since you saw it."
        return None


def _reassign(connection: LedgerConnection, job: Job, to: Reviewers, actor: Actor, reason: str) -> Job:
    after = reassigned(job, to, by=actor)
    votes = [decision for decision in of_now(connection, job) if decision.verdict == "approve"]
    void = voided_by(job, after, votes)
    now = history.now(connection)
    connection.execute(_VOID, [now, [vote.decision_id for vote in void]])
    return history.move(
        connection,
        job,
        JobEvent.REASSIGNED,
        actor=actor,
        reason=f"{reason}; {to}{_in_words(void)}",
        detail={**to.to_json(), "digest": job.review_digest, "void": [vote.decision_id for vote in void]},
        at=now,
        reassigned=after.reassigned,
    )


def _in_words(void: list[Decision]) -> str:
    names = sorted({vote.decider.label for vote in void})
    return f"; void: the approval of {', '.join(names)}" if void else ""
