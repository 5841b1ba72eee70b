"""The decide protocol: plan → ask → decide, each answer bound to the digest that its sender saw.

Every function is one short transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.digests import digest, review_components
from airflow_provider_aihandoff.core.effects.approved_undo import SEALS, seals
from airflow_provider_aihandoff.core.effects.plan_store import anything_touched, digest_key, replace_plans
from airflow_provider_aihandoff.core.effects.undo import PREFIX
from airflow_provider_aihandoff.core.errors import (
    CannotChange,
    PlanError,
    StaleBulkDecision,
)
from airflow_provider_aihandoff.core.generation.revision_store import read_revision
from airflow_provider_aihandoff.core.jobs.of_run import OF_RUN
from airflow_provider_aihandoff.core.models import (
    TIMEOUT,
    Actor,
    Decision,
    Effect,
    EffectPlan,
    Job,
    OnTimeout,
    PendingReview,
    Revision,
    Verdict,
    columns,
)
from airflow_provider_aihandoff.core.review.ask_first import FirstAsk, ask_first
from airflow_provider_aihandoff.core.review.decide import (
    NEWEST,
    READ_PLANNED,
    VOTERS,
    check_digest,
    check_person,
    decide_as,
    decide_each,
    is_over,
    is_repeat,
    record,
    votes_for,
)
from airflow_provider_aihandoff.core.review.edits import begin_edit, is_edit, refuse_edit
from airflow_provider_aihandoff.core.review.rules import (
    Person,
    Reassignment,
    ReviewRules,
    author_rules,
    distinct,
    due_times,
    rules_of,
)
from airflow_provider_aihandoff.core.states import JobEvent, JobState
from airflow_provider_aihandoff.core.strict_json import TOO_DEEP, is_shallow
from airflow_provider_aihandoff.core.text import plain, plain_or_none

_PENDING = f"""
    SELECT {columns(PendingReview)} FROM (
        SELECT jobs.*, {VOTERS} AS voters FROM aihandoff.jobs WHERE state = 'review' AND {{conditions}}
    ) AS pending
    ORDER BY created_at, job_id"""
_OF_DAGS = f"""(%(dag_ids)s::text[] IS NULL OR dag_id = ANY(%(dag_ids)s)) AND {OF_RUN}
    AND (%(set_id)s::bigint IS NULL OR set_id = %(set_id)s)"""
_NOTICES = """
    SELECT detail->>'notice' AS notice FROM aihandoff.events
    WHERE job_id = %(job_id)s AND event = 'notified' AND detail->>'asked_at' = %(asked_at)s
        AND coalesce((detail->>'reassigned')::integer, %(reassigned)s) = %(reassigned)s"""

#: Where the plan may still change: in the last one, as long as every write was refused or never sent.
_PLANNABLE = frozenset({JobState.REVIEW, JobState.APPROVED, JobState.APPLYING})

_WAIT_NOTICES = """
    SELECT EXISTS (
        SELECT FROM aihandoff.events
        WHERE job_id = %s AND event = 'notified' AND detail::jsonb @> %s::jsonb) AS sent"""

#: Jobs that a statement of a bulk decision is about.
_AT_ONCE = 1_000

#: What people are notified of: a review, or a write or a lost request that waits for a person.
Notice = Literal["asked", "reminder", "escalation", "reassigned", "decided", "held", "lost"]


class Reviews:
    """The steps from a stored output to a decision, on one ledger.

    :param digest_key: the configured key of digests; empty: the ledger's own.
    """

    def __init__(self, database: Database, digest_key: str) -> None:
        self._database = database
        self._digest_key = digest_key

    def ask(
        self,
        job_id: int,
        plans: Sequence[EffectPlan],
        *,
        policy: str | None,
        deadline: timedelta | datetime,
        actor: Actor,
        revision: int | None = None,
        rules: ReviewRules | None = None,
        reason: str | None = None,
        on_timeout: OnTimeout | None = None,
    ) -> Job:
        """Store the plan of a job that is in review (or approved, with nothing written), for a review.

        Safe to repeat: the same plan changes nothing, and keeps its deadline. Another plan voids an approval, and the
        votes for one.

        :param policy: ``name@version`` of the policy that is asked first, if there is one.
        :param deadline: how long a person has to decide, by the database's clock, or until when. A plan of an edit
            keeps the time of before.
        :param revision: the revision that the plan was rendered for; another one that is current by now keeps its own.
        :param rules: who decides; by default every user who may decide for the Dag.
        :param reason: why a person is asked, as a text for the reviewer.
        :param on_timeout: what the end of that time means, for when no task waits for it.
        :return: the job as it is now; unchanged where it is neither in review nor approved, or something was written.
        :raises PlanError: two effects have the same name.
        """
        _check_names(job_id, plans)

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            if revision not in (None, job.revision):
                return job
            who = rules or ReviewRules()
            return _plan(connection, job, plans, policy, who, deadline, actor, reason, on_timeout, self._digest_key)

        return self._database.transact(work, step="review.ask")

    def ask_first(
        self,
        asks: Sequence[FirstAsk],
        *,
        policy: str | None,
        deadline: timedelta | datetime,
        actor: Actor,
        on_timeout: OnTimeout | None = None,
    ) -> list[Job | None]:
        """:meth:`ask` for jobs that were never asked about, in one transaction, with what the policy decides.

        :return: the jobs as they are now, without their input and permissions; None where one has to be asked about
            alone.
        :raises PlanError: two effects of a job have the same name; nothing was recorded.
        """
        for each in asks:
            _check_names(each.job_id, each.plans)
        where: dict[str, Any] = {"policy": policy, "deadline": deadline, "actor": actor, "on_timeout": on_timeout}
        found = self._database.transact(
            lambda connection: ask_first(connection, asks, **where, configured_key=self._digest_key),
            repeatable=True,
            step="set.ask",
        )
        return [found.get(each.job_id) for each in asks]

    def ask_again(
        self,
        job_id: int,
        plans: Sequence[EffectPlan],
        *,
        deadline: timedelta | datetime,
        actor: Actor,
        reason: str,
    ) -> Job:
        """Void an approval whose plan is not what would be written, and ask a person about what would be.

        What the job's author said about its review stays: who decides, the policy, and the end of the time to decide.

        :param deadline: how long a person has to decide, by the database's clock, or until when.
        :return: the job as it is now; unchanged where it needs no approval, something was written, or the plan is the
            one that was approved.
        :raises PlanError: two effects have the same name.
        """
        _check_names(job_id, plans)

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            if job.approval != "required":
                return job
            planned = connection.execute(READ_PLANNED, [job_id]).fetchall()
            policy = planned[-1]["detail"]["components"]["policy"] if planned else None
            who, on_timeout = author_rules(job), job.review_on_timeout
            return _plan(connection, job, plans, policy, who, deadline, actor, reason, on_timeout, self._digest_key)

        return self._database.transact(work, step="review.ask")

    def decide(self, job_id: int, verdict: Verdict, *, digest: str, person: Person, comment: str | None = None) -> Job:
        """Record a person's answer. The same answer by the same person again changes nothing.

        An approval counts as one vote where the job's author wants several. With ``request changes`` the model is
        asked for another revision that follows the comment.

        :param digest: the review digest that the sender saw.
        :return: the job as it is now.
        :raises StaleDecision: the job has another digest by now, is decided, or the time to decide has ended; the
            message says what changed.
        :raises JobNotApproved: the job has no plan yet to decide on.
        :raises MayNotDecide: the author's rules do not let this person.
        :raises CannotChange: the model cannot be asked again; the message says which bound is reached.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            return decide_as(connection, job, verdict, digest, person, plain_or_none(comment))

        return self._database.transact(work, step="review.decide")

    def decide_many(
        self,
        choices: Sequence[tuple[int, str]],
        verdict: Literal["approve", "reject"],
        *,
        person: Person,
        comment: str | None = None,
    ) -> list[Job]:
        """Record one answer to many jobs: one decision for each, on the digest that was seen, or none at all.

        :param choices: ``(job id, review digest)``.
        :return: the jobs as they are now, in the order of the choices, without their input and permissions.
        :raises StaleBulkDecision: some of them cannot be decided; it says which, and why. None was decided.
        :raises ValueError: a job is named twice.
        """
        if len({job_id for job_id, _ in choices}) < len(choices):
            raise ValueError("A job is named twice. Nothing was recorded. No external write was made.")
        words, seen = plain_or_none(comment), dict(choices)

        def work(connection: LedgerConnection) -> dict[int, Job] | StaleBulkDecision:
            jobs: dict[int, Job] = {}
            for some in _lots(sorted(seen)):  # always in this order, so that two cannot block
                jobs |= history.lock_many(connection, some)
            stale = {job_id: f"the ledger has no job {job_id}." for job_id in seen if job_id not in jobs}
            done: dict[int, Job] = {}
            connection.execute("SAVEPOINT bulk")
            for some in _lots(list(jobs)):
                answers = [(jobs[job_id], seen[job_id]) for job_id in some]
                decided, refused = decide_each(connection, answers, verdict, person, words)
                done |= decided
                stale |= {job_id: refusal.what for job_id, refusal in refused.items()}
            if not stale:
                return done
            connection.execute("ROLLBACK TO SAVEPOINT bulk")
            connection.forget()
            return StaleBulkDecision(
                f"{len(stale)} of {len(choices)} jobs have changed since you opened them, or are not yours to decide.",
                stale=dict(sorted(stale.items())),
                written="None of the decisions was recorded. No external write was made.",
                remedy="Review these again, or leave them out.",
            )

        found = self._database.transact(work, step="review.decide")
        return [found[job_id] for job_id, _ in choices]

    def approve_by_policy(self, job_id: int, *, digest: str, policy: str, reason: str, expired: bool = False) -> Job:
        """Record that a policy approves, without a person.

        :param policy: ``name@version``.
        :param expired: it is asked because no one decided in time: nothing is recorded before the deadline.
        :return: the job as it is now.
        :raises StaleDecision: the job has another digest by now, or is decided.
        """
        by = Actor.policy(policy)

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            if is_repeat(connection, job, "approve", digest, by):
                return job
            check_digest(connection, job, digest)
            if expired and not is_over(connection, job):
                return job
            return record(connection, job, "approve", digest=digest, by=by, comment=plain(reason))

        return self._database.transact(work, step="review.decide")

    def edit(self, job_id: int, *, digest: str, output: Any, person: Person) -> Job:
        """Make a person's version of the output the current revision. The approval task renders its plan again.

        Sent again before that, it changes nothing.

        :param digest: the review digest that the person saw.
        :param output: the whole output, as JSON.
        :raises StaleDecision: as :meth:`decide`.
        :raises JobNotApproved: as :meth:`decide`.
        :raises MayNotDecide: as :meth:`decide`: a person who may not decide may not edit either.
        :raises CannotChange: it is the output that there is, or it is nested too deeply.
        """
        if not is_shallow(output):
            raise CannotChange(
                f"your edit cannot be kept: {TOO_DEEP}.",
                job=f"job {job_id}",
                written="Nothing was recorded. No external write was made.",
                remedy="Write it with fewer levels.",
            )

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            if is_edit(connection, job, output, by=person.actor):
                return job
            check_person(connection, job, digest, person, history.now(connection))
            return begin_edit(connection, job, output, by=person.actor)

        return self._database.transact(work, step="review.edit")

    def refuse_edit(self, job_id: int, number: int, *, error: dict[str, Any], reason: str, actor: Actor) -> Job:
        """Undo an edit that the output type does not accept; what was typed is kept with its revision.

        :return: the job as it is now: at the revision that was edited, unless it has moved on.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            if job.state is not JobState.REVIEW or job.revision != number or job.review_digest is not None:
                return job
            return refuse_edit(connection, job, error=error, reason=reason, actor=actor)

        return self._database.transact(work, step="review.refuse edit")

    def notify(self, job_id: int, *, digest: str, actor: Actor) -> Job:
        """Record that reviewers are reminded, or that others are asked as well, where it is time to by the database's
        clock. Safe to repeat.

        :param digest: the digest that was asked about.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            if job.state is not JobState.REVIEW or job.review_digest != digest:
                return job
            now = history.now(connection)
            due = {what for what, at in due_times(job).items() if at <= now}
            if "reminder" in due:
                job = history.move(connection, job, JobEvent.REMINDED, actor=actor, at=now, reminded_at=now)
            if "escalation" in due:
                reason = f"{rules_of(job).escalate_to} may decide as well"
                job = history.move(
                    connection, job, JobEvent.ESCALATED, actor=actor, at=now, reason=reason, escalated_at=now
                )
            return job

        return self._database.transact(work, step="review.notify")

    def notices(self, job: Job) -> set[str]:
        """What reviewers were notified of since they were asked last, and since the review was reassigned last."""
        number = Reassignment.from_json(job.reassigned).number
        values = {"job_id": job.job_id, "asked_at": str(job.review_asked_at), "reassigned": number}
        rows = self._database.transact(lambda connection: connection.execute(_NOTICES, values).fetchall())
        return {row["notice"] for row in rows}

    def notified(self, job: Job, notice: Notice, *, actor: Actor) -> None:
        """Record that reviewers were notified."""

        def work(connection: LedgerConnection) -> None:
            detail: dict[str, Any] = {"notice": notice, "asked_at": str(job.review_asked_at)}
            if notice == "reassigned":
                detail["reassigned"] = Reassignment.from_json(job.reassigned).number
            history.move(
                connection, history.lock(connection, job.job_id), JobEvent.NOTIFIED, actor=actor, detail=detail
            )

        self._database.transact(work)

    def wait_notified(self, waits: Effect | Revision) -> bool:
        """Whether people were notified that this attempt of an effect, or this lost request, waits for a person."""
        values = [waits.job_id, history.as_json(_wait_notice(waits))]
        row = self._database.transact(lambda connection: connection.execute(_WAIT_NOTICES, values).fetchone())
        assert row is not None
        return bool(row["sent"])

    def notify_wait(self, waits: Effect | Revision, *, actor: Actor) -> None:
        """Record that people were notified that this attempt of an effect, or this lost request, waits for a person."""

        def work(connection: LedgerConnection) -> None:
            job = history.lock(connection, waits.job_id)
            history.move(connection, job, JobEvent.NOTIFIED, actor=actor, detail=_wait_notice(waits))

        self._database.transact(work)

    def votes(self, job: Job) -> list[Decision]:
        """The approvals by people that count for a job's digest: one of each, the oldest first."""
        return self.votes_of([job])[job.job_id]

    def votes_of(self, jobs: Sequence[Job]) -> dict[int, list[Decision]]:
        """:meth:`votes` of each of the jobs, by its id."""
        return self._database.transact(lambda connection: votes_for(connection, jobs))

    def pending(
        self, *, dag_ids: Sequence[str] | None = None, run_id: str | None = None, set_id: int | None = None
    ) -> list[PendingReview]:
        """Every job in review, the one that waits longest first, without its content.

        :param dag_ids: only jobs of these Dags; None for every Dag.
        :param run_id: only jobs that this run has made or attached to.
        :param set_id: only jobs of this set.
        """
        values = {"dag_ids": None if dag_ids is None else list(dag_ids), "run_id": run_id, "set_id": set_id}
        return self._pending(_OF_DAGS, values)

    def pending_of(self, job_ids: Sequence[int]) -> list[PendingReview]:
        """:meth:`pending` for those of these jobs that wait for a decision."""
        return self._pending("job_id = ANY(%(job_ids)s)", {"job_ids": list(job_ids)})

    def _pending(self, conditions: str, values: dict[str, Any]) -> list[PendingReview]:
        query = _PENDING.format(conditions=conditions)
        rows = self._database.transact(lambda connection: connection.execute(query, values).fetchall())
        return [PendingReview(**{**row, "voters": distinct(Actor(*voter) for voter in row["voters"])}) for row in rows]

    def expire(self, job_id: int, *, digest: str, fail: bool) -> Job:
        """End a review whose deadline has passed, by the database's clock. Does nothing before it has.

        :param digest: the digest that was asked about; another one has a deadline of its own.
        :param fail: fail the job; otherwise it counts as rejected.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            if not is_over(connection, job) or job.state is not JobState.REVIEW or job.review_digest != digest:
                return job
            why = "no one decided in time"
            if fail:
                return history.move(connection, job, JobEvent.REVIEW_EXPIRED, actor=TIMEOUT, reason=why)
            return record(connection, job, "reject", digest=digest, by=TIMEOUT, comment=why)

        return self._database.transact(work, step="review.expire")


def _lots(job_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """The ids in lots, so that no statement takes long."""
    for start in range(0, len(job_ids), _AT_ONCE):
        yield job_ids[start : start + _AT_ONCE]


def _wait_notice(waits: Effect | Revision) -> dict[str, Any]:
    """What the history keeps of a notification that something waits for a person."""
    if isinstance(waits, Revision):
        return {"notice": "lost", "revision": waits.number, "unknown_submissions": waits.unknown_submissions}
    return {"notice": "held", "effect_id": waits.effect_id, "attempt": waits.attempt}


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
            f"the name of an effect is reserved for undos: {', '.join(map(repr, taken))}.",
            job=f"job {job_id}",
            remedy=f"Give it an `effect` that does not begin with {PREFIX!r}.",
        )


def _plan(
    connection: LedgerConnection,
    job: Job,
    plans: Sequence[EffectPlan],
    policy: str | None,
    rules: ReviewRules,
    deadline: timedelta | datetime,
    actor: Actor,
    reason: str | None,
    on_timeout: OnTimeout | None,
    configured_key: str,
) -> Job:
    """Store the plan of a locked job, unless it is the one that it has, or something was written."""
    if job.state not in _PLANNABLE or job.cancelling is not None or anything_touched(connection, job.job_id):
        return job
    revision = read_revision(connection, job.job_id, job.revision)
    assert revision.output_digest is not None
    components = review_components(
        revision.output_digest, [(plan.name, plan.plan_digest) for plan in plans], policy, rules.bound
    )
    new_digest = digest(components)
    if new_digest == job.review_digest:
        return job
    replace_plans(connection, job, plans)
    sealed = seals(job, plans, configured_key or digest_key(connection))
    changes: dict[str, Any] = {"review_digest": new_digest}
    event, why, now = JobEvent.PLANNED, reason, history.now(connection)
    if job.approval == "required":
        newest = connection.execute(NEWEST, [job.job_id]).fetchone()
        changes |= {"review": rules.to_json(), "review_on_timeout": on_timeout, "decision_id": None}
        if rules.reviewers != author_rules(job).reviewers:  # the author names others now, who decide
            changes["reassigned"] = None
        changes["decided_before"] = None if newest is None else newest["decision_id"]
        edited = job.state is JobState.REVIEW and job.review_digest is None and job.review_deadline is not None
        if not edited:  # an edit does not extend the deadline
            until = now + deadline if isinstance(deadline, timedelta) else deadline
            changes |= {"review_deadline": until, "review_asked_at": now, "reminded_at": None, "escalated_at": None}
        if job.state is not JobState.REVIEW:
            event = JobEvent.PLAN_CHANGED
            why = "the plan is not the one that was approved" + (f"; {reason}" if reason else "")
    return history.move(
        connection,
        job,
        event,
        actor=actor,
        reason=why,
        detail={"digest": new_digest, "components": components, SEALS: sealed},
        at=now,
        **changes,
    )
