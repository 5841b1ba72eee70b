"""One effect for each element of a list in the output: which elements there are, and what came of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused, HandoffError, PlanError
from airflow_provider_aihandoff.core.json_path import check_json_path, find_values

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.effects.apply import Wait
    from airflow_provider_aihandoff.core.jobs.job_view import JobView


@dataclass(frozen=True)
class Element:
    """One element of the list.

    :param index: its number, from 0.
    :param item: as templates have it.
    """

    index: int
    item: Any


def check_path(path: str) -> None:
    """Find out whether ``for_each`` is a JSONPath.

    :raises ValueError: it is not.
    """
    try:
        check_json_path(path)
    except ValueError as error:
        raise ValueError(f"for_each must be a JSONPath such as '$.lines', not {path!r}: {error}") from error


def elements_of(job: JobView, path: str, *, effect: str, limit: int) -> list[Element]:
    """The elements of the list that a JSONPath names in a job's output.

    :param effect: the name of the effect, for messages.
    :raises PlanError: it names no list, or more than one; or the list is longer than the limit.
    """
    from airflow_provider_aihandoff.core.jobs.job_view import as_fields

    found, label = find_values(job.output, path), f"job {job.job_id}"
    if len(found) != 1 or not isinstance(found[0], list):
        what = f"{len(found)} values" if len(found) != 1 else f"a value of the type {type(found[0]).__name__}"
        raise PlanError(
            f"for_each of the effect {effect!r} must name one list in the output; {path!r} names {what}.",
            job=label,
            remedy="Fix the path, or the output type; then clear this task.",
        )
    if len(found[0]) > limit:
        raise PlanError(
            f"for_each of the effect {effect!r} names a list of {len(found[0])} elements, and max_elements is {limit}.",
            job=label,
            remedy="Raise max_elements, or ask for fewer; then clear this task.",
        )
    return [Element(index, as_fields(item)) for index, item in enumerate(found[0])]


def first_wait(waits: Sequence[Wait]) -> Wait:
    """The wait that ends first; one for a person last."""
    return min(waits, key=lambda wait: math.inf if wait.seconds is None else wait.seconds)


def all_failures(effect: str, failures: Sequence[HandoffError], total: int) -> HandoffError:
    """One error for the elements that failed. It is final if each of them is.

    :param total: how many elements there are.
    """
    final = all(isinstance(failure, EffectRefused) for failure in failures)
    kind = EffectRefused if final else EffectNotNow
    return kind(
        f"{len(failures)} of {total} elements of the effect {effect!r} failed: "
        + "; ".join(failure.what.rstrip(".") for failure in failures)
        + ".",
        job=failures[0].job or "",
        written="No external write was made for these. The other elements are applied.",
        remedy="Fix the cause, then clear this task: it sends only what is not applied."
        if final
        else "A retry sends only what is not applied.",
    )
