"""The arguments of operators that say how a request, or a write, waits for limits of speed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from airflow_provider_aihandoff.core.models import PriorityName

#: Who may wait for a request or a write.
_PRIORITIES: tuple[PriorityName, ...] = ("interactive", "batch")


def checked_priority(priority: Any) -> PriorityName:
    """Who waits for it.

    :raises ValueError: it is neither of the two.
    """
    if priority not in _PRIORITIES:
        raise ValueError(f"priority must be 'interactive' or 'batch', not {priority!r}.")
    found: PriorityName = priority
    return found


def checked_max_wait(max_wait: timedelta | None) -> timedelta | None:
    """How long it waits for a limit of speed.

    :raises ValueError: it is no time, or none that can pass.
    """
    if max_wait is not None and (not isinstance(max_wait, timedelta) or max_wait <= timedelta(0)):
        raise ValueError(f"max_wait must be a timedelta above 0, or None, not {max_wait!r}.")
    return max_wait
