"""The decide protocol: plan → ask → decide, each answer bound to the digest that its sender saw.

Every function is one short transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from airflow_provider_aihandoff.digests import describe_changes, digest, review_components
from airflow_provider_aihandoff.errors import JobNotApproved, PlanError, StaleDecision
from airflow_provider_aihandoff.ledger import history
from airflow_provider_aihandoff.ledger.connection import Database, LedgerConnection
from airflow_provider_aihandoff.ledger.plans import anything_touched, replace_plans, settle
from airflow_provider_aihandoff.ledger.records import DeciderKind, EffectPlan, Job, OnTimeout, Verdict
from airflow_provider_aihandoff.ledger.revisions import read_revision
from airflow_provider_aihandoff.states import JobEvent, JobState
from airflow_provider_aihandoff.undo import PREFIX

_INSERT_DECISION = """
    INSERT INTO aihandoff.decisions
        (job_id, revision, verdict, digest, decided_by, decided_by_kind, comment, created_at)
    VALUES (%(job_id)s, %(revision)s, %(verdict)s, %(digest)s, %(decided_by)s, %(kind)s, %(comment)s,
        clock_timestamp())
    RETURNING decision_id"""
_READ_PLANNED = """
    SELECT detail FROM aihandoff.events WHERE job_id = %s AND event IN ('planned', 'plan changed') ORDER BY seq"""

#: Where the plan may still change: in the last one, as long as every write was refused or never sent.
_PLANNABLE = frozenset({JobState.REVIEW, JobState.APPROVED, JobState.APPLYING})

_VERDICT_EVENTS = {"approve": JobEvent.APPROVED, "reject": JobEvent.REJECTED}


class Reviews:
    """The steps from a stored output to a decision, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(
        self,
        job_id: int,
        plans: Sequence[EffectPlan],
        *,
        policy: str | None,
        deadline: datetime,
        actor: str,
        reason: str | None = None,
        on_timeout: OnTimeout | None = None,
    ) -> Job:
        """Store the plan of a job that is in review (or approved, with nothing written), for somebody to decide on.

        Safe to repeat: the same plan changes nothing, and keeps its deadline. Another plan voids an approval.

        :param policy: ``name@version`` of the policy that is asked first, if there is one.
        :param deadline: the absolute time by which somebody must decide.
        :param reason: why a person is asked, in words that the reviewer reads.
        :param on_timeout: what the end of that time means, for when no task waits for it.
        :return: the job as it is now; unchanged where it is neither in review nor approved, or something was written.
        :raises PlanError: two effects have the same name.
        """
        _check_names(job_id, plans)

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            return _plan(connection, job, plans, policy, deadline, actor, reason, on_timeout)

        return self._database.transact(work, step="review.ask")

    def ask_anew(self, job_id: int, plans: Sequence[EffectPlan], *, deadline: datetime, actor: str, reason: str) -> Job:
        """Take an approval back whose plan is not what would be written, and ask a person about what would be.

        What the job's author said about its review stays: the policy, and the end of the time to decide.

        :param deadline: the absolute time by which somebody must decide.
        :return: the job as it is now; unchanged where it needs no approval, something was written, or the plan is the
            one that was approved.
        :raises PlanError: two effects have the same name.
        """
        _check_names(job_id, plans)

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            if job.approval != "required":
                return job
            planned = connection.execute(_READ_PLANNED, [job_id]).fetchall()
            policy = planned[-1]["detail"]["components"]["policy"] if planned else None
            return _plan(connection, job, plans, policy, deadline, actor, reason, job.review_on_timeout)

        return self._database.transact(work, step="review.ask")

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
        :raises StaleDecision: the job has another digest by now, is decided, or the time to decide is over; the
            message says what changed.
        :raises JobNotApproved: the job has no plan yet to decide on.
        """

        return self._database.transact(
            lambda connection: _decide(
                connection,
                history.lock(connection, job_id),
                verdict,
                digest=digest,
                decided_by=history.plain(decided_by),
                kind=kind,
                comment=history.plain_or_none(comment),
            ),
            step="review.decide",
        )

    def expire(self, job_id: int, *, digest: str, fail: bool) -> Job:
        """End a review whose deadline has passed, by the database's clock. Does nothing before it has.

        :param digest: the digest that was asked about; another one has a deadline of its own.
        :param fail: fail the job; otherwise it counts as rejected.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            over = job.review_deadline is not None and history.now(connection) >= job.review_deadline
            if not over or job.state is not JobState.REVIEW or job.review_digest != digest:
                return job
            why = "nobody decided in time"
            if fail:
                return history.move(connection, job, JobEvent.REVIEW_EXPIRED, actor="timeout", reason=why)
            return _decide(connection, job, "reject", digest=digest, decided_by="timeout", kind="timeout", comment=why)

        return self._database.transact(work, step="review.expire")


