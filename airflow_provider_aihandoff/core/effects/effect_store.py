"""The apply protocol: claim (commit) → send → confirm. A write happens at most once, and is never dropped silently.

Every function is one short transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Protocol
from uuid import UUID, uuid4

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.admission.admit import admit_write
from airflow_provider_aihandoff.core.admission.hold import Hold
from airflow_provider_aihandoff.core.admission.hold_store import hold_write
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, Keep, LedgerConnection
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.effects.filled import values_of
from airflow_provider_aihandoff.core.effects.plan_store import (
    change_effect,
    current_effects,
    find_effect,
    find_effect_by_id,
    is_element,
    progress,
    read_effect,
    settle,
)
from airflow_provider_aihandoff.core.errors import (
    ClaimLost,
    EffectBusy,
    EffectHeld,
    EffectOutOfOrder,
    EffectUnknown,
    HandoffError,
    JobCancelled,
    JobNotApproved,
    JobRolledBack,
    PlanNotApproved,
)
from airflow_provider_aihandoff.core.models import Actor, Decision, Effect, EffectPlan, Job, columns
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind
from airflow_provider_aihandoff.core.rates.rate_store import connection_of
from airflow_provider_aihandoff.core.rates.slowdown import Heard
from airflow_provider_aihandoff.core.rates.slowdown_store import hear
from airflow_provider_aihandoff.core.states import (
    SETTLED_EFFECT_STATES,
    EffectEvent,
    EffectState,
    JobEvent,
    JobState,
    next_effect_state,
)
from airflow_provider_aihandoff.core.text import plain, plain_or_none

_READ_DECISION = f"SELECT {columns(Decision)} FROM aihandoff.decisions WHERE decision_id = %s"

_NOTE_PROBE = """
    UPDATE aihandoff.effects SET probe_note = %(note)s, updated_at = clock_timestamp()
    WHERE effect_id = %(effect_id)s"""

#: States of a job in which its plan is decided, and an effect may ask for its claim.
_DECIDED = frozenset({JobState.APPROVED, JobState.APPLYING, JobState.COMPLETED})
_ROLLED_BACK = frozenset({JobState.ROLLING_BACK, JobState.ROLLED_BACK})


@dataclass(frozen=True)
class Claim:
    """The permission to send one effect.

    :param token: fencing token; the outcome of the attempt is recorded only while it is the newest.
    :param applied: the effect is applied already: there is nothing to send, and no token.
    :param skipped: it is not part of the plan that was approved: there is nothing to send, and no token.
    :param resent: an earlier attempt may have been applied, and this one sends the same key again.
    :param unfilled: why the plan cannot be sent, as a sentence: a placeholder in it that names an earlier effect has no
        value.
    """

    effect: Effect
    token: UUID | None
    applied: bool = False
    resent: bool = False
    skipped: bool = False
    unfilled: str | None = None


class WriteSteps(Protocol):
    """The two transactions that each effect needs which is applied: those of :class:`Effects`, or what has them done
    together with those of other jobs."""

    def claim(self, job_id: int, plan: EffectPlan, *, lease: timedelta, actor: Actor, resends: int = ...) -> Claim:
        """As :meth:`Effects.claim`."""

    def confirm(
        self,
        claim: Claim,
        *,
        external_id: str | None,
        result: Mapping[str, Any] | None,
        actor: Actor,
        own: bool = ...,
        keep: Keep | None = ...,
    ) -> Effect:
        """As :meth:`Effects.confirm`."""


class Effects:
    """The steps from an approved plan to a confirmed write, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(  # noqa: C901 - the protocol, in one place
        self, job_id: int, plan: EffectPlan, *, lease: timedelta, actor: Actor, resends: int = 0
    ) -> Claim:
        """Get the one permission to send an effect, if it is exactly what was approved.

        No one else gets it before it has ended: its owner records the outcome of the write, or its lease expires.

        :param plan: what the caller is about to send.
        :param lease: how long the permission is valid: longer than the write may take.
        :param resends: how often an effect that may have been applied may be sent again in all, with the same key: for
            a target that takes it without writing twice. Each one is counted.
        :raises JobCancelled: the job was cancelled, or is being cancelled.
        :raises JobNotApproved: no one has approved the job, it was rejected, or it has completed without this effect.
        :raises JobRolledBack: the job was rolled back, or is being rolled back.
        :raises PlanNotApproved: the plan is not the one that was approved.
        :raises EffectOutOfOrder: an effect that must come before this one is not applied.
        :raises EffectBusy: another attempt has the permission.
        :raises EffectHeld: a pause or a limit keeps it from being sent now.
        :raises EffectUnknown: an earlier attempt may have been applied, and it may not be sent again.
        """

        token, resent, unfilled = uuid4(), False, None

        def work(connection: LedgerConnection) -> Claim | HandoffError:  # noqa: C901
            nonlocal resent, unfilled
            job = history.lock(connection, job_id)
            effect = find_effect(connection, job, plan.name)
            if effect is not None and effect.claim_token == token:
                return Claim(effect, token, resent=resent, unfilled=unfilled)
            own = effect is None or effect.undoes is None
            if own:
                _check_rolled_back(job)
            _check_plan(job, effect, plan)
            if nothing_to_send := _nothing_to_send(job, effect, plan):
                return nothing_to_send
            if own:
                _check_approved(connection, job)
            assert effect is not None
            if effect.state is EffectState.CLAIMED:
                left = _seconds_left(connection, effect)
                if left > 0:
                    return _busy(job, effect, left)
                job, effect = _give_up(connection, job, effect, actor)
            if effect.state is EffectState.UNKNOWN:
                if effect.resends >= resends or job.cancelling is not None:
                    return unknown_error(job.label, effect)
                resent = True
            elif job.cancelling is not None:
                return _cancelled(job, job.cancelling)
            _check_order(connection, job, effect)
            filled, unfilled = _filled(connection, job, effect, plan)
            permit = partial(
                _claim, connection, job, effect, plan, actor, token=token, lease=lease, resent=resent, filled=filled
            )
            # A roll-back is a person's own step, and may undo what the pause is about.
            admitted = admit_write(connection, job, effect, plan, permit) if own else permit()
            if isinstance(admitted, Hold):
                effect = hold_write(connection, job, effect, admitted, actor=actor)
                return _held(connection, job, effect, admitted)
            return Claim(admitted, token, resent=resent, unfilled=unfilled)

        return self._database.transact(work, repeatable=True, step="apply.claim")

    def ensure_approved(self, job_id: int) -> None:
        """Refuse what :meth:`claim` would refuse for every plan.

        :raises JobCancelled: the job was cancelled.
        :raises JobNotApproved: no one has approved the job, or it was rejected.
        :raises JobRolledBack: the job was rolled back, or is being rolled back.
        """

        def work(connection: LedgerConnection) -> None:
            job = history.lock(connection, job_id)
            _check_rolled_back(job)
            _check_approved(connection, job)

        self._database.transact(work)

    def read(self, effect_id: int) -> Effect:
        """Return one effect.

        :raises EffectNotFound: there is none with this id.
        """
        return self._database.transact(lambda connection: read_effect(connection, effect_id))

    def seconds_unknown(self, effect_id: int) -> float:
        """For how long the outcome of an effect has not been known, by the database's clock; 0 where it is known.

        :raises EffectNotFound: there is none with this id.
        """

        def work(connection: LedgerConnection) -> float:
            effect = read_effect(connection, effect_id)
            if effect.state is not EffectState.UNKNOWN or effect.unknown_since is None:
                return 0.0
            return (history.now(connection) - effect.unknown_since).total_seconds()

        return self._database.transact(work)

    def complete_without_effects(self, job_id: int, *, actor: Actor) -> Job:
        """Complete an approved job that intends no effect. Does nothing to a job in another state."""

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, job_id)
            return settle(connection, job, actor=actor) if job.state is JobState.APPROVED else job

        return self._database.transact(work, step="apply.complete")

    def confirm(
        self,
        claim: Claim,
        *,
        external_id: str | None,
        result: Mapping[str, Any] | None,
        actor: Actor,
        own: bool = True,
        keep: Keep | None = None,
    ) -> Effect:
        """Record that the target has applied the effect; the last one completes the job. Safe to repeat.

        :param own: this effect wrote it; otherwise it was there before.
        :param keep: as in :meth:`Database.persist`.
        :raises ClaimLost: another attempt took over; it, or a person, records the outcome of the effect.
        """

        def work(connection: LedgerConnection) -> Effect:
            job, effect = _lock_claimed(connection, claim)
            if effect.state is EffectState.APPLIED:
                return effect
            effect = change_effect(
                connection,
                job,
                effect,
                EffectEvent.CONFIRM,
                external_id=plain_or_none(external_id),
                result=None if result is None else dict(result),
                own=own,
                error=None,
            )
            detail = {"effect": effect.name, "external_id": external_id, "attempt": effect.attempt}
            reason = _progress(connection, job) + ("" if own else f"; {effect.name} was there before")
            job = history.move(connection, job, JobEvent.EFFECT_APPLIED, actor=actor, reason=reason, detail=detail)
            settle(connection, job, actor=actor)
            return effect

        return self._database.persist(work, step="apply.confirm", keep=keep)

    def release(
        self, claim: Claim, *, error: str, actor: Actor, heard: Heard | None = None, keep: Keep | None = None
    ) -> Effect:
        """Record that no external write was made, and that the effect may be tried again as it is.

        :param heard: what the target says about its limits of speed: all writes to it keep to it at once.
        :raises ClaimLost: another attempt took over.
        """
        return self._end(
            claim, EffectEvent.RELEASE, JobEvent.EFFECT_RELEASED, error, actor, "apply.release", keep, heard=heard
        )

    def refuse(self, claim: Claim, *, error: str, actor: Actor, keep: Keep | None = None) -> Effect:
        """Record that the target refused the effect, which proves that no external write was made.

        :raises ClaimLost: another attempt took over.
        """
        return self._end(claim, EffectEvent.REFUSE, JobEvent.EFFECT_REFUSED, error, actor, "apply.refuse", keep)

    def lose(
        self,
        claim: Claim,
        *,
        error: str,
        actor: Actor,
        not_now: bool = False,
        confirmed: Mapping[str, Any] | None = None,
        heard: Heard | None = None,
        keep: Keep | None = None,
    ) -> Effect:
        """Record that the outcome is not known.

        :param not_now: the target asked to come back later. To send it again then is not counted.
        :param confirmed: the target has confirmed it with this result, and the probe sees no trace of it. It is never
            sent again without a person.
        :param heard: as in :meth:`release`.
        :raises ClaimLost: another attempt took over.
        """

        def changes(effect: Effect) -> dict[str, Any]:
            return {
                "not_now": not_now,
                "resends": effect.resends - (not_now and claim.resent),
                "result": effect.result if confirmed is None else dict(confirmed),
            }

        return self._end(
            claim, EffectEvent.LOSE, JobEvent.EFFECT_UNKNOWN, error, actor, "apply.lose", keep, changes, heard=heard
        )

    def _end(
        self,
        claim: Claim,
        event: EffectEvent,
        job_event: JobEvent,
        error: str,
        actor: Actor,
        step: str,
        keep: Keep | None,
        changes: Callable[[Effect], dict[str, Any]] = lambda effect: {},
        heard: Heard | None = None,
    ) -> Effect:
        def work(connection: LedgerConnection) -> Effect:
            job, effect = _lock_claimed(connection, claim)
            if effect.state is next_effect_state(EffectState.CLAIMED, event):
                return effect
            effect = change_effect(connection, job, effect, event, error=plain(error), **changes(effect))
            if (conn_id := connection_of(effect)) is not None:
                hear(connection, LimitKind.TARGET, conn_id, heard)
            detail = {"effect": effect.name, "attempt": effect.attempt}
            reason = f"{_progress(connection, job)}; {effect.name}: {error}"
            job = history.move(connection, job, job_event, actor=actor, reason=reason, detail=detail)
            settle(connection, job, actor=actor)
            return effect

        return self._database.persist(work, step=step, keep=keep)

    def skip(self, effect_id: int, *, actor: Actor, reason: str) -> Effect:
        """Record that the task of a planned effect was skipped, so that the job can end without it.

        Does nothing where the effect is not planned, or the job is not approved. A task that runs after all, before
        the job has completed, still applies the effect.

        :raises EffectNotFound: there is none with this id.
        """

        def work(connection: LedgerConnection) -> Effect:
            job = history.lock(connection, read_effect(connection, effect_id).job_id)
            effect = read_effect(connection, effect_id)
            approved = job.state in (JobState.APPROVED, JobState.APPLYING) and effect.revision == job.revision
            if effect.state is not EffectState.PLANNED or not approved or effect.undoes is not None:
                return effect
            effect = change_effect(connection, job, effect, EffectEvent.SKIP)
            why = f"{_progress(connection, job)}; {effect.name}: {reason}"
            detail = {"effect": effect.name}
            job = history.move(connection, job, JobEvent.EFFECT_SKIPPED, actor=actor, reason=why, detail=detail)
            settle(connection, job, actor=actor)
            return effect

        return self._database.transact(work, step="apply.skip")

    def give_up(self, effect_id: int, *, actor: Actor) -> Effect:
        """Record as unknown the outcome of an attempt that recorded none before its claim expired.

        Does nothing if the outcome is known, or the claim has not expired.

        :raises EffectNotFound: there is none with this id.
        """

        def work(connection: LedgerConnection) -> Effect:
            job = history.lock(connection, read_effect(connection, effect_id).job_id)
            effect = read_effect(connection, effect_id)
            if effect.state is EffectState.CLAIMED and _seconds_left(connection, effect) <= 0:
                _, effect = _give_up(connection, job, effect, actor)
            return effect

        return self._database.transact(work, step="apply.lose")

    def resolve(
        self,
        effect_id: int,
        *,
        external_id: str | None,
        applied: bool,
        actor: Actor,
        why: str,
        own: bool = True,
        attempt: int | None = None,
        resends: int = 0,
    ) -> Effect:
        """Record what a probe or a person found about an effect whose outcome was unknown, or which was refused.

        A task that waits for it continues automatically. That a refused one was not applied is known.

        :param external_id: the id of the record in the target, when it was applied.
        :param own: this effect wrote it; otherwise it was there before.
        :param attempt: the attempt that was checked; does nothing if there was a newer attempt since.
        :param resends: how often it was sent again after an unknown outcome, with what follows now. 0: a person
            has resolved it, and the count begins again.
        :raises EffectNotFound: there is none with this id.
        :raises IllegalTransition: the effect is neither ``unknown`` nor, where it was applied, ``refused``.
        """

        def work(connection: LedgerConnection) -> Effect:
            job = history.lock(connection, read_effect(connection, effect_id).job_id)
            effect = read_effect(connection, effect_id)
            if attempt is not None and (effect.attempt != attempt or effect.state not in _can_resolve(applied)):
                return effect
            event = EffectEvent.RESOLVE_APPLIED if applied else EffectEvent.RESOLVE_NOT_APPLIED
            effect = change_effect(
                connection,
                job,
                effect,
                event,
                external_id=plain_or_none(external_id),
                result=effect.result if applied else None,
                own=own,
                claim_token=None,
                resends=resends,
                error=None,
            )
            outcome = ("applied" + (f" as {external_id}" if external_id else "")) if applied else "not applied"
            job = history.move(
                connection,
                job,
                JobEvent.EFFECT_RESOLVED,
                actor=actor,
                reason=f"{effect.name}: {outcome}: {why}",
                detail={
                    "effect": effect.name,
                    "effect_key": effect.effect_key,
                    "attempt": effect.attempt,
                    "applied": applied,
                    "external_id": external_id,
                },
            )
            settle(connection, job, actor=actor)
            return effect

        return self._database.transact(work, step="apply.resolve")

    def note_probe(self, effect_id: int, note: str) -> Effect:
        """Keep what the probe of an effect saw that a person should know.

        :raises EffectNotFound: there is none with this id.
        """

        def work(connection: LedgerConnection) -> Effect:
            connection.execute(_NOTE_PROBE, {"effect_id": effect_id, "note": plain(note)})
            return read_effect(connection, effect_id)

        return self._database.transact(work, repeatable=True)


