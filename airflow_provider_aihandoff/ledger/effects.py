"""The apply protocol: claim (commit) → send → confirm. A write happens at most once, and never silently not at all.

Every function is one short transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from airflow_provider_aihandoff.digests import effect_key
from airflow_provider_aihandoff.errors import (
    ClaimLost,
    EffectNotFound,
    EffectUnknown,
    HandoffError,
    IllegalTransition,
    JobCancelled,
    JobNotApproved,
    PlanNotApproved,
)
from airflow_provider_aihandoff.ledger import history
from airflow_provider_aihandoff.ledger.connection import Database, LedgerConnection
from airflow_provider_aihandoff.ledger.history import as_json
from airflow_provider_aihandoff.ledger.records import Decision, Effect, EffectPlan, Job, columns
from airflow_provider_aihandoff.states import (
    TOUCHED_EFFECT_STATES,
    EffectEvent,
    EffectState,
    JobEvent,
    JobState,
    next_effect_state,
)

_TOUCHED = [state.value for state in TOUCHED_EFFECT_STATES]

_READ_EFFECT = f"""
    SELECT {columns(Effect)} FROM aihandoff.effects WHERE job_id = %s AND revision = %s AND name = %s"""
_READ_EFFECT_BY_ID = f"SELECT {columns(Effect)} FROM aihandoff.effects WHERE effect_id = %s"
_READ_DECISION = f"SELECT {columns(Decision)} FROM aihandoff.decisions WHERE decision_id = %s"
_DELETE_UNTOUCHED = """
    DELETE FROM aihandoff.effects WHERE job_id = %s AND revision = %s AND state IN ('planned', 'refused')"""
_INSERT_EFFECT = """
    INSERT INTO aihandoff.effects (job_id, revision, name, position, kind, effect_key, state, plan, plan_digest, undo,
        created_at, updated_at)
    VALUES (%(job_id)s, %(revision)s, %(name)s, %(position)s, %(kind)s, %(effect_key)s, 'planned', %(plan)s,
        %(plan_digest)s, %(undo)s, clock_timestamp(), clock_timestamp())"""
_UPDATE_EFFECT = f"""
    UPDATE aihandoff.effects SET state = %(state)s, attempt = %(attempt)s, claim_token = %(claim_token)s,
        claimed_by = %(claimed_by)s, claimed_at = CASE WHEN %(claimed)s THEN clock_timestamp() ELSE claimed_at END,
        external_id = %(external_id)s, result = %(result)s, error = %(error)s, updated_at = clock_timestamp()
    WHERE effect_id = %(effect_id)s
    RETURNING {columns(Effect)}"""
_COUNT_UNAPPLIED = """
    SELECT count(*) AS n FROM aihandoff.effects WHERE job_id = %s AND revision = %s AND state <> 'applied'"""


@dataclass(frozen=True)
class Claim:
    """The permission to send one effect.

    :param token: fencing token; what becomes of the attempt is recorded only while it is the newest.
    :param applied: the effect is applied already: there is nothing to send, and no token.
    :param resent: an earlier attempt may have been applied, and this one sends the same key again.
    """

    effect: Effect
    token: UUID | None
    applied: bool = False
    resent: bool = False


def anything_touched(connection: LedgerConnection, job_id: int) -> bool:
    """Whether any effect of the job may have been written outside."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM aihandoff.effects WHERE job_id = %s AND state = ANY(%s)) AS touched",
        [job_id, _TOUCHED],
    ).fetchone()
    assert row is not None
    return bool(row["touched"])


def void_plans(connection: LedgerConnection, job_id: int, revision: int) -> None:
    """Void the effects of a revision that is replaced. None of them may have been sent."""
    connection.execute(
        """UPDATE aihandoff.effects SET state = 'void', updated_at = clock_timestamp()
        WHERE job_id = %s AND revision = %s AND state IN ('planned', 'refused')""",
        [job_id, revision],
    )


def replace_plans(connection: LedgerConnection, job: Job, plans: Sequence[EffectPlan]) -> None:
    """Store the plans of a job's current revision in the place of earlier ones. None of them may have been written."""
    connection.execute(_DELETE_UNTOUCHED, [job.job_id, job.revision])
    row = connection.execute("SELECT ledger_id FROM aihandoff.ledger").fetchone()
    assert row is not None
    for position, plan in enumerate(plans):
        key = effect_key(str(row["ledger_id"]), job.job_id, job.revision, plan.name, plan.plan_digest)
        connection.execute(
            _INSERT_EFFECT,
            {
                "job_id": job.job_id,
                "revision": job.revision,
                "name": plan.name,
                "position": position,
                "kind": plan.kind,
                "effect_key": key,
                "plan": as_json(plan.shown),
                "plan_digest": plan.plan_digest,
                "undo": None if plan.undo is None else as_json(plan.undo),
            },
        )


