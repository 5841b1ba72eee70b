"""The bar of a set."""

from __future__ import annotations

from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.render.set_bar import BAR_WIDTH, bar_of


def test_each_part_is_as_wide_as_its_share() -> None:
    parts = bar_of([(JobState.RUNNING, 1), (JobState.COMPLETED, 3)])
    assert [(part.x, part.width) for part in parts] == [(0, BAR_WIDTH / 4), (BAR_WIDTH / 4, BAR_WIDTH * 3 / 4)]
    assert bar_of([]) == []
