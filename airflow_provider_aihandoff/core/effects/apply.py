"""The apply protocol's outer half: claim, send once, record; find the outcome of an attempt that recorded none."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import timedelta

from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.effects.effect_store import Claim, unknown_error
from airflow_provider_aihandoff.core.effects.target import Applied, NotApplied, Target, UnclearAnswer
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

#: Seconds between two calls of a probe that finds nothing yet: they double.
_PROBE_BASE, _PROBE_CAP = 1.0, 30.0


@dataclass(frozen=True)
class Wait:
    """Nothing can be done now.

    :param effect: the effect, as the ledger has it.
    :param seconds: when to try again; None: when a person has resolved the effect.
    :param why: what is waited for, as a sentence.
    :param not_now: how many times in a row the target has asked to come back later.
    """

    effect: Effect
    seconds: float | None
    why: str
    not_now: int = 0


class Suspended(ClaimLost):
    """This process was paused between the claim and the call, so long that another attempt may have the claim."""


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
    """Write one effect of a job, unless it is written, and record the outcome.

    An unknown outcome goes this way: the target is probed, over its grace time; then it is sent again, if the
    target takes the same key again; then it waits for a person.

    :param not_now: of the :class:`Wait` that this call comes after.
    :param last_try: no one calls again after an error, so that an unknown outcome waits for a person at once.
    :return: the effect, applied, or skipped where the plan leaves it out; or what to wait for before calling again.
    :raises EffectRefused: the target refused it; no external write was made.
    :raises EffectNotNow: no external write was made, and a retry is safe.
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
            wait = _find_outcome(ledger, plan, target, unknown, actor)
            if wait is None:
                continue
            if resend or lost_here or not target.idempotent:
                return wait
            resend = True
            continue
        if claim.applied or claim.skipped:
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
    """Send, and record a failure by its kind before it is raised."""
    name, key = claim.effect.name, claim.effect.effect_key
    log.info("Sending effect %r, attempt %d, key %s.", name, claim.effect.attempt, key)
    reached("apply.send", "before call")
    try:
        _check_fence(claim, asked)
        applied = target.apply(plan.plan, key)
    except (EffectRefused, EffectNotNow, Suspended) as error:
        if claim.resent:
            # What this attempt proves, it proves for itself only: an earlier one may have been applied.
            effect = ledger.effects.lose(
                claim, error=f"an earlier attempt was lost; this attempt: {error}", actor=actor
            )
            if isinstance(error, EffectNotNow) and error.retry_after is not None:
                raise
            raise unknown_error(f"job {effect.job_id}", effect) from error
        if isinstance(error, EffectRefused):
            if (claim.effect.attempt > 1 or error.by_precondition) and target.can_probe:
                found = _probe_for_own_write(plan, target, claim.effect)
                if isinstance(found, Applied):
                    return found
                if found is None:
                    why = f"the target may refuse it because the write is already there: {error}"
                    effect = ledger.effects.lose(claim, error=why, actor=actor)
                    raise unknown_error(f"job {effect.job_id}", effect) from error
            ledger.effects.refuse(claim, error=str(error), actor=actor)
        else:
            ledger.effects.release(claim, error=str(error), actor=actor)
        raise
    except Exception as error:
        said = str(error) if isinstance(error, UnclearAnswer) else f"{type(error).__name__}: {error}"
        effect = ledger.effects.lose(claim, error=said, actor=actor)
        raise unknown_error(f"job {effect.job_id}", effect) from error
    reached("apply.send", "after call")
    return applied


def _check_fence(claim: Claim, asked: float) -> None:
    """Refuse to send once the claim may have been taken over: this process was stopped, or its machine was.

    A read of the ledger would not be newer than the clock: the process could also be paused after that read.
    """
    paused = _clock() - asked
    if paused >= CLAIM_MARGIN:
        raise Suspended(
            f"this attempt was paused for {paused:.0f} s between its claim and its call, so another attempt may have "
            f"taken over the effect {claim.effect.name!r}.",
            written="This attempt made no external write.",
            remedy="A retry is safe.",
        )


def _find_outcome(
    ledger: Ledger, plan: EffectPlan, target: Target, unknown: EffectUnknown, actor: Actor
) -> Wait | None:
    """Find the outcome of an attempt that recorded none. None once it is recorded."""
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
            why="the probe found the write" if applied else "the probe found no trace of the write",
            attempt=effect.attempt,
        )
        return None
    left = target.grace_seconds - seconds
    if left <= 0:
        return Wait(effect, None, str(unknown))
    calls = int(seconds).bit_length() + 1
    pause = min(backoff(calls, base=_PROBE_BASE, cap=_PROBE_CAP), left)
    return Wait(effect, pause, f"The probe has not found the effect {effect.name!r} yet. {unknown}")


def _probe_for_own_write(plan: EffectPlan, target: Target, effect: Effect) -> Applied | NotApplied | None:
    """Find out whether the target refuses because of this effect's own write: one that came late, or twice.

    It probes at once, over the grace time. The refusal counts if nothing is found by then.
    """
    until, calls = _clock() + target.grace_seconds, 0
    while True:
        found = _probe(plan, target, effect)
        left = until - _clock()
        if isinstance(found, Applied) or left <= 0:
            return found
        calls += 1
        time.sleep(min(backoff(calls, base=_PROBE_BASE, cap=_PROBE_CAP), left))


def _probe(plan: EffectPlan, target: Target, effect: Effect) -> Applied | NotApplied | None:
    reached("probe.send", "before call")
    try:
        found = target.probe(plan.plan, effect.effect_key)
    except Exception as error:  # noqa: BLE001 - any error means that it found nothing
        log.warning("The probe of the effect %r failed: %s: %s", effect.name, type(error).__name__, error)
        found = None
    reached("probe.send", "after call")
    return found


def _clock() -> float:
    """Seconds, also while the machine sleeps, where the system can measure that."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
