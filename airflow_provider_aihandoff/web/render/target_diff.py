"""What an effect would change, field by field, in what its target has now. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from airflow_provider_aihandoff.core.models import Effect
from airflow_provider_aihandoff.web.render.budget import Budget
from airflow_provider_aihandoff.web.render.diff import FieldDifference, compare
from airflow_provider_aihandoff.web.render.formatting import written_by


@dataclass(frozen=True)
class Current:
    """What the target had when the plan was rendered, and what the request would make of it.

    :param error: why it could not be read.
    :param nothing: the target had nothing there.
    :param changed: the fields that the request sets to something else.
    :param same: the fields that it sets to what they are.
    :param beside: names of fields that the target has, and the request does not name.
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
    beside: tuple[str, ...] = ()
    if isinstance(record, dict) and isinstance(written, dict):
        beside = tuple(name for name in record if name not in written)
        record = {name: record[name] for name in written if name in record}
    found = compare(record, written, budget)
    changed = tuple(field for field in found if field.change != "same")
    return Current(at, changed=changed, same=tuple(field for field in found if field.change == "same"), beside=beside)
