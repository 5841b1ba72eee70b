"""Renders the templates of our operators to texts: never to other types, never twice, the same each time."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jinja2
from airflow.providers.common.compat.sdk import BaseOperator
from airflow.sdk.definitions._internal.templater import SandboxedEnvironment
from airflow.sdk.definitions.mappedoperator import MappedOperator

from airflow_provider_aihandoff.core.errors import TemplateError
from airflow_provider_aihandoff.operators.retries import final_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class RendersText(BaseOperator):
    """An operator whose templates render to texts, also in a Dag with ``render_template_as_native_obj=True``.

    A template that gives something without a text of its own, such as a method, a generator or what is not defined,
    fails the task and names the field. What ``expand`` and ``expand_kwargs`` take from another task is a value, and is
    not rendered: Airflow itself renders the values of ``expand_kwargs``.
    """

    #: The field that is being rendered.
    _field: str | None = None

    #: The environment that many copies of one task share, so that each template is compiled once.
    _environment: jinja2.Environment | None = None

    def share_environment(self) -> None:
        """Render this task, and the copies that are made of it, in one environment: there will be many."""
        self._environment = self.get_template_env()

    def get_template_env(self, dag: Any = None) -> jinja2.Environment:
        """The Dag's filters, macros and options, in an environment that renders to texts."""
        dag = dag or self.get_dag()
        base = SandboxedEnvironment(cache_size=0) if dag is None else dag.get_template_env(force_sandboxed=True)
        return TextEnvironment.like(base)

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render the fields; in the environment that is shared, where one is."""
        super().render_template_fields(context, jinja_env or self._environment)

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """Render one value.

        :raises TemplateError: a template in it does not give a text.
        """
        if not isinstance(content, str) or id(content) in (seen_oids or ()):
            return super().render_template(content, context, jinja_env, seen_oids)
        try:
            return super().render_template(self._template(content), context, jinja_env, seen_oids)
        except NotText as error:
            problem = error
        raise TemplateError(
            f"the template {content!r} in `{self._field}` of {self._called()} gives no text: {problem}.",
            remedy="Fix the template, then clear this task.",
        )

    def _called(self) -> str:
        """Whose templates they are, in an error."""
        return f"the task {self.task_id!r}"

    def _template(self, text: str) -> str:
        """A template as it is rendered."""
        return text

    def _render(self, template: jinja2.Template, context: Context, dag: Any = None) -> str:
        return template.render(context)

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: jinja2.Environment,
        seen_oids: set[int],
    ) -> None:
        if parent is not self:
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
            return
        for value in self._given_values(context):
            seen_oids.update(map(id, _parts(value)))
        environment = self._environment or self.get_template_env()
        for field in template_fields:
            if getattr(self, field, field) is None:
                continue
            self._field = field
            with final_errors():
                super()._do_render_template_fields(self, [field], context, environment, seen_oids)
        self._field = None

    def _given_values(self, context: Context) -> Iterator[Any]:
        """The arguments of this task that ``expand_kwargs`` took from another task, and not from the Dag's file."""
        mapped: Any = context["dag"].task_dict.get(context["ti"].task_id) if "ti" in context else None
        if not isinstance(mapped, MappedOperator):
            return
        expanded = mapped._get_specified_expand_input()
        declared = expanded.value
        if isinstance(declared, Mapping):  # of `expand`, which Airflow does not render
            return
        if isinstance(declared, (list, tuple)) and isinstance(declared[context["ti"].map_index or 0], Mapping):
            return
        given, partial = self._BaseOperator__init_kwargs, mapped.partial_kwargs  # type: ignore[attr-defined]
        if mapped._expand_input_attr == "op_kwargs_expand_input":
            given, partial = given["op_kwargs"], partial["op_kwargs"]
        yield from (value for name, value in given.items() if name not in partial or partial[name] is not value)


class NotText(ValueError):
    """A value has no text of its own that is the same each time."""


class Method:
    """A method that a template can call, and not write."""

    def __init__(self, function: Any, name: str) -> None:
        self.function, self._name = function, name

    def __str__(self) -> str:
        raise NotText(f"{self._name} is a method")

    __repr__ = __str__
    __bool__ = __str__
    __html__ = __str__
    __iter__ = __str__

    def __eq__(self, other: object) -> bool:
        raise NotText(f"{self._name} is a method")

    __hash__ = object.__hash__


class TextEnvironment(SandboxedEnvironment):
    """Airflow's environment of a Dag, without what has no text of its own."""

    #: The templates of the one task that is rendered in it, by their texts.
    _compiled: dict[str, jinja2.Template]

    @classmethod
    def like(cls, other: jinja2.Environment) -> TextEnvironment:
        """An environment with the options, filters and globals of another one."""
        made = cls.__new__(cls)  # as Environment.overlay does
        vars(made).update(vars(other))
        made._compiled = {}
        made.finalize = lambda value: checked(value if other.finalize is None else other.finalize(value))
        return made

    def overlay(self, *args: Any, **options: Any) -> TextEnvironment:
        """The same with other options: what was compiled with these is no template of it."""
        made = super().overlay(*args, **options)
        made._compiled = {}
        return made

    def make_globals(self, d: Any) -> Any:
        """The globals of a template, as one plain mapping, since each rendering copies it."""
        return {**self.globals, **(d or {})}

    def from_string(self, source: Any, globals: Any = None, template_class: Any = None) -> jinja2.Template:
        """A template; each text is compiled once."""
        if not isinstance(source, str) or globals or template_class:
            return super().from_string(source, globals, template_class)
        if source not in self._compiled:
            self._compiled[source] = super().from_string(source)
        return self._compiled[source]

    def getattr(self, obj: Any, attribute: str) -> Any:
        """An attribute; a method can only be called."""
        return _callable_only(super().getattr(obj, attribute), obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item or an attribute; a method can only be called."""
        return _callable_only(super().getitem(obj, argument), obj, argument)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, or a method."""
        return super().call(context, obj.function if isinstance(obj, Method) else obj, *args, **kwargs)


def checked(value: Any) -> Any:
    """A value of a template's expression, which has a text of its own.

    :raises NotText: it has none.
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, jinja2.Undefined):
        raise NotText(f"{value._undefined_name!r} is not defined")
    if isinstance(value, Method):
        str(value)
    if inspect.isroutine(value) or inspect.isclass(value):
        raise NotText(f"{value.__name__!r} is a function or a class")
    if isinstance(value, (Iterator, set, frozenset)):
        raise NotText(f"a {type(value).__name__} has no order that is the same each time")
    if "__str__" not in _own_names(value) and "__repr__" not in _own_names(value):
        raise NotText(f"a {type(value).__name__} has no text")
    for part in [*value.keys(), *value.values()] if isinstance(value, Mapping) else _items(value):
        checked(part)
    return value


def _own_names(value: Any) -> set[str]:
    """The names that the classes of a value define themselves."""
    return {name for kind in type(value).__mro__[:-1] for name in vars(kind)}


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _callable_only(value: Any, obj: Any, name: Any) -> Any:
    return Method(value, f"{name!r} of a {type(obj).__name__}") if inspect.isroutine(value) else value


def _parts(value: Any) -> Iterator[Any]:
    """A value, and each value within it."""
    yield value
    for part in value.values() if isinstance(value, dict) else _items(value):
        yield from _parts(part)