class Effects:
    """The steps from an approved plan to a confirmed write, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, job_id: int, plan: EffectPlan, *, repeatable: bool, actor: str) -> Claim:
        """Get the one permission to send an effect, if it is exactly what was approved.

        :param plan: what the caller is about to send.
        :param repeatable: the target takes the same effect key again without writing twice, so that an attempt
            whose outcome is not known may be sent again.
        :raises JobCancelled: the job was cancelled.
        :raises JobNotApproved: nobody has approved the job, or somebody rejected it.
        :raises PlanNotApproved: the plan is not the one that was approved.
        :raises EffectUnknown: an earlier attempt may have been applied, and the target is not ``repeatable``.
        """

        token, resent = uuid4(), False

        def work(connection: LedgerConnection) -> Claim | HandoffError:
            nonlocal resent
            job = history.lock(connection, job_id)
            effect = _read(connection, job, plan.name)
            if effect is not None and effect.claim_token == token:
                return Claim(effect, token, resent=resent)
            _check_plan(job, effect, plan)
            if effect is not None and effect.state is EffectState.APPLIED:
                return Claim(effect, None, applied=True)
            _check_approved(connection, job)
            assert effect is not None
            resent = effect.state in (EffectState.CLAIMED, EffectState.UNKNOWN)
            if resent and not repeatable:
                return _hold(connection, job, effect, actor)
            effect = _change(
                connection,
                job,
                effect,
                EffectEvent.CLAIM,
                attempt=effect.attempt + 1,
                claim_token=token,
                claimed_by=actor,
                error=None,
            )
            detail = {"effect": effect.name, "effect_key": effect.effect_key, "attempt": effect.attempt}
            history.move(connection, job, JobEvent.EFFECT_CLAIMED, actor=actor, detail=detail)
            return Claim(effect, token, resent=resent)

        result = self._database.transact(work, repeatable=True)
        if isinstance(result, HandoffError):
            raise result
        return result

    def ensure_approved(self, job_id: int) -> None:
        """Refuse what :meth:`claim` would refuse whatever the plan is.

        :raises JobCancelled: the job was cancelled.
        :raises JobNotApproved: nobody has approved the job, or somebody rejected it.
        """
        self._database.transact(lambda connection: _check_approved(connection, history.lock(connection, job_id)))

    def read(self, effect_id: int) -> Effect:
        """Return one effect.

        :raises EffectNotFound: there is none with this id.
        """
        return self._database.transact(lambda connection: _read_by_id(connection, effect_id))

    def complete_without_effects(self, job_id: int, *, actor: str) -> Job:
        """Complete an approved job that intends no effect. Does nothing to a job in another state."""

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            return complete_if_applied(connection, job, actor=actor) if job.state is JobState.APPROVED else job

        return self._database.transact(work)

    def confirm(self, claim: Claim, *, external_id: str | None, result: Mapping[str, Any] | None, actor: str) -> Effect:
        """Record that the target has applied the effect; the last one completes the job. Safe to repeat.

        :raises ClaimLost: another attempt took over; it, or a person, says what became of the effect.
        """

        def work(connection: LedgerConnection) -> Effect:
            job, effect = _lock_claimed(connection, claim)
            if effect.state is EffectState.APPLIED:
                return effect
            effect = _change(
                connection,
                job,
                effect,
                EffectEvent.CONFIRM,
                external_id=history.plain_or_none(external_id),
                result=None if result is None else dict(result),
                error=None,
            )
            detail = {"effect": effect.name, "external_id": external_id, "attempt": effect.attempt}
            job = history.move(connection, job, JobEvent.EFFECT_APPLIED, actor=actor, detail=detail)
            complete_if_applied(connection, job, actor=actor)
            return effect

        return self._database.persist(work)

    def release(self, claim: Claim, *, error: str, actor: str) -> Effect:
        """Record that nothing was written and that the effect may be tried again as it is.

        :raises ClaimLost: another attempt took over.
        """
        return self._end(claim, EffectEvent.RELEASE, JobEvent.EFFECT_RELEASED, error, actor)

    def refuse(self, claim: Claim, *, error: str, actor: str) -> Effect:
        """Record that the target refused the effect, which proves that nothing was written.

        :raises ClaimLost: another attempt took over.
        """
        return self._end(claim, EffectEvent.REFUSE, JobEvent.EFFECT_REFUSED, error, actor)

    def lose(self, claim: Claim, *, error: str, actor: str) -> Effect:
        """Record that the outcome is not known.

        :raises ClaimLost: another attempt took over.
        """
        return self._end(claim, EffectEvent.LOSE, JobEvent.EFFECT_UNKNOWN, error, actor)

    def _end(self, claim: Claim, event: EffectEvent, job_event: JobEvent, error: str, actor: str) -> Effect:
        def work(connection: LedgerConnection) -> Effect:
            job, effect = _lock_claimed(connection, claim)
            if effect.state is next_effect_state(EffectState.CLAIMED, event):
                return effect
            effect = _change(connection, job, effect, event, error=history.plain(error))
            reason = f"{effect.name}: {error}"
            history.move(connection, job, job_event, actor=actor, reason=reason, detail={"attempt": effect.attempt})
            return effect

        return self._database.persist(work)

    def resolve(self, effect_id: int, *, external_id: str | None, applied: bool, actor: str, why: str) -> Effect:
        """Record what a person found out about an effect whose outcome was not known.

        :param external_id: the id of the record in the target, when it was applied.
        :raises EffectNotFound: there is none with this id.
        :raises IllegalTransition: the effect is not ``unknown``.
        """

        def work(connection: LedgerConnection) -> Effect:
            job = history.lock(connection, _read_by_id(connection, effect_id).job_id)
            effect = _read_by_id(connection, effect_id)
            event = EffectEvent.RESOLVE_APPLIED if applied else EffectEvent.RESOLVE_NOT_APPLIED
            external = history.plain_or_none(external_id)
            effect = _change(connection, job, effect, event, external_id=external, claim_token=None, error=None)
            outcome = f"applied as {external_id}" if applied else "not applied"
            job = history.move(
                connection,
                job,
                JobEvent.EFFECT_RESOLVED,
                actor=actor,
                reason=f"{effect.name}: {outcome}: {why}",
                detail={"effect": effect.name, "applied": applied, "external_id": external_id},
            )
            complete_if_applied(connection, job, actor=actor)
            return effect

        return self._database.transact(work)


def complete_if_applied(connection: LedgerConnection, job: Job, *, actor: str) -> Job:
    """Complete the job when no effect of its current revision is left to apply."""
    row = connection.execute(_COUNT_UNAPPLIED, [job.job_id, job.revision]).fetchone()
    assert row is not None
    return job if row["n"] else history.move(connection, job, JobEvent.ALL_APPLIED, actor=actor)


def _read(connection: LedgerConnection, job: Job, name: str) -> Effect | None:
    row = connection.execute(_READ_EFFECT, [job.job_id, job.revision, name]).fetchone()
    return None if row is None else Effect(**row)


def _read_by_id(connection: LedgerConnection, effect_id: int) -> Effect:
    row = connection.execute(_READ_EFFECT_BY_ID, [effect_id]).fetchone()
    if row is None:
        raise EffectNotFound(
            f"the ledger has no effect {effect_id}.", remedy="`airflow aihandoff effects list` shows the ones it has."
        )
    return Effect(**row)


def _check_plan(job: Job, effect: Effect | None, plan: EffectPlan) -> None:
    """Refuse a plan that is not the approved one, byte for byte.

    A job that nobody has approved, or that has no plan yet, is left to the check after this one.
    """
    if job.review_digest is None or job.state not in (
        JobState.APPROVED,
        JobState.APPLYING,
        JobState.COMPLETED,
    ):
        return
    if effect is None:
        raise PlanNotApproved(
            f"the effect {plan.name!r} is not part of the plan that was approved.",
            job=job.label,
            written="This effect was not sent.",
            remedy="Clear the approval task of this run, so that the plan is rendered and asked about again.",
        )
    if effect.plan_digest != plan.plan_digest:
        changed = ", ".join(_differing(effect, plan)) or "a masked value"
        raise PlanNotApproved(
            f"the effect {plan.name!r} is not what was approved: {changed} differ.",
            job=job.label,
            written=(
                f"It was applied before, as it was approved (external id {effect.external_id}), and is not sent again."
                if effect.state is EffectState.APPLIED
                else f"The effect is {effect.state.value}; the changed request was not sent."
            ),
            remedy=(
                "Restore the Dag or the input that was approved; or, where nothing of the job was sent yet, clear the "
                "approval task of this run to ask for a decision on the new plan."
            ),
        )


def _differing(effect: Effect, plan: EffectPlan) -> list[str]:
    """The parts of a plan that are not as they were stored."""
    old, new = {**effect.plan, "undo": effect.undo}, {**plan.shown, "undo": plan.undo}
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _check_approved(connection: LedgerConnection, job: Job) -> None:
    """Refuse unless a decision in force approves exactly the digest that the job has now."""
    if job.state is JobState.CANCELLED:
        raise JobCancelled(
            f"it was cancelled ({job.state_reason}).", job=job.label, remedy="Nothing will be applied for it."
        )
    row = None if job.decision_id is None else connection.execute(_READ_DECISION, [job.decision_id]).fetchone()
    decision = None if row is None else Decision(**row)
    bound = job.approval == "not required" or (decision is not None and decision.digest == job.review_digest)
    if (
        job.state in (JobState.APPROVED, JobState.APPLYING)
        and job.review_digest is not None
        and decision is not None
        and decision.verdict == "approve"
        and bound
    ):
        return
    raise JobNotApproved(
        f"it is {job.state.value}, and nobody has approved what this task would write.",
        job=job.label,
        remedy="Put an ApprovalSensor before this task, or decide on the job's review page, then clear this task.",
    )


def _hold(connection: LedgerConnection, job: Job, effect: Effect, actor: str) -> EffectUnknown:
    """Give an abandoned attempt up as unknown, and build the error that asks a person."""
    if effect.state is EffectState.CLAIMED:
        error = f"attempt {effect.attempt} by {effect.claimed_by} ended without saying what became of it"
        effect = _change(connection, job, effect, EffectEvent.LOSE, claim_token=None, error=error)
        detail = {"attempt": effect.attempt}
        history.move(
            connection,
            job,
            JobEvent.EFFECT_UNKNOWN,
            actor=actor,
            reason=f"{effect.name}: {error}",
            detail=detail,
        )
    return unknown_error(job.label, effect)


def unknown_error(job: str, effect: Effect) -> EffectUnknown:
    """The error of an effect that waits for a person: what to look for, and how to say what was found."""
    return EffectUnknown(
        f"the effect {effect.name!r} may have been applied: {effect.error}.",
        job=job,
        written=f"Look in the target for the effect key {effect.effect_key}, or for the record that the plan writes.",
        remedy=(
            f"Then say what you found: `airflow aihandoff effects resolve {effect.effect_id} --applied EXTERNAL_ID` or "
            f"`... {effect.effect_id} --not-applied`, with --why; and clear this task."
        ),
        effect=effect,
    )


def _lock_claimed(connection: LedgerConnection, claim: Claim) -> tuple[Job, Effect]:
    job = history.lock(connection, claim.effect.job_id)
    row = connection.execute(_READ_EFFECT_BY_ID, [claim.effect.effect_id]).fetchone()
    effect = None if row is None else Effect(**row)  # none: the plan was replaced after the claim had ended
    if effect is None or claim.token is None or effect.claim_token != claim.token:
        raise ClaimLost(
            f"attempt {claim.effect.attempt} at the effect {claim.effect.name!r} lost its claim.",
            job=job.label,
            written="What this attempt did is not recorded; a newer attempt or a person says what is so.",
            remedy=f"See `airflow aihandoff jobs show {job.job_id}`.",
        )
    return job, effect


def _change(connection: LedgerConnection, job: Job, effect: Effect, event: EffectEvent, **changes: Any) -> Effect:
    state = next_effect_state(effect.state, event)
    if state is None:
        raise IllegalTransition(
            f"the event {event.value!r} is not valid for the effect {effect.name!r} in the state "
            f"{effect.state.value!r}.",
            job=job.label,
            written="This step wrote nothing outside.",
            remedy=f"See `airflow aihandoff effects show {effect.effect_id}`.",
        )
    values = {**vars(effect), **changes, "state": state, "claimed": event is EffectEvent.CLAIM}
    values["result"] = None if values["result"] is None else as_json(values["result"])
    row = connection.execute(_UPDATE_EFFECT, values).fetchone()
    assert row is not None
    return Effect(**row)
