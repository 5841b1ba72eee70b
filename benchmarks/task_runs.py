"""Executes the tasks of a Dag in this process: the operators themselves, with what a worker of Airflow gives them.

No scheduler, API server or database of Airflow takes part, so that what is measured is the work of the tasks alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import structlog
from airflow.sdk import DAG

#: The user who triggers the runs.
REQUESTER = "alice"


def only_errors() -> None:
    """Log errors alone: a task says what it does, and Airflow warns of tasks that it does not run itself."""
    logging.disable(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


class Kept:
    """What Airflow keeps for a task over its attempts; nothing here is attempted twice."""

    def set(self, name: str, facts: Mapping[str, Any]) -> None:
        """Keep nothing."""

    def get(self, name: str) -> None:
        """There is nothing."""

    def delete(self, name: str) -> None:
        """There is nothing."""


@dataclass(frozen=True)
class TaskInstance:
    """As much of Airflow's task instance as the operators use.

    :param xcoms: what the other tasks of the run have returned, by their ids.
    """

    task: Any
    run_id: str
    xcoms: Mapping[str, Any]
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 3

    @property
    def dag_id(self) -> str:
        """Of the task's Dag."""
        return str(self.task.dag_id)

    @property
    def task_id(self) -> str:
        """Of the task."""
        return str(self.task.task_id)

    @property
    def id(self) -> str:
        """A UUID, as Airflow's own are."""
        return str(uuid5(NAMESPACE_OID, f"{self.dag_id} {self.run_id} {self.task_id}"))

    def xcom_pull(self, task_ids: str, **_: Any) -> Any:
        """What another task has returned."""
        return self.xcoms[task_ids]


@dataclass
class DagRun:
    """One run of a Dag.

    :param params: of the run.
    :param xcoms: what tasks have returned, by their ids; also of those that are not executed here.
    """

    dag: DAG
    run_id: str
    params: Mapping[str, Any] = field(default_factory=dict)
    xcoms: dict[str, Any] = field(default_factory=dict)

    def execute(self, task_id: str) -> Any:
        """Execute a task from its beginning, and return its XCom.

        :raises TaskDeferred: it waits; ``resume`` goes on with it.
        """
        return self._leg(task_id, lambda task, context: task.execute(context))

    def resume(self, task_id: str, method: str, event: Mapping[str, Any]) -> Any:
        """Go on with a task after its wait, and return its XCom.

        :param method: that it named when it deferred.
        :param event: of the trigger.
        """
        return self._leg(task_id, lambda task, context: getattr(task, method)(context, dict(event)))

    def _leg(self, task_id: str, work: Any) -> Any:
        task = self.dag.get_task(task_id).prepare_for_execution()
        ti = TaskInstance(task, self.run_id, self.xcoms)
        run = SimpleNamespace(
            dag_id=self.dag.dag_id,
            run_id=self.run_id,
            run_type="manual",
            triggering_user_name=REQUESTER,
            conf={},
            clear_number=0,
        )
        context: Any = {
            "dag": self.dag,
            "dag_run": run,
            "run_id": self.run_id,
            "task": task,
            "ti": ti,
            "task_instance": ti,
            "task_state_store": Kept(),
            "params": self.params,
        }
        task.render_template_fields(context)
        self.xcoms[task_id] = work(task, context)
        return self.xcoms[task_id]
