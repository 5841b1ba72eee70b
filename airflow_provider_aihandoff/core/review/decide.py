"""Answers on jobs that the caller's transaction has locked: whether they may be given, and what they lead to.

One job or ten thousand: the same checks of each, by the same statements, of which each is about all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.database.history import Move
from airflow_provider_aihandoff.core.digests import describe_changes
from airflow_provider_aihandoff.core.effects.plan_store import settle_many
from airflow_provider_aihandoff.core.errors import HandoffError, JobNotApproved, MayNotDecide, StaleDecision
from airflow_provider_aihandoff.core.models import PERSON_KINDS, Actor, Decision, Job, Verdict, columns
from airflow_provider_aihandoff.core.review.edits import begin_change
from airflow_provider_aihandoff.core.review.rules import Person, approvals_of, rules_of, why_not
from airflow_provider_aihandoff.core.states import JobEvent, JobState

#: One moment for all of them.
_INSERT_DECISIONS = """
    INSERT INTO aihandoff.decisions
        (job_id, revision, verdict, digest, decided_by, decided_by_id, decided_by_kind, comment, created_at)
    SELECT job_id, revision, %(verdict)s, digest, %(decided_by)s, %(decided_by_id)s, %(kind)s, comment,
        (SELECT clock_timestamp())
    FROM unnest(%(job_ids)s::bigint[], %(revisions)s::integer[], %(digests)s::text[], %(comments)s::text[])
        AS said (job_id, revision, digest, comment)
    ORDER BY job_id
    RETURNING job_id, decision_id, created_at"""
READ_PLANNED = """
    SELECT detail FROM aihandoff.events WHERE job_id = %s AND event IN ('planned', 'plan changed') ORDER BY seq"""
#: A decision on what a job says now. Its digest may have been asked about before; what was said then is void, as is
#: what a reassignment has voided.
OF_NOW = """
    d.job_id = jobs.job_id AND d.digest = jobs.review_digest AND d.decision_id > coalesce(jobs.decided_before, 0)
    AND d.voided_at IS NULL"""
#: Who has approved what a job says now, the first one first, as JSON: kind, name and id of each.
VOTERS = f"""
    coalesce((
        SELECT json_agg(json_build_array(decided_by_kind, decided_by, decided_by_id) ORDER BY decision_id)
        FROM aihandoff.decisions AS d
        WHERE {OF_NOW} AND d.verdict = 'approve' AND d.decided_by_kind IN ('user', 'terminal')), '[]')"""
_OF_NOW = f"""
    SELECT {columns(Decision, "d")} FROM aihandoff.decisions AS d, aihandoff.jobs
    WHERE jobs.job_id = ANY(%(job_ids)s) AND {OF_NOW} ORDER BY decision_id"""
NEWEST = f"""
    SELECT {columns(Decision)} FROM aihandoff.decisions WHERE job_id = %s ORDER BY decision_id DESC LIMIT 1"""

_VERDICT_EVENTS = {"approve": JobEvent.APPROVED, "reject": JobEvent.REJECTED}


def decide_as(
    connection: LedgerConnection, job: Job, verdict: Verdict, digest: str, person: Person, comment: str | None
) -> Job:
    """Record a person's answer on a locked job."""
    if verdict != "request changes":
        done, refused = decide_each(connection, [(job, digest)], verdict, person, comment)
        for refusal in refused.values():
            raise refusal
        return done[job.job_id]
    by = person.actor
    if is_repeat(connection, job, verdict, digest, by):
        return job
    check_person(connection, job, digest, person, history.now(connection))
    change = begin_change(connection, job, comment, by=by)
    _insert(connection, [(job, digest)], verdict, by, {job.job_id: comment})
    return change