def _claim(
    connection: LedgerConnection,
    job: Job,
    effect: Effect,
    plan: EffectPlan,
    actor: Actor,
    *,
    token: UUID,
    lease: timedelta,
    resent: bool,
    filled: dict[str, str] | None,
) -> Effect:
    """Write down the permission to send an effect."""
    effect = change_effect(
        connection,
        job,
        effect,
        EffectEvent.CLAIM,
        attempt=effect.attempt + 1,
        claim_token=token,
        claimed_by=str(actor),
        lease=lease,
        rate_key=plan.rate_key,
        conn_id=connection_of(effect),
        resends=effect.resends + resent,
        not_now=False,
        error=None,
        filled=filled,
        external_url=plan.external_url,
    )
    detail = {"effect": effect.name, "effect_key": effect.effect_key, "attempt": effect.attempt}
    detail |= {"filled_digest": digest(filled)} if filled else {}
    history.move(connection, job, JobEvent.EFFECT_CLAIMED, actor=actor, detail=detail)
    connection.count(signals.RETRIES, int(effect.attempt > 1), what="effect")
    return effect


def _filled(
    connection: LedgerConnection, job: Job, effect: Effect, plan: EffectPlan
) -> tuple[dict[str, str] | None, str | None]:
    """What earlier effects have brought, by the placeholders of a plan; and why some of it is missing, as a sentence.

    An attempt after one that may have been applied sends the same as that one.
    """
    names = {*plan.names, *plan.other_names}
    if not names or (effect.state is EffectState.UNKNOWN and effect.filled is not None):
        return effect.filled, None
    values, missing = values_of(names, current_effects(connection, job))
    if not missing:
        return values, None
    return None, f"the effect {effect.name!r} cannot be sent: {'; '.join(missing)}."


