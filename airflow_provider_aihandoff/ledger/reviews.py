"""The decide protocol: plan → ask → decide, each answer bound to the digest that its sender saw.

Every function is one short transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from airflow_provider_aihandoff.digests import describe_changes, digest, review_components
from airflow_provider_aihandoff.errors import JobNotApproved, StaleDecision
from airflow_provider_aihandoff.ledger import history
from airflow_provider_aihandoff.ledger.connection import Database, LedgerConnection
from airflow_provider_aihandoff.ledger.effects import complete_if_applied, replace_plans
from airflow_provider_aihandoff.ledger.records import DeciderKind, EffectPlan, Job, Verdict
from airflow_provider_aihandoff.ledger.submission import read_revision
from airflow_provider_aihandoff.states import JobEvent, JobState

_INSERT_DECISION = """
    INSERT INTO aihandoff.decisions
        (job_id, revision, verdict, digest, decided_by, decided_by_kind, comment, created_at)
    VALUES (%(job_id)s, %(revision)s, %(verdict)s, %(digest)s, %(decided_by)s, %(kind)s, %(comment)s,
        clock_timestamp())
    RETURNING decision_id"""
_READ_COMPONENTS = """
    SELECT detail -> 'components' AS components FROM aihandoff.events
    WHERE job_id = %s AND detail ->> 'digest' = %s AND event IN ('planned', 'plan changed')
    ORDER BY seq DESC LIMIT 1"""

_VERDICT_EVENTS = {"approve": JobEvent.APPROVED, "reject": JobEvent.REJECTED}


class Reviews:
    """The steps from a stored output to a decision, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(
        self, job_id: int, plans: Sequence[EffectPlan], *, policy: str | None, deadline: datetime, actor: str
    ) -> Job:
        """Store the plan of a job that is in review (or approved, with nothing sent), for somebody to decide on.

        Safe to repeat: the same plan changes nothing, and keeps its deadline. Another plan voids an approval.

        :param policy: ``name@version`` of the policy that is asked first, if there is one.
        :param deadline: the absolute time by which somebody must decide.
        :return: the job as it is now; unchanged where it is neither in review nor approved.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            if job.state not in (JobState.REVIEW, JobState.APPROVED):
                return job
            revision = read_revision(connection, job_id, job.revision)
            assert revision.output_digest is not None
            components = review_components(
                revision.output_digest, [(plan.name, plan.plan_digest) for plan in plans], policy
            )
            new_digest = digest(components)
            if new_digest == job.review_digest:
                return job
            replace_plans(connection, job, plans)
            changes: dict[str, Any] = {"review_digest": new_digest}
            event, reason = JobEvent.PLANNED, None
            if job.approval == "required":
                changes |= {"review_deadline": deadline, "decision_id": None}
                if job.state is JobState.APPROVED:
                    event, reason = JobEvent.PLAN_CHANGED, "the plan is not the one that was approved"
            return history.move(
                connection,
                job,
                event,
                actor=actor,
                reason=reason,
                detail={"digest": new_digest, "components": components},
                **changes,
            )

        return self._database.transact(work)

    def decide(
        self,
        job_id: int,
        verdict: Verdict,
        *,
        digest: str,
        decided_by: str,
        kind: DeciderKind = "user",
        comment: str | None = None,
    ) -> Job:
        """Record an answer. The same answer by the same person again changes nothing.

        :param digest: the review digest that the sender saw.
        :return: the job as it is now.
        :raises StaleDecision: the job has another digest by now, or is decided; the message says what changed.
        :raises JobNotApproved: the job has no plan yet to decide on.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            if _is_repeat(connection, job, verdict, digest, decided_by):
                return job
            _check_digest(connection, job, digest)
            row = connection.execute(
                _INSERT_DECISION,
                {
                    "job_id": job_id,
                    "revision": job.revision,
                    "verdict": verdict,
                    "digest": digest,
                    "decided_by": decided_by,
                    "kind": kind,
                    "comment": comment,
                },
            ).fetchone()
            assert row is not None
            job = history.move(
                connection,
                job,
                _VERDICT_EVENTS[verdict],
                actor=decided_by if kind == "timeout" else f"{kind}:{decided_by}",
                reason=comment,
                detail={"digest": digest, "decision_id": row["decision_id"]},
                decision_id=row["decision_id"],
            )
            return complete_if_applied(connection, job, actor=f"{kind}:{decided_by}") if verdict == "approve" else job

        return self._database.transact(work)

    def expire(self, job_id: int, *, digest: str, fail: bool) -> Job:
        """End a review whose deadline has passed, by the database's clock. Does nothing before it has.

        :param digest: the digest that was asked about; another one has a deadline of its own.
        :param fail: fail the job; otherwise it counts as rejected.
        """

        def work(connection: LedgerConnection) -> bool:
            job = history.lock(connection, job_id)
            over = job.review_deadline is not None and history.now(connection) >= job.review_deadline
            due = over and job.state is JobState.REVIEW and job.review_digest == digest
            if due and fail:
                history.move(connection, job, JobEvent.REVIEW_EXPIRED, actor="timeout", reason="nobody decided in time")
            return due and not fail

        if self._database.transact(work):
            return self.decide(
                job_id,
                "reject",
                digest=digest,
                decided_by="timeout",
                kind="timeout",
                comment="nobody decided in time",
            )
        return self._database.transact(lambda connection: history.read(connection, job_id))


def _is_repeat(connection: LedgerConnection, job: Job, verdict: Verdict, digest: str, decided_by: str) -> bool:
    """Whether this very answer is already the decision in force: a double click, or a request sent again."""
    if job.decision_id is None or job.state is JobState.REVIEW:
        return False
    row = connection.execute(
        "SELECT verdict, digest, decided_by FROM aihandoff.decisions WHERE decision_id = %s",
        [job.decision_id],
    ).fetchone()
    return row is not None and (row["verdict"], row["digest"], row["decided_by"]) == (
        verdict,
        digest,
        decided_by,
    )


def _check_digest(connection: LedgerConnection, job: Job, digest: str) -> None:
    if job.state is not JobState.REVIEW:
        by = f" ({job.state_reason})" if job.state_reason else ""
        raise StaleDecision(
            f"it no longer waits for a decision: it is {job.state.value}{by}.",
            job=job.label,
            written="Your decision was not recorded and writes nothing.",
            remedy="Reload the page to see what happened.",
        )
    if job.review_digest is None:
        raise JobNotApproved(
            "its plan has not been rendered yet, so there is nothing to decide on.",
            job=job.label,
            remedy="Wait until the approval task of its Dag run has started.",
        )
    if job.review_digest != digest:
        raise StaleDecision(
            f"it is not what you saw any more: {_what_changed(connection, job, digest)}.",
            job=job.label,
            written="Your decision was not recorded and writes nothing.",
            remedy="Reload the page, look at what it says now, and decide on that.",
        )


def _what_changed(connection: LedgerConnection, job: Job, seen: str) -> str:
    before, now = (
        connection.execute(_READ_COMPONENTS, [job.job_id, value]).fetchone() for value in (seen, job.review_digest)
    )
    if before is None or now is None:
        return "the digest that you named was never this job's"
    return "; ".join(describe_changes(before["components"], now["components"]))
