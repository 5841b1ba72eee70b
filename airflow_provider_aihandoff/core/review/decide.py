"""One answer on a job that the caller's transaction has locked: whether it may be given, and what it leads to."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.digests import describe_changes
from airflow_provider_aihandoff.core.effects.plan_store import settle
from airflow_provider_aihandoff.core.errors import JobNotApproved, MayNotDecide, StaleDecision
from airflow_provider_aihandoff.core.models import PERSON_KINDS, Actor, Decision, Job, Verdict, columns
from airflow_provider_aihandoff.core.review.edits import begin_change
from airflow_provider_aihandoff.core.review.rules import Person, approvals_of, rules_of, why_not
from airflow_provider_aihandoff.core.states import JobEvent, JobState

_INSERT_DECISION = """
    INSERT INTO aihandoff.decisions
        (job_id, revision, verdict, digest, decided_by, decided_by_id, decided_by_kind, comment, created_at)
    VALUES (%(job_id)s, %(revision)s, %(verdict)s, %(digest)s, %(decided_by)s, %(decided_by_id)s, %(kind)s,
        %(comment)s, clock_timestamp())
    RETURNING decision_id, created_at"""
READ_PLANNED = """
    SELECT detail FROM aihandoff.events WHERE job_id = %s AND event IN ('planned', 'plan changed') ORDER BY seq"""
#: A decision on what a job says now. Its digest may have been asked about before; what was said then is void, as is
#: what a reassignment has voided.
OF_NOW = """
    d.job_id = jobs.job_id AND d.digest = jobs.review_digest AND d.decision_id > coalesce(jobs.decided_before, 0)
    AND d.voided_at IS NULL"""
_OF_NOW = f"""
    SELECT {columns(Decision, "d")} FROM aihandoff.decisions AS d, aihandoff.jobs
    WHERE jobs.job_id = %(job_id)s AND {OF_NOW} ORDER BY decision_id"""
NEWEST = f"""
    SELECT {columns(Decision)} FROM aihandoff.decisions WHERE job_id = %s ORDER BY decision_id DESC LIMIT 1"""

_VERDICT_EVENTS = {"approve": JobEvent.APPROVED, "reject": JobEvent.REJECTED}


def decide_as(
    connection: LedgerConnection, job: Job, verdict: Verdict, digest: str, person: Person, comment: str | None
) -> Job:
    """Record a person's answer on a locked job."""
    by = person.actor
    if is_repeat(connection, job, verdict, digest, by):
        return job
    check_person(connection, job, digest, person)
    if verdict == "request changes":
        change = begin_change(connection, job, comment, by=by)
        _insert(connection, job, verdict, digest, by, comment)
        return change
    return record(connection, job, verdict, digest=digest, by=by, comment=comment)


def check_person(connection: LedgerConnection, job: Job, digest: str, person: Person) -> None:
    """Refuse an answer on an older form of the job, one that is too late, or one by a person who may not decide."""
    check_digest(connection, job, digest)
    _check_deadline(connection, job)
    if why := why_not(job, person):
        raise MayNotDecide(
            why,
            job=job.label,
            written="Nothing was recorded. No external write was made.",
            remedy="Ask a user who may decide to review it.",
        )


def record(
    connection: LedgerConnection,
    job: Job,
    verdict: Literal["approve", "reject"],
    *,
    digest: str,
    by: Actor,
    comment: str | None,
) -> Job:
    """Record an answer on a locked job, and move it on where that is the last one that it needs."""
    decision_id, at = _insert(connection, job, verdict, digest, by, comment)
    detail = {"digest": digest, "decision_id": decision_id}
    needed = rules_of(job).approvals
    if verdict == "approve" and by.kind in PERSON_KINDS and needed > 1:
        votes = len(votes_for(connection, job))
        detail |= {"approvals": votes, "needed": needed}
        if votes < needed:
            return history.move(connection, job, JobEvent.VOTED, actor=by, reason=comment, detail=detail, at=at)
    if job.review_asked_at is not None:
        waited = (at - job.review_asked_at).total_seconds()
        labels = {"job_type": job.job_type, "by": by.kind}
        connection.timing(signals.DECISION_TIME, waited, **labels)
    job = history.move(
        connection,
        job,
        _VERDICT_EVENTS[verdict],
        actor=by,
        reason=comment,
        detail=detail,
        at=at,
        decision_id=decision_id,
    )
    return settle(connection, job, actor=by) if verdict == "approve" else job


