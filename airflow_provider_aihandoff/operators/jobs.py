"""What the operators of one job share: how they name it, open its ledger, and fail."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator
from airflow.sdk.definitions.xcom_arg import PlainXComArg

from airflow_provider_aihandoff.core.errors import (
    CannotRegenerate,
    CannotRollBack,
    EffectRefused,
    InputChanged,
    JobCancelled,
    JobFailed,
    JobNotApproved,
    JobNotFound,
    JobRolledBack,
    PlanError,
    PlanNotApproved,
    RequestError,
    RevisionsExhausted,
)
from airflow_provider_aihandoff.core.models import Owner

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState

log = logging.getLogger(__name__)

#: The states of one task in some runs of its Dag, as the execution API answers: ``ask(dag_id, task_id, run_ids)``.
AskStates = Callable[[str, str, list[str]], Mapping[str, Mapping[str, Any]]]

#: Runs of a Dag that are asked about at once: their ids are part of a URL.
_RUNS_AT_ONCE = 50

#: What an operator takes as its job: the operator that made it, that one's XCom, or the id.
JobReference = Any

#: Retries of our operators where the author sets none: executing one again is free, since it attaches to what exists.
#: They stand in the signatures: Airflow reads them there before it applies a Dag's `default_args` or maps a task.
RETRIES = 3
RETRY_DELAY = timedelta(seconds=10)

#: States of a task instance in which no one waits for its job any longer. Every other one (cleared, queued, up for
#: retry, deferred, running) has an attempt that takes the job up again.
ENDED_TASK_STATES = frozenset({"failed", "success", "skipped", "removed", "upstream_failed"})

#: A retry cannot help here; a person has to do something first.
_FINAL_ERRORS = (
    CannotRegenerate,
    CannotRollBack,
    EffectRefused,
    InputChanged,
    JobCancelled,
    JobFailed,
    JobNotApproved,
    JobNotFound,
    JobRolledBack,
    PlanError,
    PlanNotApproved,
    RequestError,
    RevisionsExhausted,
)


def job_reference(job: JobReference) -> Any:
    """Turn the operator that makes a job into its XCom, which also makes it an upstream task."""
    return job.output if isinstance(job, BaseOperator) else job


def source_of(reference: Any) -> Any:
    """What tells two references to the same job apart from others before either is resolved."""
    return reference.operator.task_id if isinstance(reference, PlainXComArg) else reference


def resolve_job_id(reference: Any, task_id: str) -> int:
    """The id of the job that a rendered reference names.

    :raises AirflowFailException: it names none.
    """
    value: Any = reference.get("job_id") if isinstance(reference, dict) else reference
    try:
        return int(value)
    except (TypeError, ValueError):
        raise AirflowFailException(
            f"The argument `job` of the task {task_id!r} does not name a job: {reference!r}. No external write was "
            "made. Give it the operator that makes the job, or a job id."
        ) from None


def owner_of(context: Context) -> Owner:
    """The attempt that runs now, as the ledger names owners."""
    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    return Owner(ti.dag_id, ti.run_id, ti.task_id, map_index, str(ti.id), ti.try_number)


def state_among(owner: Owner, answer: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The state of a task instance in what the execution API says about its run; None where it says nothing."""
    state = answer.get(owner.run_id, {}).get(_name(owner))
    return None if state is None else str(getattr(state, "value", state))


def _name(owner: Owner) -> str:
    """How the execution API names a task instance within its run."""
    return f"{owner.task_id}_{owner.map_index}" if owner.map_index >= 0 else owner.task_id


def task_states(owners: Collection[Owner], ask: AskStates) -> dict[Owner, TaskState]:
    """What Airflow says of task instances, whichever attempt runs now; without those of which it says nothing."""
    tasks: dict[tuple[str, str], list[Owner]] = defaultdict(list)
    for owner in owners:
        tasks[owner.dag_id, owner.task_id].append(owner)
    found: dict[Owner, TaskState] = {}
    for (dag_id, task_id), instances in tasks.items():
        run_ids = sorted({owner.run_id for owner in instances})
        for start in range(0, len(run_ids), _RUNS_AT_ONCE):
            batch = run_ids[start : start + _RUNS_AT_ONCE]
            try:
                answer = ask(dag_id, task_id, batch)
            except Exception as error:  # noqa: BLE001 - not knowing is an answer too: nothing is done then
                log.warning("The states of %s.%s cannot be read: %s.", dag_id, task_id, type(error).__name__)
                continue
            found |= {owner: _task_state(owner, answer) for owner in instances if owner.run_id in batch}
    return found


def _task_state(owner: Owner, answer: Mapping[str, Mapping[str, Any]]) -> TaskState:
    from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState

    if _name(owner) not in answer.get(owner.run_id, {}):
        return TaskState.MISSING
    return TaskState.ENDED if state_among(owner, answer) in ENDED_TASK_STATES else TaskState.ALIVE


@contextmanager
def final_errors() -> Iterator[None]:
    """Fail the task without a retry where a retry cannot help; leave other errors to Airflow's retries."""
    try:
        yield
    except _FINAL_ERRORS as error:
        raise AirflowFailException(str(error)) from error
