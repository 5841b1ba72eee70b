"""Rolls back what a job has written: the undo of each applied effect, the last one first, each at most once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_aihandoff.core.effects.apply import Wait, apply_effect
from airflow_provider_aihandoff.core.effects.undo import needs_worker, undo_target
from airflow_provider_aihandoff.core.errors import CannotRollBack, HandoffError, LedgerSchemaError, LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, Job
from airflow_provider_aihandoff.core.second_memory import Memory
from airflow_provider_aihandoff.core.states import JobState


def roll_back(
    ledger: Ledger,
    job_id: int,
    *,
    actor: Actor,
    reason: str,
    leave: Sequence[str] = (),
    not_now: int = 0,
    last_try: bool = False,
    in_worker: bool = False,
    memory: Memory | None = None,
) -> Job | Wait:
    """Begin or go on with the roll-back of a job. Safe to repeat: what is undone stays undone, and is not sent again.

    :param leave: names of effects that are to stay as they are.
    :param not_now: of the :class:`Wait` that this call comes after.
    :param last_try: no one calls again after an error.
    :param in_worker: this process may import what an undo names. The API server may not, nor may a command.
    :param memory: as :func:`core.effects.apply.apply_effect` takes it.
    :return: the job, rolled back; or what to wait for before calling again.
    :raises CannotRollBack: nothing is applied, not everything can be undone, an undo is not the approved one, or one
        needs a worker; nothing was changed then.
    :raises PlanError: an undo cannot be applied here: its kind or its function is not installed. Nothing was changed
        then.
    :raises HandoffError: what :func:`core.effects.apply.apply_effect` raises. The undos before it are done and
        recorded.
    """
    _check_targets(ledger, job_id, leave, in_worker=in_worker)
    for undo in ledger.roll_backs.start(job_id, actor=actor, reason=reason, leave=leave):
        plan = undo.as_plan
        done = apply_effect(
            ledger,
            job_id,
            plan,
            undo_target(plan),
            actor=actor,
            not_now=not_now,
            last_try=last_try,
            memory=memory,
        )
        if isinstance(done, Wait):
            return done
        not_now = 0
    return ledger.job(job_id)


@dataclass(frozen=True)
class Unfinished:
    """A roll-back that has begun, and has come as far as it can now.

    :param why: what stops it, as sentences.
    :param seconds: when it can go on; None: when a person has resolved what stops it.
    :param effect: the undo that is waited for, where there is one.
    :param not_now: of the :class:`Wait`.
    """

    why: str
    seconds: float | None = None
    effect: Effect | None = None
    not_now: int = 0


def roll_back_now(
    ledger: Ledger, job_id: int, *, actor: Actor, reason: str, leave: Sequence[str] = (), not_now: int = 0
) -> Job | Unfinished:
    """:func:`roll_back`, for a page or a terminal: what stops a roll-back that has begun is returned, not raised.

    :raises HandoffError: it has not begun; nothing was changed.
    """
    try:
        done = roll_back(ledger, job_id, actor=actor, reason=reason, leave=leave, not_now=not_now, in_worker=False)
    except (LedgerUnavailable, LedgerSchemaError):
        raise
    except HandoffError as error:
        if ledger.job(job_id).state is not JobState.ROLLING_BACK:
            raise
        return Unfinished(str(error))
    return Unfinished(done.why, done.seconds, done.effect, done.not_now) if isinstance(done, Wait) else done


def _check_targets(ledger: Ledger, job_id: int, leave: Sequence[str], *, in_worker: bool) -> None:
    """Find out before anything starts whether each undo that is left can be applied here."""
    plans = ledger.roll_backs.left(job_id, leave=leave)
    if not in_worker and (names := [plan.name for plan in plans if needs_worker(plan)]):
        raise CannotRollBack(
            f"only a worker can send {', '.join(map(repr, names))}: it calls a function.",
            job=ledger.job(job_id).label,
            written="Nothing was undone. This step made no external write.",
            remedy=f"Trigger the Dag `aihandoff_rollback` with the job {job_id}. It undoes the other effects too.",
        )
    for plan in plans:
        undo_target(plan)
