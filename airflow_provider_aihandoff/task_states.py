"""What Airflow says of task instances, and how the ledger names the one that runs."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff import airflow_compat

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.models import Owner
    from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState

log = logging.getLogger(__name__)

#: The states of one task in some runs of its Dag, as the execution API answers: ``ask(dag_id, task_id, run_ids)``.
AskStates = Callable[[str, str, list[str]], Mapping[str, Mapping[str, Any]]]

#: Runs of a Dag that are asked about at once: their ids are part of a URL.
_RUNS_AT_ONCE = 50

#: States of a task instance in which no one waits for its job any longer. Every other one (cleared, queued, up for
#: retry, deferred, running) has an attempt that takes the job up again.
_SKIPPED = "skipped"
ENDED_TASK_STATES = frozenset({"failed", "success", _SKIPPED, "removed", "upstream_failed"})


def owner_of(context: Context) -> Owner:
    """The attempt that runs now, as the ledger names owners."""
    from airflow_provider_aihandoff.core.models import Owner

    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    return Owner(ti.dag_id, ti.run_id, ti.task_id, map_index, str(ti.id), ti.try_number)


def loop_suffix(context: Context) -> str:
    """What tells the iterations of a task loop apart in a key: ``/iteration-0``. Empty outside of a loop."""
    iteration = airflow_compat.loop_iteration(context)
    return "" if iteration is None else f"/iteration-{iteration}"


def state_among(owner: Owner, answer: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The state of a task instance in what the execution API says about its run; None where it says nothing.

    In a task loop the execution API speaks of the latest iteration alone. What is known by the id of the task instance,
    as :func:`ask_database` does, is that of the owner's own iteration.
    """
    states = answer.get(owner.run_id, {})
    state = states.get(owner.ti_id if owner.ti_id in states else _name(owner))
    return None if state is None else str(getattr(state, "value", state))


def _name(owner: Owner) -> str:
    """How the execution API names a task instance within its run."""
    return f"{owner.task_id}_{owner.map_index}" if owner.map_index >= 0 else owner.task_id


def task_states(owners: Collection[Owner], ask: AskStates) -> dict[Owner, TaskState]:
    """What Airflow says of task instances, whichever attempt runs now; without those of which it says nothing."""
    from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState

    def meaning(state: str | None) -> TaskState:
        if state is None:
            return TaskState.MISSING
        if state == _SKIPPED:
            return TaskState.SKIPPED
        return TaskState.ENDED if state in ENDED_TASK_STATES else TaskState.ALIVE

    return {owner: meaning(state) for owner, state in _states(owners, ask).items()}


def skipped_tasks(owners: Collection[Owner], ask: AskStates) -> set[Owner]:
    """The task instances that Airflow has skipped."""
    return {owner for owner, state in _states(owners, ask).items() if state == _SKIPPED}


def lost_tasks(owners: Collection[Owner], ask: AskStates) -> set[Owner]:
    """The task instances that Airflow knows, and that have ended without success."""
    lost = ENDED_TASK_STATES - {"success"}
    return {owner for owner, state in _states(owners, ask).items() if state in lost}


def asking(context: Context) -> AskStates:
    """What asks the execution API, within a task."""
    ti: Any = context["ti"]
    return lambda dag_id, task_id, run_ids: ti.get_task_states(dag_id=dag_id, task_ids=[task_id], run_ids=run_ids)


def is_under_way(context: Context, task: Any) -> bool:
    """Whether a task of this run, with this map index, has not ended; also where Airflow does not answer.

    :param task: None where there is none.
    """
    from airflow_provider_aihandoff.core.models import Owner

    if task is None:
        return False
    own = owner_of(context)
    other = Owner(own.dag_id, own.run_id, task.task_id, own.map_index, "", 0)
    state = _states([other], asking(context)).get(other, "")
    return state is not None and state not in ENDED_TASK_STATES


def _states(owners: Collection[Owner], ask: AskStates) -> dict[Owner, str | None]:
    """The states of task instances, whichever attempt runs now; without those of which Airflow says nothing.

    None for one that Airflow does not know; empty for one that has no state yet.
    """
    tasks: dict[tuple[str, str], list[Owner]] = defaultdict(list)
    for owner in owners:
        tasks[owner.dag_id, owner.task_id].append(owner)
    found: dict[Owner, str | None] = {}
    for (dag_id, task_id), instances in tasks.items():
        run_ids = sorted({owner.run_id for owner in instances})
        for start in range(0, len(run_ids), _RUNS_AT_ONCE):
            batch = run_ids[start : start + _RUNS_AT_ONCE]
            try:
                answer = ask(dag_id, task_id, batch)
            except Exception as error:  # noqa: BLE001 - not knowing is an answer too: nothing is done then
                log.warning("The states of %s.%s cannot be read: %s.", dag_id, task_id, type(error).__name__)
                continue
            for owner in instances:
                if owner.run_id in batch:
                    exists = not answer.get(owner.run_id, {}).keys().isdisjoint({owner.ti_id, _name(owner)})
                    found[owner] = state_among(owner, answer) or "" if exists else None
    return found


def ask_database(dag_id: str, task_id: str, run_ids: list[str]) -> Mapping[str, Mapping[str, Any]]:
    """The states of a task in some runs, in the form of the execution API, for processes that cannot ask that.

    Each is there by the id of its task instance too, which is its own in each iteration of a task loop.
    """
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    map_index = airflow_compat.map_index_column()
    query = (
        select(TaskInstance.run_id, TaskInstance.id, map_index, TaskInstance.state)
        .where(TaskInstance.dag_id == dag_id, TaskInstance.task_id == task_id, TaskInstance.run_id.in_(run_ids))
        .order_by(TaskInstance.map_index)  # in a loop this is the iteration: the latest one is kept by its name
    )
    answer: dict[str, dict[str, Any]] = defaultdict(dict)
    with create_session() as session:
        for run_id, ti_id, index, state in session.execute(query):
            answer[run_id][str(ti_id)] = answer[run_id][task_id if index < 0 else f"{task_id}_{index}"] = state
    return answer
