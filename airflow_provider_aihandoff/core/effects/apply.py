"""The apply protocol's outer half: claim, send once, record; find out what became of an attempt that said nothing."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import timedelta

from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.effects.effect_store import Claim, unknown_error
from airflow_provider_aihandoff.core.effects.target import Applied, NotApplied, Target
from airflow_provider_aihandoff.core.errors import ClaimLost, EffectBusy, EffectNotNow, EffectRefused, EffectUnknown
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, EffectPlan

log = logging.getLogger(__name__)

#: Seconds within which a claim's call must begin. The claim lasts for these and for as long as the call may take.
CLAIM_MARGIN = 10.0

#: The longest that a target is left alone because it asked for it with ``Retry-After``, in seconds, and how many times
#: in a row; after that, it is Airflow's retries that go on.
RETRY_AFTER_LIMIT = 900.0
RETRY_AFTER_TIMES = 8

#: Seconds between two looks of a probe that sees nothing yet: they double.
_PROBE_BASE, _PROBE_CAP = 1.0, 30.0


@dataclass(frozen=True)
class Wait:
    """Nothing can be done now.

    :param effect: the effect, as the ledger has it.
    :param seconds: when to try again; None: when somebody has said what became of the effect.
    :param why: what is waited for, as a sentence.
    :param not_now: how many times in a row the target has asked to come back later.
    """

    effect: Effect
    seconds: float | None
    why: str
    not_now: int = 0


class Suspended(ClaimLost):
    """This process stood still between the claim and the call, for so long that another attempt may hold the claim."""


def apply_effect(  # noqa: C901 - the protocol, in one place
    ledger: Ledger,
    job_id: int,
    plan: EffectPlan,
    target: Target,
    *,
    actor: Actor,
    not_now: int = 0,
    last_try: bool = False,
) -> Effect | Wait:
    """Write one effect of a job, unless it is written, and record what became of it.

    What is not known goes this way: the probe is asked, over the target's grace time; then it is sent again, if the
    target takes the same key again; then it waits for a person.

    :param not_now: of the :class:`Wait` that this call comes after.
    :param last_try: nobody calls again after an error, so that what is not known waits for a person at once.
    :return: the effect, applied; or what to wait for before calling again.
    :raises EffectRefused: the target refused it, nothing was written.
    :raises EffectNotNow: nothing was written, and a retry is safe.
    :raises EffectUnknown: it may have been written, and a retry may send it again with the same key.
    :raises ClaimLost: another attempt took over.
    :raises HandoffError: what :meth:`ledger.effects.Effects.claim` raises.
    """
    resend, lost_here = False, False
    while True:
        asked = _clock()
        lease = timedelta(seconds=target.call_seconds + CLAIM_MARGIN)
        try:
            claim = ledger.effects.claim(job_id, plan, lease=lease, actor=actor, resend=resend)
        except EffectBusy as busy:
            return Wait(busy.effect, busy.seconds, str(busy))
        except EffectUnknown as unknown:
            wait = _look(ledger, plan, target, unknown, actor)
            if wait is None:
                continue
            if resend or lost_here or not target.idempotent:
                return wait
            resend = True
            continue
        if claim.applied:
            return claim.effect
        try:
            applied = _send(ledger, claim, plan, target, asked, actor)
        except EffectNotNow as error:
            if error.retry_after is None or not_now >= RETRY_AFTER_TIMES:
                raise
            seconds = min(error.retry_after, RETRY_AFTER_LIMIT)
            return Wait(ledger.effects.read(claim.effect.effect_id), seconds, str(error), not_now + 1)
        except EffectUnknown:
            if target.idempotent and not last_try:
                raise
            resend, lost_here = False, True
            continue
        return ledger.effects.confirm(claim, external_id=applied.external_id, result=applied.result, actor=actor)


def _send(ledger: Ledger, claim: Claim, plan: EffectPlan, target: Target, asked: float, actor: Actor) -> Applied:
    """Send, and record a failure as what it is before it is raised."""
    name, key = claim.effect.name, claim.effect.effect_key
    log.info("Sending effect %r, attempt %d, key %s.", name, claim.effect.attempt, key)
    reached("apply.send", "before call")
    try:
        _check_fence(claim, asked)
        applied = target.apply(plan.plan, key)
    except (EffectRefused, EffectNotNow, Suspended) as error:
        if claim.resent:
            # What this attempt proves, it proves for itself only: an earlier one may have been applied.
            effect = ledger.effects.lose(claim, error=f"an earlier attempt was lost, this one: {error}", actor=actor)
            if isinstance(error, EffectNotNow) and error.retry_after is not None:
                raise
            raise unknown_error(f"job {effect.job_id}", effect) from error
        if isinstance(error, EffectRefused):
            if (claim.effect.attempt > 1 or error.by_precondition) and target.can_probe:
                found = _look_for_own(plan, target, claim.effect)
                if isinstance(found, Applied):
                    return found
                if found is None:
                    why = f"it may itself be what refuses it: {error}"
                    effect = ledger.effects.lose(claim, error=why, actor=actor)
                    raise unknown_error(f"job {effect.job_id}", effect) from error
            ledger.effects.refuse(claim, error=str(error), actor=actor)
        else:
            ledger.effects.release(claim, error=str(error), actor=actor)
        raise
    except Exception as error:
        effect = ledger.effects.lose(claim, error=f"{type(error).__name__}: {error}", actor=actor)
        raise unknown_error(f"job {effect.job_id}", effect) from error
    reached("apply.send", "after call")
    return applied


def _check_fence(claim: Claim, asked: float) -> None:
    """Refuse to send once the claim may have been taken over: this process was stopped, or its machine was.

    No look at the ledger is newer than the clock: what holds a process up after it would hold it up as well.
    """
    stood = _clock() - asked
    if stood >= CLAIM_MARGIN:
        raise Suspended(
            f"this attempt stood still for {stood:.0f} s between its claim and its call, so that another one may have "
            f"taken the effect {claim.effect.name!r} over.",
            written="This attempt sent nothing.",
            remedy="A retry is safe.",
        )


def _look(ledger: Ledger, plan: EffectPlan, target: Target, unknown: EffectUnknown, actor: Actor) -> Wait | None:
    """Find out what became of an attempt that ended without a word. None once that is on the record."""
    effect = unknown.effect
    if not target.can_probe:
        return Wait(effect, None, str(unknown))
    seconds = ledger.effects.seconds_unknown(effect.effect_id)
    found = _probe(plan, target, effect)
    if isinstance(found, Applied) or (isinstance(found, NotApplied) and seconds >= target.grace_seconds):
        applied = isinstance(found, Applied)
        ledger.effects.resolve(
            effect.effect_id,
            applied=applied,
            external_id=found.external_id if isinstance(found, Applied) else None,
            actor=actor,
            why="the probe found the write" if applied else "the probe sees no trace of the write",
            attempt=effect.attempt,
        )
        return None
    left = target.grace_seconds - seconds
    if left <= 0:
        return Wait(effect, None, str(unknown))
    looks = int(seconds).bit_length() + 1
    pause = min(backoff(looks, base=_PROBE_BASE, cap=_PROBE_CAP), left)
    return Wait(effect, pause, f"The probe sees nothing of the effect {effect.name!r} yet. {unknown}")


def _look_for_own(plan: EffectPlan, target: Target, effect: Effect) -> Applied | NotApplied | None:
    """Find out whether what makes the target refuse is this effect's own write: one that came late, or twice.

    It is looked for over the grace time, here and now. The refusal counts where nothing is seen until then.
    """
    until, looks = _clock() + target.grace_seconds, 0
    while True:
        found = _probe(plan, target, effect)
        left = until - _clock()
        if isinstance(found, Applied) or left <= 0:
            return found
        looks += 1
        time.sleep(min(backoff(looks, base=_PROBE_BASE, cap=_PROBE_CAP), left))


def _probe(plan: EffectPlan, target: Target, effect: Effect) -> Applied | NotApplied | None:
    reached("probe.send", "before call")
    try:
        found = target.probe(plan.plan, effect.effect_key)
    except Exception as error:  # noqa: BLE001 - whatever went wrong, it found nothing out
        log.warning("The probe of the effect %r failed: %s: %s", effect.name, type(error).__name__, error)
        found = None
    reached("probe.send", "after call")
    return found


def _clock() -> float:
    """Seconds, also while the machine sleeps, where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
