"""Finds the tasks of one job in a Dag, by the role that each operator declares. Imports none of the operators."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, cast

from airflow.sdk.definitions.mappedoperator import MappedOperator

from airflow_provider_aihandoff.operators.job_argument import source_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.providers.common.compat.sdk import BaseNotifier, Context
    from pydantic import BaseModel

    from airflow_provider_aihandoff.core.generation.provider import WorstCase
    from airflow_provider_aihandoff.core.models import OnLost


class JobRole(StrEnum):
    """What a task does for its job. An operator says so in its class attribute ``job_role``."""

    DRAFT = "draft"  # asks the model
    APPROVAL = "approval"  # waits for a decision
    EFFECT = "effect"  # writes to an outside system


class DraftTask(Protocol):
    """The task that asks the model for a job, as the tasks after it use it."""

    output_type: type[BaseModel] | None
    inline_wait: timedelta | None
    on_lost_submission: OnLost | None

    def build_request(self) -> dict[str, Any]:
        """The request that the rendered fields make, with its secrets."""

    def worst_case(self, request: Mapping[str, Any], *, context_tokens: int | None = None) -> WorstCase:
        """The most that a request can need.

        :param context_tokens: of the response that it continues, if that is known.
        """

    def render_template_fields(self, context: Context) -> None:
        """Render the fields."""


def effect_tasks(dag: Any, source: Any) -> list[Any]:
    """The tasks of a Dag that write for the same job, in topological order. A mapped one is a ``MappedOperator``.

    :param source: what makes the job, as :func:`operators.job_argument.source_of` names it.
    """
    return [task for task in dag.topological_sort() if _role(task) == JobRole.EFFECT and _source(task) == source]


def sources(dag: Any) -> list[Any]:
    """What makes the jobs that tasks of a Dag write for: each once, as :func:`operators.job_argument.source_of` names
    it."""
    return list(dict.fromkeys(_source(task) for task in dag.topological_sort() if _role(task) == JobRole.EFFECT))


def approval_task(dag: Any, source: Any) -> Any:
    """The task of a Dag that waits for the decision on a job; None where there is none.

    :param source: as in :func:`effect_tasks`.
    """
    found = (task for task in dag.tasks if _role(task) == JobRole.APPROVAL and _source(task) == source)
    return next(found, None)


def notifiers_of(dag: Any, source: Any) -> Sequence[BaseNotifier]:
    """The notifiers of the task that waits for the decision on a job; none where there is no such task.

    :param source: as in :func:`effect_tasks`.
    """
    task = approval_task(dag, source)
    found = task.partial_kwargs.get("notifiers") if isinstance(task, MappedOperator) else getattr(task, "notifiers", ())
    return found or ()


def draft_task(dag: Any, source: Any) -> DraftTask | None:
    """The task of a Dag that asks the model for a job; None where there is none.

    :param source: as in :func:`effect_tasks`.
    """
    task = dag.task_dict.get(source) if isinstance(source, str) else None
    return cast("DraftTask", task) if task is not None and _role(task) == JobRole.DRAFT else None


def _role(task: Any) -> Any:
    """The role that the task's operator declares; None where it declares none."""
    return getattr(task.operator_class if isinstance(task, MappedOperator) else task, "job_role", None)


def _source(task: Any) -> Any:
    """What makes the job that a task is about."""
    if isinstance(task, MappedOperator):
        return source_of(task.partial_kwargs.get("job"))
    return task.job_source
