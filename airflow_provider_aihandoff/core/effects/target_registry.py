"""Finds the class of a target by its kind, among the kinds that installed packages register.

A package registers a kind with an entry point of the group :data:`GROUP`, named as the kind::

    [project.entry-points."airflow_provider_aihandoff.targets"]
    sms = "my_package.sms:SmsTarget"

The kinds of this package are registered in the same way.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from airflow_provider_aihandoff.core.effects.target import Target
from airflow_provider_aihandoff.core.error_text import said
from airflow_provider_aihandoff.core.errors import UnknownTargetKind

GROUP = "airflow_provider_aihandoff.targets"


@cache
def _registered() -> dict[str, list[EntryPoint]]:
    """The entry points by their names. What is installed does not change while a process runs."""
    found: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in entry_points(group=GROUP):
        found[point.name].append(point)
    return dict(found)


def kinds() -> list[str]:
    """The kinds that are registered here, in the order of the alphabet."""
    return sorted(_registered())


@cache
def target_type(kind: str) -> type[Target]:
    """The class of a kind.

    :raises UnknownTargetKind: no installed package registers it, two do, or the class cannot be used.
    """
    points = _registered().get(kind, [])
    if not points:
        known = ", ".join(kinds()) or "none"
        raise UnknownTargetKind(
            f"no target of the kind {kind!r} is installed here.",
            remedy=f"Check the name; the kinds that are installed here are: {known}. If a package brings this kind, "
            "install it everywhere that effects are planned, applied, shown or rolled back.",
        )
    if len(points) > 1:
        values = " and ".join(sorted(point.value for point in points))
        raise UnknownTargetKind(f"the target kind {kind!r} is registered twice: {values}.", remedy="Uninstall one.")
    (point,) = points
    try:
        found = point.load()
    except Exception as error:
        raise UnknownTargetKind(
            f"the target kind {kind!r} cannot be loaded from {point.value!r}: {said(error)}.",
            remedy="Fix or reinstall the package that brings it.",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Target) and found.kind == kind):
        raise UnknownTargetKind(
            f"{point.value!r}, which is registered as the target kind {kind!r}, is not a target of this kind.",
            remedy="Fix the package that registers it: the class must extend Target, and its `kind` be that name.",
        )
    return found


def find_target_type(kind: str) -> type[Target] | None:
    """The class of a kind, or None where it cannot be used here: the kind of a custom operator."""
    try:
        return target_type(kind)
    except UnknownTargetKind:
        return None
