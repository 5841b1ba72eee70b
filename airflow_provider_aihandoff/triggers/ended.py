"""What a trigger does when a person ended its task, and it was not just moved to another triggerer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from airflow.triggers.base import BaseTrigger

from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.models import Owner
from airflow_provider_aihandoff.task_states import state_among

log = logging.getLogger(__name__)

#: Kept here, since the event loop keeps only weak references to tasks.
on_kill_tasks: set[asyncio.Task[None]] = set()


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Run the work of ``on_kill`` in a task of its own.

    Airflow cancels a trigger again with every heartbeat until it has ended, and would cut the method off half-way.
    """
    task = asyncio.create_task(work)
    on_kill_tasks.add(task)
    task.add_done_callback(on_kill_tasks.discard)
    await asyncio.shield(task)


def owner_of(trigger: BaseTrigger) -> Owner | None:
    """The attempt that a trigger waits for, as the ledger names owners; None where it waits for none."""
    ti = trigger.task_instance
    if ti is None:
        return None
    return Owner(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, str(ti.id), ti.try_number)


async def task_state(owner: Owner) -> str | None:
    """The state of the task instance now, or None where it cannot be read."""
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import GetTaskStates, TaskStatesResult

    try:
        answer = await task_runner.SUPERVISOR_COMMS.asend(
            GetTaskStates(
                dag_id=owner.dag_id,
                task_ids=[owner.task_id],
                run_ids=[owner.run_id],
                map_index=owner.map_index if owner.map_index >= 0 else None,
            )
        )
        if not isinstance(answer, TaskStatesResult):
            raise TypeError(f"unexpected answer: {type(answer).__name__}")
    except Exception as error:
        log.error("The state of %s cannot be read; nothing is cancelled.", owner.actor, exc_info=shown(error))
        return None
    return state_among(owner, answer.task_states)