def decide_each(
    connection: LedgerConnection,
    answers: Sequence[tuple[Job, str]],
    verdict: Literal["approve", "reject"],
    person: Person,
    comment: str | None,
) -> tuple[dict[int, Job], dict[int, HandoffError]]:
    """Record a person's answer on locked jobs: on all of them, or on none. One that counts already stays as it is.

    :param answers: each job, and the digest that was seen of it.
    :return: the jobs as they are now, and why some of them refuse the answer, by their ids; one of the two is empty.
    """
    by = person.actor
    said, at = _of_now_each(connection, [job for job, _ in answers]), history.now(connection)
    repeated = {job.job_id: job for job, seen in answers if counts_already(job, said[job.job_id], verdict, seen, by)}
    new = [(job, seen) for job, seen in answers if job.job_id not in repeated]
    refused: dict[int, HandoffError] = {}
    for job, seen in new:
        try:
            check_person(connection, job, seen, person, at)
        except (StaleDecision, JobNotApproved, MayNotDecide) as refusal:
            refused[job.job_id] = refusal
    if refused:
        return {}, refused
    comments = {job.job_id: comment for job, _ in new}
    done = record_each(connection, new, verdict, by=by, comments=comments)
    return repeated | {job.job_id: job for job in done}, {}


def check_person(connection: LedgerConnection, job: Job, digest: str, person: Person, at: datetime) -> None:
    """Refuse an answer on an older form of the job, one that is too late, or one by a person who may not decide.

    :param at: the moment, by the database's clock, for which it was asked since the job was locked.
    """
    check_digest(connection, job, digest)
    _check_deadline(job, at)
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
    (done,) = record_each(connection, [(job, digest)], verdict, by=by, comments={job.job_id: comment})
    return done


def record_each(
    connection: LedgerConnection,
    answers: Sequence[tuple[Job, str]],
    verdict: Literal["approve", "reject"],
    *,
    by: Actor,
    comments: Mapping[int, str | None],
) -> list[Job]:
    """Record an answer on each of some locked jobs, and move those on for which that is the last one that they need.

    :param answers: each job, and the digest that it is about.
    :param comments: what is said of each, by its id.
    :return: the jobs as they are now, in the same order.
    """
    if not answers:
        return []
    ids, at = _insert(connection, answers, verdict, by, comments)
    moves = {
        job.job_id: Move(
            job,
            _VERDICT_EVENTS[verdict],
            reason=comments[job.job_id],
            detail={"digest": seen, "decision_id": ids[job.job_id]},
            changes={"decision_id": ids[job.job_id]},
        )
        for job, seen in answers
    }
    waiting = {}
    if verdict == "approve" and by.kind in PERSON_KINDS:
        waiting = _count_votes(connection, [job for job, _ in answers], moves)
    done = history.move_many(connection, list(waiting.values()), actor=by, at=at)
    decided = [move for job_id, move in moves.items() if job_id not in waiting]
    moved = history.move_many(connection, decided, actor=by, at=at)
    for move in decided:
        if move.job.review_asked_at is not None:
            waited = (at - move.job.review_asked_at).total_seconds()
            connection.timing(signals.DECISION_TIME, waited, job_type=move.job.job_type, by=by.kind)
    if verdict == "approve":
        moved = settle_many(connection, moved, actor=by, at=at)
    found = {job.job_id: job for job in [*done, *moved]}
    return [found[job.job_id] for job, _ in answers]


def _count_votes(connection: LedgerConnection, jobs: Sequence[Job], moves: dict[int, Move]) -> dict[int, Move]:
    """The steps of those jobs that need further approvals. Where several are needed, each line says how many there are.

    :param moves: the steps of all of them, by id; it is changed.
    """
    needed = {job.job_id: rules_of(job).approvals for job in jobs}
    several = [job for job in jobs if needed[job.job_id] > 1]
    said = votes_for(connection, several) if several else {}
    waiting = {}
    for job in several:
        votes, move = len(said[job.job_id]), moves[job.job_id]
        move = replace(move, detail={**move.detail, "approvals": votes, "needed": needed[job.job_id]})
        moves[job.job_id] = move
        if votes < needed[job.job_id]:
            waiting[job.job_id] = replace(move, event=JobEvent.VOTED, changes={})
    return waiting


