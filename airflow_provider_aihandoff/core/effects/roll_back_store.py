"""Begins the roll-back of a job: whether it can begin, and the undos that it plans. One short transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.effects.approved_undo import altered_undos
from airflow_provider_aihandoff.core.effects.plan_store import current_effects, digest_key, insert_plan, void_plans
from airflow_provider_aihandoff.core.effects.undo import undo_plan, why_not
from airflow_provider_aihandoff.core.errors import CannotRollBack, HandoffError
from airflow_provider_aihandoff.core.models import Actor, Effect, EffectPlan, Event, Job, columns
from airflow_provider_aihandoff.core.states import EffectState, JobEvent, JobState

_READ_EVENTS = f"SELECT {columns(Event)} FROM aihandoff.events WHERE job_id = %s ORDER BY seq"

_IN_FLIGHT = frozenset({EffectState.CLAIMED, EffectState.UNKNOWN})

#: States of a job whose applied effects can be undone.
CAN_ROLL_BACK = frozenset({JobState.COMPLETED, JobState.CANCELLED, JobState.APPLYING})
_STARTED = frozenset({JobState.ROLLING_BACK, JobState.ROLLED_BACK})


class RollBacks:
    """The step that begins to undo what a job wrote, on one ledger. :mod:`core.effects.roll_back` does the rest.

    No undo leaves it that is not the approved one.

    :param digest_key: the configured key of digests; empty: the ledger's own.
    """

    def __init__(self, database: Database, digest_key: str) -> None:
        self._database = database
        self._digest_key = digest_key

    def left(self, job_id: int, *, leave: Sequence[str] = ()) -> list[EffectPlan]:
        """What :meth:`start` would return, without what is undone. Changes nothing.

        :raises JobNotFound: there is none with this id.
        :raises CannotRollBack: as :meth:`start`.
        """

        def work(connection: LedgerConnection) -> list[EffectPlan] | HandoffError:
            job = history.lock(connection, job_id)
            effects = current_effects(connection, job)
            altered = self._altered(connection, job, effects)
            if job.state in _STARTED:
                undos = [effect for effect in effects if effect.undoes is not None]
                left = [undo.as_plan for undo in undos if undo.state is not EffectState.APPLIED]
                return _altered_since(job, effects, altered) or left
            if problem := cannot_roll_back(job, effects, altered, leave):
                return problem
            return [undo_plan(effect, None) for effect in reversed(_to_undo(effects, leave))]

        return self._database.transact(work)

    def start(self, job_id: int, *, actor: Actor, reason: str, leave: Sequence[str] = ()) -> list[Effect]:
        """Plan the undo of every applied effect, the last one first. Safe to repeat: what is planned stays.

        :param leave: names of effects that are to stay as they are.
        :return: the undos, in the order in which they are to be applied.
        :raises JobNotFound: there is none with this id.
        :raises CannotRollBack: nothing is applied, an effect is under way or unknown, or one cannot be undone, or not
            by what was approved. Nothing was changed then.
        """

        def work(connection: LedgerConnection) -> list[Effect] | HandoffError:
            job = history.lock(connection, job_id)
            effects = current_effects(connection, job)
            altered = self._altered(connection, job, effects)
            if job.state in _STARTED:
                undos = [effect for effect in effects if effect.undoes is not None]
                return _altered_since(job, effects, altered) or undos
            if problem := cannot_roll_back(job, effects, altered, leave):
                return problem
            applied = _to_undo(effects, leave)
            void_plans(connection, job)
            planned: list[Effect] = []
            for effect in reversed(applied):
                plan = undo_plan(effect, planned[-1].name if planned else None)
                position = len(effects) + len(planned)
                planned.append(insert_plan(connection, job, plan, position, undoes=effect.effect_id))
            history.move(
                connection,
                job,
                JobEvent.ROLL_BACK_STARTED,
                actor=actor,
                reason=reason + (f"; left as they are: {', '.join(sorted(leave))}" if leave else ""),
                detail={"effects": [effect.name for effect in planned]},
                cancelling=None,
            )
            return planned

        return self._database.transact(work, step="undo.start")

    def _altered(self, connection: LedgerConnection, job: Job, effects: Sequence[Effect]) -> dict[int, str]:
        events = [Event(**row) for row in connection.execute(_READ_EVENTS, [job.job_id]).fetchall()]
        return altered_undos(job, effects, events, self._digest_key or digest_key(connection))


def _to_undo(effects: Sequence[Effect], leave: Sequence[str]) -> list[Effect]:
    return [effect for effect in effects if effect.state is EffectState.APPLIED and effect.name not in leave]


def _altered_since(job: Job, effects: Sequence[Effect], altered: Mapping[int, str]) -> CannotRollBack | None:
    """Why a roll-back that has begun cannot continue: an undo that is left is not the approved one."""
    undone = {effect.effect_id: effect for effect in effects if effect.undo and effect.state is EffectState.APPLIED}
    reasons, before = [], None
    for undo in (effect for effect in effects if effect.undoes is not None):
        effect = undone.get(undo.undoes or 0)
        if effect is None:
            why = "undoes nothing that is applied and has an undo"
        elif effect.effect_id in altered:
            why = altered[effect.effect_id]
        else:
            why = "" if undo.as_plan == undo_plan(effect, before) else "is not the undo that was planned"
        if why and undo.state is not EffectState.APPLIED:
            reasons.append(f"{undo.name!r} {why}")
        before = undo.name
    if not reasons:
        return None
    return CannotRollBack(
        f"what is left to undo was changed since it was approved: {'; '.join(reasons)}.",
        job=job.label,
        written="Nothing more was undone. This step made no external write.",
        remedy="Find out who changed the ledger, and undo these by hand.",
    )


def cannot_roll_back(
    job: Job, effects: Sequence[Effect], altered: Mapping[int, str], leave: Sequence[str] = ()
) -> CannotRollBack | None:
    """Why a roll-back of a job cannot begin; None where it can. Pure.

    :param effects: of the current revision.
    :param altered: why an undo is not what was approved, by the id of its effect.
    :param leave: names of effects that are to stay as they are.
    """

    def refuse(what: str, remedy: str) -> CannotRollBack:
        written = "Nothing was undone. This step made no external write."
        return CannotRollBack(what, job=job.label, written=written, remedy=remedy)

    if unknown_names := sorted(set(leave) - {effect.name for effect in effects}):
        return refuse(f"it has no effect {', '.join(map(repr, unknown_names))} to leave.", "Check the names.")
    applied = _to_undo(effects, leave)
    if job.state not in CAN_ROLL_BACK or not applied:
        return refuse(f"it is {job.state.value}, and has nothing applied to undo.", "There is nothing to do.")
    if under_way := [effect for effect in effects if effect.state in _IN_FLIGHT]:
        names = ", ".join(f"{effect.name!r} is {effect.state.value}" for effect in under_way)
        return refuse(f"{names}.", "Wait until their outcome is known, or resolve them; then try again.")
    if reasons := [
        f"{effect.name!r} {why}" for effect in applied if (why := why_not(effect) or altered.get(effect.effect_id))
    ]:
        return refuse(
            f"not everything can be undone: {'; '.join(reasons)}.",
            "Undo these by hand, and leave them out: `--leave NAME`.",
        )
    return None
