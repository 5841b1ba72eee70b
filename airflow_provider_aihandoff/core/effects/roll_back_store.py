"""Begins the roll-back of a job: whether it can begin, and the undos that it plans. One short transaction."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.effects.plan_store import current_effects, insert_plan, void_plans
from airflow_provider_aihandoff.core.effects.undo import undo_plan, why_not
from airflow_provider_aihandoff.core.errors import CannotRollBack, HandoffError
from airflow_provider_aihandoff.core.models import Actor, Effect, Job
from airflow_provider_aihandoff.core.states import EffectState, JobEvent, JobState

_IN_FLIGHT = frozenset({EffectState.CLAIMED, EffectState.UNKNOWN})

#: States of a job whose applied effects can be undone.
CAN_ROLL_BACK = frozenset({JobState.COMPLETED, JobState.CANCELLED, JobState.APPLYING})


class RollBacks:
    """The step that begins to undo what a job wrote, on one ledger. :mod:`core.effects.roll_back` does the rest."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, job_id: int, *, actor: Actor, reason: str, leave: Sequence[str] = ()) -> list[Effect]:
        """Plan the undo of every applied effect, the last one first. Safe to repeat: what is planned stays.

        :param leave: names of effects that are to stay as they are.
        :return: the undos, in the order in which they are to be applied.
        :raises JobNotFound: there is none with this id.
        :raises CannotRollBack: nothing is applied, an effect is under way or unknown, or one cannot be undone. Nothing
            was changed then.
        """

        def work(connection: LedgerConnection) -> list[Effect] | HandoffError:
            job = history.lock(connection, job_id)
            effects = current_effects(connection, job)
            if job.state in (JobState.ROLLING_BACK, JobState.ROLLED_BACK):
                return [effect for effect in effects if effect.undoes is not None]
            if problem := cannot_roll_back(job, effects, leave):
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


def _to_undo(effects: Sequence[Effect], leave: Sequence[str]) -> list[Effect]:
    return [effect for effect in effects if effect.state is EffectState.APPLIED and effect.name not in leave]


def cannot_roll_back(job: Job, effects: Sequence[Effect], leave: Sequence[str] = ()) -> CannotRollBack | None:
    """Why a roll-back of a job cannot begin; None where it can. Pure.

    :param effects: of the current revision.
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
    if reasons := [f"{effect.name!r} {why}" for effect in applied if (why := why_not(effect))]:
        return refuse(
            f"not everything can be undone: {'; '.join(reasons)}.",
            "Undo these by hand, and leave them out: `--leave NAME`.",
        )
    return None