def _held(connection: LedgerConnection, job: Job, effect: Effect, hold: Hold) -> EffectHeld:
    seconds = None if hold.until is None else max(0.0, (hold.until - history.now(connection)).total_seconds())
    before = "an earlier attempt may have" if effect.state is EffectState.UNKNOWN else "no earlier one has"
    return EffectHeld(
        f"the effect {effect.name!r} is held: {hold.why}",
        effect=effect,
        seconds=seconds,
        job=job.label,
        written=f"This attempt made no external write, and {before}.",
        remedy="The task waits, and continues when what holds it ends.",
    )


def _can_resolve(applied: bool) -> frozenset[EffectState]:
    """The states in which it can be said that an effect was applied, or was not."""
    return frozenset({EffectState.UNKNOWN, EffectState.REFUSED} if applied else {EffectState.UNKNOWN})


def _nothing_to_send(job: Job, effect: Effect | None, plan: EffectPlan) -> Claim | None:
    """The claim without a permission, where there is nothing to send; None where there is."""
    if effect is not None and effect.state is EffectState.APPLIED:
        return Claim(effect, None, applied=True)
    if effect is not None and plan.skipped and job.state in _DECIDED:
        return Claim(effect, None, skipped=True)
    return None


def _progress(connection: LedgerConnection, job: Job) -> str:
    effects = current_effects(connection, job)
    if job.state is not JobState.ROLLING_BACK:
        return progress(effects)
    undos = [effect for effect in effects if effect.undoes is not None]
    return f"{sum(undo.state is EffectState.APPLIED for undo in undos)} of {len(undos)} effects undone"


