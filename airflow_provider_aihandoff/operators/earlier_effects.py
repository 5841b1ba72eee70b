"""Placeholders in the templates of an effect: which there may be, and which answers the later effects of a job name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from airflow.sdk.definitions.mappedoperator import MappedOperator

from airflow_provider_aihandoff.core.effects.placeholders import declared_in, earlier, is_current, malformed_in
from airflow_provider_aihandoff.core.errors import TemplateError
from airflow_provider_aihandoff.operators.job_tasks import effect_tasks


def check_placeholders(task: Any, field: str, template: str) -> None:
    """Refuse a placeholder in a template that nothing could fill in.

    :param task: the task of the effect.
    :param field: that the template stands in.
    :raises TemplateError: the template has one.
    """
    for name in sorted(declared_in(template) | malformed_in(template)):
        why, remedy = _why_not(task, field, name)
        if why:
            raise TemplateError(f"`{field}` of the task {task.task_id!r} has {name}, {why}.", remedy=remedy)


def _why_not(task: Any, field: str, name: str) -> tuple[str, str]:
    """Why a placeholder cannot be used there, as a clause, and what to do; two empty texts where it can."""
    if is_current(name) and declared_in(name):
        return ("", "") if field == "undo" else ("which only an undo can have", "Name it in `undo` alone.")
    meant = earlier(name)
    if meant is None:
        if declared_in(name):
            return "", ""
        return (
            "which is no placeholder",
            "Write {effects.NAME.external_id} or {effects.NAME.answer.FIELD}, or in an undo {current.FIELD}.",
        )
    if field in task.known_fields:
        return "and nothing is known of earlier effects when this is rendered", "Use it in what is sent."
    others = _effects_of(task)
    other = others.get(meant.effect)
    if other is None:
        return f"and the job has no effect {meant.effect!r}", f"It has: {', '.join(sorted(others)) or 'none'}."
    if other.task_id not in task.get_flat_relative_ids(upstream=True):
        return (
            f"and the effect {meant.effect!r} does not come before this one",
            f"Put the task {other.task_id!r} before this one in the Dag.",
        )
    if other.for_each is not None:
        return (
            f"and {meant.effect!r} is one effect for each element of a list",
            "Only an effect that is one record can be named.",
        )
    return "", ""


def answer_fields(task: Any) -> tuple[str, ...]:
    """The fields of the target's answer to an effect that other effects of its job name, as paths."""
    found = set[str]()
    if task.for_each is None:
        for other in _effects_of(task).values():
            declared = {field: getattr(other, field, None) for field in other.template_fields if field != "job"}
            names = {name for text in _texts(declared) for name in declared_in(text)}
            found |= {
                meant.field
                for meant in map(earlier, names)
                if meant is not None and meant.effect == task.effect_name and meant.field is not None
            }
    return tuple(sorted(found))


def _effects_of(task: Any) -> dict[str, Any]:
    """The effects of a task's job, its own too, by their names; with ``for_each``, by that of all its elements."""
    dag = task.get_dag()
    found = [] if dag is None else effect_tasks(dag, task.job_source)
    tasks = (each for each in found if not isinstance(each, MappedOperator))
    return {each.effect or each.task_id: each for each in tasks}


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
