"""What an author says of an SQL statement: how many rows it changes, and which table keeps its marker. Pure.

Dag files import it.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_aihandoff.core.errors import PlanError

#: The table that keeps the markers, where the author names none.
MARKER_TABLE = "aihandoff_marker"

#: The least and the most rows that a statement must change; None: without limit.
Rows = tuple[int, int | None]
AT_LEAST_ONE: Rows = (1, None)


def rows_of(declared: Any, name: str) -> Rows:
    """How many rows a statement must change: a number, or the least and the most, of which either may be None.

    :param name: the effect's name, for messages.
    :raises PlanError: it is neither.
    """
    bounds = (declared, declared) if isinstance(declared, int) else declared
    try:
        least, most = bounds
    except (TypeError, ValueError):
        least, most = -1, None
    least = 0 if least is None else least
    right = all(isinstance(bound, int) and not isinstance(bound, bool) for bound in (least, most or 0))
    if not right or least < 0 or (most is not None and most < least):
        raise PlanError(
            f"`rows` of the effect {name!r} is no number of rows: {declared!r}.",
            remedy="Write one number, or two: (1, None) is at least one.",
        )
    return least, most