def _check_plan(job: Job, effect: Effect | None, plan: EffectPlan) -> None:
    """Refuse a plan that is not the approved one, byte for byte.

    A job that no one has approved, or that has no plan yet, is left to the check after this one.
    """
    if effect is not None and effect.undoes is not None:
        if effect.plan_digest != plan.plan_digest:
            raise PlanNotApproved(
                f"the effect {plan.name!r} is not the undo that was planned.",
                job=job.label,
                written="This attempt made no external write.",
            )
        return
    if job.review_digest is None or job.state not in _DECIDED:
        return
    if effect is None:
        raise PlanNotApproved(
            f"the effect {plan.name!r} is not part of the plan that was approved.",
            job=job.label,
            written="This attempt made no external write.",
            remedy="Clear the approval task of this run, so that the plan is rendered and reviewed again.",
        )
    if effect.plan_digest != plan.plan_digest:
        changed = ", ".join(_differing(effect, plan)) or "a masked value"
        raise PlanNotApproved(
            f"the effect {plan.name!r} is not what was approved. Changed: {changed}.",
            job=job.label,
            written=(
                f"It was applied before, as approved (external id {effect.external_id}), and is not sent again."
                if effect.state is EffectState.APPLIED
                else f"The effect is {effect.state.value}. No external write was made with the changed request."
            ),
            remedy=(
                "Restore the Dag or the input that was approved; or, if nothing of the job was sent yet, clear the "
                "approval task of this run to ask for a decision on the new plan."
            ),
        )
    if effect.state is EffectState.SKIPPED and job.state is JobState.COMPLETED and not plan.skipped:
        raise JobNotApproved(
            f"Airflow skipped the task of the effect {effect.name!r}, and the job has completed without it.",
            job=job.label,
            written="This attempt made no external write.",
            remedy='To write it after all, run the Dag with the conf {"regenerate": true}: that asks the model again.',
        )


