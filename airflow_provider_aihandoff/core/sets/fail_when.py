"""How many jobs of a set may fail before its task does. Dag files import it. Pure."""

from __future__ import annotations


def too_many(failed: int, items: int, fail_when: float | int | None) -> bool:
    """Whether so many items of a set have failed that its task fails.

    :param fail_when: a share of them (a float, more than 0 and at most 1), or a number (an int, at least 1); None: when
        every one has.
    """
    if fail_when is None:
        return failed >= items
    if isinstance(fail_when, float):
        return failed > 0 and failed >= fail_when * items
    return failed >= fail_when


def checked_fail_when(value: float | int | None) -> float | int | None:
    """The value, if it can be a ``fail_when``.

    :raises ValueError: it is none.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    if isinstance(value, float) and 0 < value <= 1:
        return value
    raise ValueError(
        f"fail_when must be a share (a float, more than 0 and at most 1.0) or a number (an int, at least 1), not "
        f"{value!r}."
    )
