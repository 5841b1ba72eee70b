"""A job as templates, plans and policies see it: what stays the same between its approval and its effects. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.models import Job, Revision


class Fields(dict[str, Any]):
    """A JSON object whose values can also be read as attributes: ``job.output.title``.

    A name of the object comes before a method of ``dict`` with the same name, so that an output with a field
    ``items`` can be used in a template.
    """

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and dict.__contains__(self, name):
            value = dict.__getitem__(self, name)
            return _callable(value, super().__getattribute__(name)) if name == "items" else value
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        if dict.__contains__(self, name):
            return dict.__getitem__(self, name)
        names = ", ".join(sorted(self)) or "none"
        raise AttributeError(f"no field {name!r}; there are: {names}")


def _callable(value: Any, method: Callable[[], Any]) -> Any:
    """The value of a field named ``items``, which can be called as the method of that name: JSON encoders call it.

    None, true and false cannot be dressed up; ``tojson`` of an object with one of them under this name is an error.
    """
    if value is None or isinstance(value, bool):
        return value
    kind: Any = type(value)
    return type(kind.__name__, (kind,), {"__call__": lambda self: method()})(value)


def as_fields(value: Any) -> Any:
    """Wrap every JSON object within ``value`` as :class:`Fields`."""
    if isinstance(value, dict):
        return Fields({name: as_fields(item) for name, item in value.items()})
    if isinstance(value, list):
        return [as_fields(item) for item in value]
    return value


@dataclass(frozen=True)
class JobView:
    """``job`` in a template, in :meth:`SideEffectOperator.plan` and in a policy.

    It has no state, no time and no decision, on purpose: a plan that used one would not be the same when it is
    applied as when it was approved.

    :param output: the output of the current revision: a text, or the fields of the output type.
    """

    job_id: int
    job_type: str
    job_key: str
    revision: int
    requested_by: str
    permissions: Any
    input: Any
    output: Any


def view(job: Job, revision: Revision) -> JobView:
    """The view of a job at one of its revisions."""
    return JobView(
        job_id=job.job_id,
        job_type=job.job_type,
        job_key=job.job_key,
        revision=revision.number,
        requested_by=job.requested_by,
        permissions=as_fields(job.permissions),
        input=as_fields(job.input),
        output=as_fields(revision.output),
    )