def _check_names(job_id: int, plans: Sequence[EffectPlan]) -> None:
    names = [plan.name for plan in plans]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PlanError(
            f"two of its effects have the same name: {', '.join(twice)}.",
            job=f"job {job_id}",
            remedy="Give each task that writes for this job an `effect` of its own.",
        )
    if taken := sorted(name for name in names if name.startswith(PREFIX)):
        raise PlanError(
            f"an effect is called like the undo of another one: {', '.join(map(repr, taken))}.",
            job=f"job {job_id}",
            remedy=f"Give it an `effect` that does not begin with {PREFIX!r}.",
        )


def _plan(
    connection: LedgerConnection,
    job: Job,
    plans: Sequence[EffectPlan],
    policy: str | None,
    deadline: datetime,
    actor: str,
    reason: str | None,
    on_timeout: OnTimeout | None,
) -> Job:
    """Store the plan of a locked job, unless it is the one that it has, or something was written."""
    if job.state not in _PLANNABLE or job.cancelling is not None or anything_touched(connection, job.job_id):
        return job
    revision = read_revision(connection, job.job_id, job.revision)
    assert revision.output_digest is not None
    components = review_components(revision.output_digest, [(plan.name, plan.plan_digest) for plan in plans], policy)
    new_digest = digest(components)
    if new_digest == job.review_digest:
        return job
    replace_plans(connection, job, plans)
    changes: dict[str, Any] = {"review_digest": new_digest}
    event, why = JobEvent.PLANNED, reason
    if job.approval == "required":
        changes |= {"review_deadline": deadline, "review_on_timeout": on_timeout, "decision_id": None}
        if job.state is not JobState.REVIEW:
            event = JobEvent.PLAN_CHANGED
            why = "the plan is not the one that was approved" + (f"; {reason}" if reason else "")
    return history.move(
        connection,
        job,
        event,
        actor=actor,
        reason=why,
        detail={"digest": new_digest, "components": components},
        **changes,
    )


def _decide(
    connection: LedgerConnection,
    job: Job,
    verdict: Verdict,
    *,
    digest: str,
    decided_by: str,
    kind: DeciderKind,
    comment: str | None,
) -> Job:
    """Record an answer on a locked job."""
    if _is_repeat(connection, job, verdict, digest, decided_by):
        return job
    _check_digest(connection, job, digest)
    if kind == "user":
        _check_deadline(connection, job)
    row = connection.execute(
        _INSERT_DECISION,
        {
            "job_id": job.job_id,
            "revision": job.revision,
            "verdict": verdict,
            "digest": digest,
            "decided_by": decided_by,
            "kind": kind,
            "comment": comment,
        },
    ).fetchone()
    assert row is not None
    actor = decided_by if kind == "timeout" else f"{kind}:{decided_by}"
    job = history.move(
        connection,
        job,
        _VERDICT_EVENTS[verdict],
        actor=actor,
        reason=comment,
        detail={"digest": digest, "decision_id": row["decision_id"]},
        decision_id=row["decision_id"],
    )
    return settle(connection, job, actor=actor) if verdict == "approve" else job


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


def _check_deadline(connection: LedgerConnection, job: Job) -> None:
    if job.review_deadline is not None and history.now(connection) >= job.review_deadline:
        raise StaleDecision(
            f"the time to decide ended at {job.review_deadline.isoformat(timespec='seconds')}.",
            job=job.label,
            written="Your decision was not recorded and writes nothing.",
            remedy="The job's approval task ends the review as its author has said.",
        )


def _what_changed(connection: LedgerConnection, job: Job, seen: str) -> str:
    planned = [row["detail"] for row in connection.execute(_READ_PLANNED, [job.job_id]).fetchall()]
    components = {detail["digest"]: detail["components"] for detail in planned}
    if seen not in components:
        return "the digest that you named was never this job's"
    return "; ".join(describe_changes(components[seen], components[job.review_digest]))