def _differing(effect: Effect, plan: EffectPlan) -> list[str]:
    """The parts of a plan that are not as they were stored."""
    old = {**effect.plan, "undo": effect.undo, "after": list(effect.after_effects)}
    new = {**plan.shown, "undo": plan.undo, "after": list(plan.after)}
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _check_approved(connection: LedgerConnection, job: Job) -> None:
    """Refuse unless a decision in force approves exactly the digest that the job has now."""
    if job.state is JobState.CANCELLED:
        raise _cancelled(job, job.state_reason)
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
        f"it is {job.state.value}, and no one has approved what this task would write.",
        job=job.label,
        remedy="Put an ApprovalSensor before this task, or decide on the job's review page, then clear this task.",
    )


def _check_rolled_back(job: Job) -> None:
    if job.state in _ROLLED_BACK:
        raise JobRolledBack(
            f"it is {job.state.value.replace('_', ' ')} ({job.state_reason}).",
            job=job.label,
            written="Its earlier external writes were undone, or are being undone. No external write was made now.",
            remedy='To write again, run the Dag with the conf {"regenerate": true}: that asks the model again.',
        )


def _cancelled(job: Job, reason: str | None) -> JobCancelled:
    return JobCancelled(
        f"it was cancelled ({reason}).",
        job=job.label,
        written="This attempt made no external write.",
        remedy="What was applied before can be rolled back: "
        f"`airflow aihandoff rollback {job.job_id}`. No other effect of this job will be applied.",
    )


