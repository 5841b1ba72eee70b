"""What an effect would change, field by field, in what its target has now. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_provider_aihandoff.core.models import Effect
from airflow_provider_aihandoff.web.render.budget import Budget
from airflow_provider_aihandoff.web.render.diff import MAX_DEPTH, FieldDifference, compare
from airflow_provider_aihandoff.web.render.formatting import written_by


@dataclass(frozen=True)
class Current:
    """What the target had when the plan was rendered, and what the request would make of it.

    :param error: why it could not be read.
    :param nothing: the target had nothing there.
    :param changed: the fields that the request sets to something else.
    :param same: the fields that it sets to what they are.
    :param beside: the paths of fields that the target has, and the request does not name: a target may keep them.
    """

    at: datetime
    error: str | None = None
    nothing: bool = False
    changed: tuple[FieldDifference, ...] = ()
    same: tuple[FieldDifference, ...] = ()
    beside: tuple[str, ...] = ()


def current_of(effect: Effect, budget: Budget) -> Current | None:
    """What the target of an effect had; None if it was not read."""
    reading = effect.current
    if reading is None:
        return None
    at = datetime.fromisoformat(reading["at"])
    if "error" in reading:
        return Current(at, error=str(reading["error"]))
    record, written = reading.get("record"), written_by(effect)
    if record is None:
        return Current(at, nothing=True)
    record, beside = _named(record, written)
    found = compare(record, written, budget)
    changed = tuple(field for field in found if field.change != "same")
    same = tuple(field for field in found if field.change == "same")
    return Current(at, changed=changed, same=same, beside=tuple(beside))


def _named(record: Any, written: Any, depth: int = MAX_DEPTH) -> tuple[Any, list[str]]:
    """What the target has of the fields that the request names, and the paths of those that it does not name."""
    if isinstance(record, list) and isinstance(written, list) and depth:
        items = [_named(item, other, depth - 1) for item, other in zip(record, written, strict=False)]
        beside = [f"[{index}].{path}" for index, (_, paths) in enumerate(items) for path in paths]
        return [*(item for item, _ in items), *record[len(items) :]], beside
    if not (isinstance(record, dict) and isinstance(written, dict)) or depth == 0:
        return record, []
    kept, beside = {}, [name for name in record if name not in written]
    for name in written:
        if name in record:
            kept[name], deeper = _named(record[name], written[name], depth - 1)
            beside += [f"{name}{'' if path.startswith('[') else '.'}{path}" for path in deeper]
    return kept, beside