def _insert(
    connection: LedgerConnection,
    job: Job,
    verdict: Verdict,
    digest: str,
    by: Actor,
    comment: str | None,
) -> tuple[int, datetime]:
    """Add a decision, and return its id and its time by the database's clock."""
    values = {
        "job_id": job.job_id,
        "revision": job.revision,
        "verdict": verdict,
        "digest": digest,
        "decided_by": by.kind.value if by.name is None else by.name,
        "decided_by_id": by.user_id,
        "kind": by.kind,
        "comment": comment,
    }
    row = connection.execute(_INSERT_DECISION, values).fetchone()
    assert row is not None
    connection.count(signals.DECISIONS, job_type=job.job_type, verdict=verdict, by=by.kind)
    return int(row["decision_id"]), row["created_at"]


def votes_for(connection: LedgerConnection, job: Job) -> list[Decision]:
    """The approvals by people that count for what the job says now: one of each, the oldest first."""
    return approvals_of(job, of_now(connection, job))


def of_now(connection: LedgerConnection, job: Job) -> list[Decision]:
    """The decisions on what the job says now, the oldest first."""
    return [Decision(**row) for row in connection.execute(_OF_NOW, {"job_id": job.job_id}).fetchall()]


def is_over(connection: LedgerConnection, job: Job) -> bool:
    """Whether the time to decide has ended, by the database's clock."""
    return job.review_deadline is not None and history.now(connection) >= job.review_deadline


def is_repeat(connection: LedgerConnection, job: Job, verdict: Verdict, digest: str, by: Actor) -> bool:
    """Whether this very answer counts already: a double click, or a request sent again."""

    def is_same(decision: Decision) -> bool:
        return (decision.verdict, decision.digest, decision.decider) == (verdict, digest, by)

    if verdict == "request changes":
        row = connection.execute(NEWEST, [job.job_id]).fetchone()
        return job.state in (JobState.QUEUED, JobState.RUNNING) and row is not None and is_same(Decision(**row))
    said = of_now(connection, job)
    agreed = job.state is JobState.REVIEW or (bool(said) and said[-1].verdict == verdict)
    return agreed and any(map(is_same, said))


def check_digest(connection: LedgerConnection, job: Job, digest: str) -> None:
    """Refuse an answer about anything else than the job as it is now.

    :raises StaleDecision: it is another one by now, or does not wait for a decision.
    :raises JobNotApproved: it has no plan yet to decide on.
    """
    if job.state is not JobState.REVIEW:
        by = f" ({job.state_reason})" if job.state_reason else ""
        raise StaleDecision(
            f"it no longer waits for a decision: it is {job.state.value}{by}.",
            job=job.label,
            written="Your decision was not recorded. It causes no external write.",
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
            f"it has changed since you opened it: {_what_changed(connection, job, digest)}.",
            job=job.label,
            written="Your decision was not recorded. It causes no external write.",
            remedy="Reload the page, review it again, and decide.",
        )


def _check_deadline(connection: LedgerConnection, job: Job) -> None:
    if is_over(connection, job):
        assert job.review_deadline is not None
        raise StaleDecision(
            f"the time to decide ended at {job.review_deadline.isoformat(timespec='seconds')}.",
            job=job.label,
            written="Your decision was not recorded. It causes no external write.",
            remedy="The job's approval task ends the review, as its author has configured.",
        )


def _what_changed(connection: LedgerConnection, job: Job, seen: str) -> str:
    planned = [row["detail"] for row in connection.execute(READ_PLANNED, [job.job_id]).fetchall()]
    components = {detail["digest"]: detail["components"] for detail in planned}
    if seen not in components:
        return "the digest that you named was never this job's"
    return "; ".join(describe_changes(components[seen], components[job.review_digest]))