def _insert(
    connection: LedgerConnection,
    answers: Sequence[tuple[Job, str]],
    verdict: Verdict,
    by: Actor,
    comments: Mapping[int, str | None],
) -> tuple[dict[int, int], datetime]:
    """Add one decision for each job, and return their ids by job, and their time by the database's clock."""
    values = {
        "job_ids": [job.job_id for job, _ in answers],
        "revisions": [job.revision for job, _ in answers],
        "digests": [seen for _, seen in answers],
        "verdict": verdict,
        "decided_by": by.kind.value if by.name is None else by.name,
        "decided_by_id": by.user_id,
        "kind": by.kind,
        "comments": [comments[job.job_id] for job, _ in answers],
    }
    rows = connection.execute(_INSERT_DECISIONS, values).fetchall()
    for job_type, number in Counter(job.job_type for job, _ in answers).items():
        connection.count(signals.DECISIONS, number, job_type=job_type, verdict=verdict, by=by.kind)
    return {row["job_id"]: row["decision_id"] for row in rows}, rows[0]["created_at"]


def votes_for(connection: LedgerConnection, jobs: Sequence[Job]) -> dict[int, list[Decision]]:
    """The approvals by people that count for what each job says now, by its id: one of each, the oldest first."""
    said = _of_now_each(connection, jobs)
    return {job.job_id: approvals_of(job, said[job.job_id]) for job in jobs}


def of_now(connection: LedgerConnection, job: Job) -> list[Decision]:
    """The decisions on what the job says now, the oldest first."""
    return _of_now_each(connection, [job])[job.job_id]


def _of_now_each(connection: LedgerConnection, jobs: Sequence[Job]) -> dict[int, list[Decision]]:
    """:func:`of_now` of each job, by its id."""
    found: dict[int, list[Decision]] = {job.job_id: [] for job in jobs}
    for row in connection.execute(_OF_NOW, {"job_ids": list(found)}).fetchall():
        found[row["job_id"]].append(Decision(**row))
    return found


def is_over(connection: LedgerConnection, job: Job) -> bool:
    """Whether the time to decide has ended, by the database's clock."""
    return job.review_deadline is not None and history.now(connection) >= job.review_deadline


def is_repeat(connection: LedgerConnection, job: Job, verdict: Verdict, digest: str, by: Actor) -> bool:
    """Whether this very answer counts already: a double click, or a request sent again."""
    if verdict == "request changes":
        row = connection.execute(NEWEST, [job.job_id]).fetchone()
        asked = job.state in (JobState.QUEUED, JobState.RUNNING)
        return asked and row is not None and _is_same(Decision(**row), verdict, digest, by)
    return counts_already(job, of_now(connection, job), verdict, digest, by)


def counts_already(job: Job, said: Sequence[Decision], verdict: Verdict, digest: str, by: Actor) -> bool:
    """:func:`is_repeat` for an approval or a rejection.

    :param said: the decisions on what the job says now, the oldest first.
    """
    agreed = job.state is JobState.REVIEW or (bool(said) and said[-1].verdict == verdict)
    return agreed and any(_is_same(each, verdict, digest, by) for each in said)


def _is_same(decision: Decision, verdict: Verdict, digest: str, by: Actor) -> bool:
    return (decision.verdict, decision.digest, decision.decider) == (verdict, digest, by)


def check_digest(connection: LedgerConnection, job: Job, digest: str, *, since: str = "you opened it") -> None:
    """Refuse an answer about anything else than the job as it is now.

    :param since: when the digest was the job's, in words.
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
            f"it has changed since {since}: {_what_changed(connection, job, digest)}.",
            job=job.label,
            written="Your decision was not recorded. It causes no external write.",
            remedy="Reload the page, review it again, and decide.",
        )


def _check_deadline(job: Job, at: datetime) -> None:
    if job.review_deadline is not None and at >= job.review_deadline:
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
