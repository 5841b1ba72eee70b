"""``@task.side_effect``: an effect that a Python function writes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import get_unique_task_id, task_decorator_factory

from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.errors import PlanError
from airflow_provider_aihandoff.operators.side_effect import SideEffectOperator
from airflow_provider_aihandoff.targets.rollback_functions import (
    KEY_PARAMETER,
    importable_path,
    path_of,
    rollback_function,
    runs_when_called,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import TaskDecorator

    from airflow_provider_aihandoff.core.jobs.job_view import JobView
    from airflow_provider_aihandoff.targets.function import FunctionTarget

#: The parameter in which the function of an undo gets the external record id, if it has one of this name.
ID_PARAMETER = "external_id"


class FunctionSideEffectOperator(SideEffectOperator):
    """Call one Python function, at most once, with exactly the arguments that were approved.

    The plan is the function's name, a digest of its own code, and its arguments, its defaults too, as the JSON that it
    is called with: a date arrives as a text. It gets the effect key, where it has a parameter ``effect_key``. What
    it calls is not part of the plan.

    The function writes once, through one system, and returns the external record id, an :class:`Applied`, or None. It
    raises :class:`EffectRefused` where it is certain that nothing was written, and :class:`EffectNotNow` where, beside
    that, a retry may help; **anything else that it raises means that it is not known** whether it has written. Nothing
    interrupts it: it must end within ``timeout`` by itself. Retry, clear and kill are those of
    :class:`SideEffectOperator`.

    :param python_callable: the function. Airflow's context is not passed to it: what it uses is an argument.
    :param op_args: its arguments by position (templated).
    :param op_kwargs: its arguments by name (templated).
    :param key: the effect's name within the job, of which its effect key is made; by default the id of the task.
    :param probe: a function that finds out what became of a call: it takes what it needs of the same arguments and
        ``effect_key``, and returns the external record id or an :class:`Applied` where it finds the write,
        ``NotApplied()`` or False where it sees no trace of it, and None where it cannot tell.
    :param undo: a mapping, as :class:`SideEffectOperator` takes it; or a function that workers can import, which is
        marked with :func:`rollback_function`, and takes what it needs of the same arguments, ``external_id``, and
        ``effect_key``, the key of the undo itself.
    :param timeout: seconds that one call may take at most; no one else calls meanwhile.
    """

    template_fields: Sequence[str] = ("job", "arguments", "undo")
    template_fields_renderers: ClassVar[dict[str, str]] = {"arguments": "json", "undo": "json"}
    custom_operator_name = "@task.side_effect"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        task_id: str,
        op_args: Sequence[Any] = (),
        op_kwargs: Mapping[str, Any] | None = None,
        key: str | None = None,
        probe: Callable[..., Any] | None = None,
        undo: dict[str, Any] | Callable[..., Any] | None = None,
        timeout: float = 300.0,
        **kwargs: Any,
    ) -> None:
        for function in (python_callable, probe, undo):
            if callable(function) and not (inspect.isfunction(function) and runs_when_called(function)):
                raise ValueError(
                    f"{function!r} does not do its work when it is called: it is not a plain function, or it is "
                    "asynchronous or a generator. Write a function that does the work and returns."
                )
        self.python_callable = python_callable
        self.probe_function = probe
        self.arguments = bound_arguments(python_callable, op_args, op_kwargs or {})
        task_id = get_unique_task_id(task_id, kwargs.get("dag"), kwargs.get("task_group"))
        planned_undo = undo_of(undo, self.arguments) if callable(undo) else undo
        super().__init__(task_id=task_id, effect=key, undo=planned_undo, **kwargs)
        self.call_seconds = float(timeout)

    def plan(self, job: JobView) -> dict[str, Any]:
        """The function's name, a digest of its code, and its arguments, as the JSON that they are shown as.

        :raises PlanError: they have no JSON form.
        """
        from airflow_provider_aihandoff.targets.function import source_digest

        try:
            arguments = json.loads(canonical_json(self.marked("arguments")))
        except ValueError as error:
            raise PlanError(f"an argument of the effect {self.effect_name!r} is not JSON: {error}.") from error
        function = self.python_callable
        return self.settled_plan(
            {"function": path_of(function), "code": source_digest(function), "arguments": arguments}
        )

    def target(self) -> FunctionTarget:
        """The function, and the one that probes."""
        from airflow_provider_aihandoff.targets.function import FunctionTarget

        return FunctionTarget(
            self.effect_name,
            self.python_callable,
            self.probe_function,
            idempotent=self.idempotent,
            call_seconds=self.call_seconds,
            grace_seconds=self.grace_seconds,
            resends=self.resends,
            verify=self.verify,
            try_probe=self.try_probe,
        )


def side_effect_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Make an effect of a function: ``@task.side_effect(job=draft, key="post", probe=find_post, undo=remove_post)``.

    :param python_callable: the function.
    :param kwargs: what :class:`FunctionSideEffectOperator` takes.
    """
    return task_decorator_factory(python_callable, decorated_operator_class=FunctionSideEffectOperator, **kwargs)


def bound_arguments(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names, its defaults too, without the effect key, which is not known yet.

    :raises TypeError: the function cannot be called with them, or not with arguments by name.
    """
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
            raise TypeError(f"{path_of(function)} must take its parameter {parameter.name!r} by name.")
    bound = signature.bind(*args, **kwargs, **_key_of(signature))
    bound.apply_defaults()
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        elif name != KEY_PARAMETER:
            arguments[name] = value
    return arguments


def undo_of(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The undo that a function is: called with those of the arguments, and the external id, that it takes.

    :raises PlanError: workers cannot import it by its name, or it is not marked with :func:`rollback_function`.
    :raises TypeError: it takes something that it is not given.
    """
    signature = inspect.signature(function)
    offered = {**arguments, ID_PARAMETER: "{external_id}"}
    taken = {name: value for name, value in offered.items() if name in signature.parameters}
    signature.bind(**taken, **_key_of(signature))
    return {"function": importable_path(function), "arguments": taken}


def _key_of(signature: inspect.Signature) -> dict[str, None]:
    """In the place of the effect key, where it is taken: it is known when the function is called."""
    return {KEY_PARAMETER: None} if KEY_PARAMETER in signature.parameters else {}


__all__ = ["FunctionSideEffectOperator", "rollback_function", "side_effect_task"]
