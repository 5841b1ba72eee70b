"""Records the effects whose tasks Airflow has skipped, as a branch does, so that their job can complete."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.models import Owner
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.task_states import asking, owner_of, skipped_tasks

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.ledger import Ledger

log = logging.getLogger(__name__)

#: Why such an effect is left out, for the record.
TASK_SKIPPED = "Airflow skipped its task"


def record_skipped(context: Context, ledger: Ledger, job_id: int) -> None:
    """Record which of the effects that are still planned no task of this run will apply.

    A task that is skipped later is found by the reconciler.
    """
    record, own = ledger.record(job_id), owner_of(context)
    if record.job.state is not JobState.APPLYING:
        return
    owners = {
        effect.effect_id: Owner(own.dag_id, own.run_id, effect.task_id, own.map_index, "", 0)
        for effect in record.current_effects
        if effect.state is EffectState.PLANNED and effect.task_id is not None
    }
    skipped = skipped_tasks(owners.values(), asking(context))
    for effect_id, owner in owners.items():
        if owner in skipped:
            ledger.effects.skip(effect_id, actor=own.actor, reason=TASK_SKIPPED)
