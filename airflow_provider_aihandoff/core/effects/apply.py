"""The apply protocol's outer half: claim, send once, record; find the outcome of an attempt that recorded none."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow_provider_aihandoff.core import signals, spans
from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.effects.attempt import Attempt, record_kept, usable_id
from airflow_provider_aihandoff.core.effects.effect_store import Claim, WriteSteps, unknown_error
from airflow_provider_aihandoff.core.effects.filled import CannotFill, filled_plan, with_kept_answer
from airflow_provider_aihandoff.core.effects.target import Applied, CannotTell, NotApplied, Target
from airflow_provider_aihandoff.core.effects.undo import check_undo
from airflow_provider_aihandoff.core.error_text import Secrets, call_cleaned
from airflow_provider_aihandoff.core.errors import (
    ClaimLost,
    EffectBusy,
    EffectHeld,
    EffectNotNow,
    EffectRefused,
    EffectUnknown,
    LedgerUnavailable,
)
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, EffectPlan
from airflow_provider_aihandoff.core.rates.slowdown import Heard
from airflow_provider_aihandoff.core.second_memory import Memory

log = logging.getLogger(__name__)

#: Whether a field of an answer is a secret, which the ledger does not keep.
IsSecret = Callable[[str, Any], bool]

#: Seconds within which a claim's call must begin. The claim lasts for these and for as long as the call may take.
CLAIM_MARGIN = 10.0

#: The longest that a target is left alone because it asked for it with ``Retry-After``, in seconds, and how many times
#: in a row; after that, it is Airflow's retries that go on.
RETRY_AFTER_LIMIT = 900.0
RETRY_AFTER_TIMES = 8

#: Seconds between two calls of a probe that finds nothing yet: they double.
_PROBE_BASE, _PROBE_CAP = 1.0, 30.0

#: For how many seconds at most the probe is tried after a confirmed write, until it sees it.
_TRIAL_SECONDS = 5.0


#: The answers of a probe, as the metrics name them.
_OUTCOMES = {Applied: "applied", NotApplied: "not_applied", CannotTell: "cannot_tell"}

#: What an attempt knows of the write where the ledger fails, and not the target.
_NOT_SENT = "This attempt made no external write."
_MAYBE_BEFORE = "This attempt made no external write; an earlier one may have."
_SENT = "The external write may have been made: this attempt has sent it."


@dataclass(frozen=True)
class Wait:
    """Nothing can be done now.

    :param effect: the effect, as the ledger has it.
    :param seconds: when to try again; None: when a person has resolved the effect, or what holds it has ended.
    :param why: what is waited for, as a sentence.
    :param not_now: how many times in a row the target has asked to come back later.
    :param held: a pause or a limit holds it: no person has to resolve anything.
    """

    effect: Effect
    seconds: float | None
    why: str
    not_now: int = 0
    held: bool = False


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
    memory: Memory | None = None,
    is_secret: IsSecret = lambda name, value: False,
    steps: WriteSteps | None = None,
) -> Effect | Wait:
    """Write one effect of a job, unless it is written, and record the outcome.

    An unknown outcome goes this way: the target is probed, over its grace time; then it is sent again, if the probe
    sees no trace or the target takes the same key again, as often as the target's ``resends`` says; then it waits for
    a person.

    :param not_now: of the :class:`Wait` that this call comes after.
    :param last_try: no one calls again after an error, so that an unknown outcome waits for a person at once.
    :param memory: where an outcome is kept while the ledger cannot record it.
    :param is_secret: whether a field of the target's answer is one, by its name and its value.
    :param steps: what claims and confirms; by default the effects of the ledger.
    :return: the effect, applied, or skipped where the plan leaves it out; or what to wait for before calling again.
    :raises EffectRefused: the target refused it; no external write was made.
    :raises EffectNotNow: no external write was made, or a probe finds out first; a retry is safe.
    :raises EffectUnknown: it may have been written, and a retry may send it again with the same key.
    :raises ClaimLost: another attempt took over.
    :raises HandoffError: what :meth:`ledger.effects.Effects.claim` raises.
    """
    steps = steps or ledger.effects
    resends, lost_here = 0, False
    while True:
        asked = _clock()
        lease = timedelta(seconds=target.call_seconds + CLAIM_MARGIN)
        try:
            with _stating(_SENT if lost_here else _NOT_SENT):
                claim = steps.claim(job_id, plan, lease=lease, actor=actor, resends=resends)
        except EffectBusy as busy:
            if record_kept(ledger, busy.effect, memory=memory, actor=actor):
                continue
            return Wait(busy.effect, busy.seconds, str(busy))
        except EffectHeld as held:
            return Wait(held.effect, held.seconds, str(held), not_now, held=True)
        except EffectUnknown as unknown:
            with _stating(_SENT if lost_here else _MAYBE_BEFORE):
                if record_kept(ledger, unknown.effect, memory=memory, actor=actor):
                    continue
                wait = _find_outcome(ledger, plan, target, unknown, actor)
            if wait is None:
                continue
            if resends or lost_here or not _takes_it_again(target, wait.effect):
                return wait
            resends = target.resends
            continue
        if claim.applied or claim.skipped:
            return claim.effect
        attempt = Attempt(ledger, steps, claim, memory, actor)
        try:
            with spans.span("aihandoff.effect", ledger, job_id, _attributes(claim.effect), client=True):
                applied = _send(attempt, claim, plan, target, asked, is_secret)
        except EffectNotNow as error:
            if error.retry_after is None or not_now >= RETRY_AFTER_TIMES:
                raise
            seconds = min(error.retry_after, RETRY_AFTER_LIMIT)
            with _stating(error.written):
                effect = ledger.effects.read(claim.effect.effect_id)
            return Wait(effect, seconds, str(error), not_now + 1)
        except EffectUnknown as unknown:
            if not last_try and _takes_it_again(target, unknown.effect):
                raise
            resends, lost_here = 0, True
            continue
        effect = attempt.applied(applied)
        if target.verify:
            return effect
        with _stating("The external write was made, and recorded."):
            return _try_probe(ledger, plan, target, effect)


def _attributes(effect: Effect) -> dict[str, str | int | None]:
    return {
        "aihandoff.revision": effect.revision,
        "aihandoff.effect.name": effect.name,
        "aihandoff.effect.target": effect.kind,
        "aihandoff.effect.attempt": effect.attempt,
    }


def _takes_it_again(target: Target, effect: Effect) -> bool:
    """Whether an unknown effect may be sent again with the same key: not without end, and not once it is confirmed."""
    return target.idempotent and effect.resends < target.resends and effect.result is None


def _send(
    attempt: Attempt, claim: Claim, plan: EffectPlan, target: Target, asked: float, is_secret: IsSecret
) -> Applied:
    """Send, and record a failure by its kind before it is raised."""
    key, began = claim.effect.effect_key, time.monotonic()
    reached("apply.send", "before call")
    try:
        request, known = _filled(plan, target, claim.effect, claim.unfilled)
        _check_fence(claim, asked)
        try:
            applied = call_cleaned(lambda: known.apply(request, key), _secrets(plan))
        finally:
            signals.timing(signals.EFFECT_TIME, time.monotonic() - began, target=plan.kind)
    except (EffectRefused, EffectNotNow, Suspended) as error:
        return _not_applied(attempt, claim, plan, target, error)
    except Exception as error:
        effect = attempt.lost(str(error))
        raise unknown_error(f"job {effect.job_id}", effect) from error
    reached("apply.send", "after call")
    applied = with_kept_answer(applied, plan.answer_fields, is_secret)
    if target.verify and target.can_probe:
        found = _probe_over(target.grace_seconds, lambda: ask_probe(target, plan, claim.effect))
        if not isinstance(found, Applied):
            why = f"the target confirmed it, and {_said(found)}"
            effect = attempt.lost(why, confirmed=applied.result or {})
            raise unknown_error(f"job {effect.job_id}", effect)
    return applied


def _filled(
    plan: EffectPlan, target: Target, effect: Effect, unfilled: str | None = None
) -> tuple[dict[str, Any], Target]:
    """The request, and its target, with what earlier effects have brought.

    :param unfilled: of the claim.
    :raises EffectRefused: some of it is missing, or cannot be written there. Nothing was sent.
    """
    remedy = "Change the Dag so that this effect does not need it, or roll the job back and run it again."
    if unfilled is not None:
        raise EffectRefused(unfilled, answered=False, remedy=remedy)
    if not effect.filled:
        return plan.plan, target
    try:
        check_undo(plan.undo, effect.filled)
        values = {name: value for name, value in effect.filled.items() if name in plan.names}
        return filled_plan(plan.plan, values, type(target)), target.knowing(effect.filled)
    except CannotFill as cannot:
        problem = str(cannot)
    raise EffectRefused(f"the effect {effect.name!r} cannot be sent: {problem}.", answered=False, remedy=remedy)


@contextmanager
def _stating(written: str) -> Iterator[None]:
    """Have an error of the ledger say what this attempt knows."""
    try:
        yield
    except LedgerUnavailable as error:
        error.restate(written=written, remedy=error.remedy)
        raise


def _not_applied(
    attempt: Attempt,
    claim: Claim,
    plan: EffectPlan,
    target: Target,
    error: EffectRefused | EffectNotNow | Suspended,
) -> Applied:
    """Record what an attempt says that it has not written, and raise it; return the write if the probe finds it.

    Whatever answers may have forwarded the request before, or have got it twice: a target with a probe is asked before
    a refusal counts, and before anything is sent again.
    """
    answered = not isinstance(error, Suspended) and error.answered
    not_now = answered and isinstance(error, EffectNotNow)
    heard = _heard(error)
    if claim.resent:
        # What this attempt proves, it proves for itself only: an earlier one may have been applied.
        effect = attempt.lost(f"an earlier attempt was lost; this attempt: {error.what}", not_now=not_now, heard=heard)
        if isinstance(error, EffectNotNow) and error.retry_after is not None:
            raise error
        raise unknown_error(f"job {effect.job_id}", effect) from error
    if answered and target.can_probe:
        if isinstance(error, EffectNotNow):
            attempt.lost(error.what, not_now=True, heard=heard)
            raise error
        found = _probe_over(target.grace_seconds, lambda: _probe(plan, target, claim.effect))
        if isinstance(found, Applied):
            return found
        if isinstance(found, CannotTell):
            why = f"the target may refuse it because the write is already there: {error.what} At last {_said(found)}"
            effect = attempt.lost(why)
            raise unknown_error(f"job {effect.job_id}", effect) from error
    if isinstance(error, EffectRefused):
        attempt.refused(str(error))
    else:
        attempt.released(str(error), heard=heard)
    raise error


def _heard(error: EffectRefused | EffectNotNow | Suspended) -> Heard | None:
    """What a target says about its limits of speed that asks to come back later."""
    if not isinstance(error, EffectNotNow) or error.retry_after is None:
        return None
    return Heard(too_much=True, wait=min(error.retry_after, RETRY_AFTER_LIMIT), said=error.what)


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
    """Find the outcome of an attempt that recorded none. None once it is recorded, by this task or by a person."""
    effect = unknown.effect
    if not target.can_probe:
        return Wait(effect, None, str(unknown))
    seconds = ledger.effects.seconds_unknown(effect.effect_id)
    found = _probe(plan, target, effect)
    left = target.grace_seconds - seconds
    again = effect.result is None and (effect.not_now or effect.resends < target.resends)
    if isinstance(found, Applied) or (isinstance(found, NotApplied) and left <= 0 and again):
        applied = isinstance(found, Applied)
        ledger.effects.resolve(
            effect.effect_id,
            applied=applied,
            external_id=usable_id(found) if isinstance(found, Applied) else None,
            actor=actor,
            why="the probe found the write" if applied else "the probe found no trace of the write",
            attempt=effect.attempt,
            resends=effect.resends + (not applied and not effect.not_now),
        )
        return None
    if left <= 0:
        note = _said(found)
        if effect.resends and isinstance(found, NotApplied):
            note += f"; it was sent again {effect.resends} times without a known outcome, and is not sent again"
        noted = ledger.effects.note_probe(effect.effect_id, note)
        if (noted.state, noted.attempt) != (effect.state, effect.attempt):
            return None  # a person resolved it meanwhile, and no change would end the wait
        return Wait(noted, None, f"{unknown} At last {note}.")
    calls = int(seconds).bit_length() + 1
    pause = min(backoff(calls, base=_PROBE_BASE, cap=_PROBE_CAP), left)
    return Wait(effect, pause, f"The probe has not found the effect {effect.name!r} yet: {_said(found)}. {unknown}")


def _probe(plan: EffectPlan, target: Target, effect: Effect) -> Applied | NotApplied | CannotTell:
    """Probe for an outcome. What the probe saw before anything was sent is no find."""
    reached("probe.send", "before call")
    found = ask_probe(target, plan, effect)
    reached("probe.send", "after call")
    if isinstance(found, Applied) and not effect.find_counts:
        return CannotTell("it sees what it saw before anything was sent")
    return found


def _probe_over(
    seconds: float, probe: Callable[[], Applied | NotApplied | CannotTell]
) -> Applied | NotApplied | CannotTell:
    """Probe until the write is found, or this time has passed: what came late, or twice, may not be visible yet."""
    until, calls = _clock() + seconds, 0
    while True:
        found = probe()
        left = until - _clock()
        if isinstance(found, Applied) or left <= 0 or (isinstance(found, CannotTell) and found.found > 1):
            return found
        calls += 1
        time.sleep(min(backoff(calls, base=_PROBE_BASE, cap=_PROBE_CAP), left))


def _try_probe(ledger: Ledger, plan: EffectPlan, target: Target, effect: Effect) -> Effect:
    """Find out whether the probe sees a write that is confirmed. What it does not see, it would not find later."""
    if not (target.can_probe and target.try_probe):
        return effect
    seconds = min(target.grace_seconds, _TRIAL_SECONDS)
    found = _probe_over(seconds, lambda: ask_probe(target, plan, effect))
    proves = isinstance(found, Applied)
    signals.count(signals.PROBE_TRIALS, target=plan.kind, moment="after", proves="yes" if proves else "no")
    if proves:
        return effect
    note = f"the target confirmed the write, and {_said(found)}"
    log.warning("The effect %r is applied, but %s. Check its probe.", effect.name, note)
    return ledger.effects.note_probe(effect.effect_id, note)


def ask_probe(target: Target, plan: EffectPlan, effect: Effect) -> Applied | NotApplied | CannotTell:
    """Probe once. An error is no answer."""
    try:
        request, known = _filled(plan, target, effect)
        found = call_cleaned(lambda: known.probe(request, effect.effect_key), _secrets(plan))
    except Exception as error:  # noqa: BLE001 - any error means that it found nothing
        found = CannotTell(f"it failed: {error}")
    if found is None:
        found = CannotTell("it gave no answer that can be read")
    if isinstance(found, CannotTell):
        log.warning("The probe of the effect %r cannot tell: %s.", effect.name, found.why)
    signals.count(signals.PROBES, target=plan.kind, outcome=_OUTCOMES.get(type(found), "cannot_tell"))
    return found


def _said(found: Applied | NotApplied | CannotTell) -> str:
    """What a probe said that did not find the write, as a clause."""
    return f"the probe cannot tell: {found.why}" if isinstance(found, CannotTell) else "the probe sees no trace of it"


def _secrets(plan: EffectPlan) -> Secrets:
    """What an error of the target may not say."""
    return Secrets.between(plan.plan, plan.shown)


def _clock() -> float:
    """Seconds, also while the machine sleeps, where the system can measure that."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
