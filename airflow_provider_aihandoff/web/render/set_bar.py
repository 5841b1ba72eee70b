"""The bar of a set: a part for each state of its jobs, as wide as its share. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_aihandoff.core.states import JobState

#: In units of the picture.
BAR_WIDTH, BAR_HEIGHT = 640, 20

#: The colour of each state, by the number of its class.
_SERIES = {
    JobState.QUEUED: 5,
    JobState.RUNNING: 0,
    JobState.REVIEW: 2,
    JobState.APPROVED: 3,
    JobState.APPLYING: 3,
    JobState.COMPLETED: 1,
}
_OTHER = 4


@dataclass(frozen=True)
class Part:
    """One part of the bar.

    :param series: the number of its colour.
    """

    state: JobState
    number: int
    x: float
    width: float
    series: int


def bar_of(counted: Sequence[tuple[JobState, int]]) -> list[Part]:
    """The parts of a bar.

    :param counted: how many jobs there are in each state; none without any.
    """
    total, parts, x = sum(number for _, number in counted), [], 0.0
    for state, number in counted:
        width = BAR_WIDTH * number / total
        parts.append(Part(state, number, round(x, 2), round(width, 2), _SERIES.get(state, _OTHER)))
        x += width
    return parts