def _check_order(connection: LedgerConnection, job: Job, effect: Effect) -> None:
    """Refuse an effect if one that must be applied before it is not applied."""
    if not effect.after_effects:
        return
    others = current_effects(connection, job)
    missing = []
    for name in effect.after_effects:
        before = [other for other in others if other.name == name or is_element(other.name, of=name)]
        open_ones = [other for other in before if other.state not in SETTLED_EFFECT_STATES]
        missing += [f"{other.name!r}, which is {other.state.value}" for other in open_ones]
        missing += [] if before else [f"{name!r}, which is not planned"]
    if missing:
        raise EffectOutOfOrder(
            f"the effect {effect.name!r} comes after {' and '.join(missing)}.",
            job=job.label,
            written="This attempt made no external write.",
            remedy="Apply the effects before it first: clear their tasks, then this one.",
        )


def _seconds_left(connection: LedgerConnection, effect: Effect) -> float:
    """How long the claim of an effect lasts."""
    assert effect.claim_until is not None
    return (effect.claim_until - history.now(connection)).total_seconds()


def _busy(job: Job, effect: Effect, seconds: float) -> EffectBusy:
    return EffectBusy(
        f"attempt {effect.attempt} at the effect {effect.name!r}, by {effect.claimed_by}, may be sending it right now.",
        effect=effect,
        seconds=seconds,
        job=job.label,
        written="This attempt made no external write.",
        remedy=f"If that attempt has died, its claim expires in {seconds:.0f} s; then this task continues.",
    )


def _give_up(connection: LedgerConnection, job: Job, effect: Effect, actor: Actor) -> tuple[Job, Effect]:
    """Give up an attempt whose claim expired without an outcome: from now on it can no longer record one."""
    error = f"attempt {effect.attempt} by {effect.claimed_by} ended without an outcome"
    effect = change_effect(connection, job, effect, EffectEvent.LOSE, claim_token=None, error=error)
    connection.count(signals.CLAIMS_EXPIRED, target=effect.kind)
    detail = {"effect": effect.name, "attempt": effect.attempt}
    reason = f"{_progress(connection, job)}; {effect.name}: {error}"
    return history.move(connection, job, JobEvent.EFFECT_UNKNOWN, actor=actor, reason=reason, detail=detail), effect


def unknown_error(job: str, effect: Effect) -> EffectUnknown:
    """The error of an effect that waits for a person: what to search for, and how to record what was found."""
    return EffectUnknown(
        f"the effect {effect.name!r} may have been applied: {(effect.error or '').rstrip('.')}.",
        job=job,
        written=f"Search the target for the effect key {effect.effect_key}, or for the record that the plan writes.",
        remedy=(
            f"Then record what you found, on the job's page or with `airflow aihandoff effects resolve "
            f"{effect.effect_id} --applied EXTERNAL_ID` or `... {effect.effect_id} --not-applied`, with --reason. A "
            "task that waits for it continues automatically; a task that has failed continues when it is cleared."
        ),
        effect=effect,
    )


def _lock_claimed(connection: LedgerConnection, claim: Claim) -> tuple[Job, Effect]:
    job = history.lock(connection, claim.effect.job_id)
    effect = find_effect_by_id(connection, claim.effect.effect_id)
    # None: the plan was replaced after the claim had ended.
    if effect is None or claim.token is None or effect.claim_token != claim.token:
        raise ClaimLost(
            f"attempt {claim.effect.attempt} at the effect {claim.effect.name!r} lost its claim.",
            job=job.label,
            written="The outcome of this attempt was not recorded; a newer attempt or a person records it.",
            remedy=f"See `airflow aihandoff jobs show {job.job_id}`.",
        )
    return job, effect
