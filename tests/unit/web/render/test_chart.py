"""A picture has every figure at its place, in words and in the table behind it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.amounts import dollars
from airflow_provider_aihandoff.web.render.chart import MAX_SERIES, OTHERS, Chart, Point, chart
from airflow_provider_aihandoff.web.render.formatting import span_of_time

TODAY = date(2026, 2, 14)
YESTERDAY = TODAY - timedelta(days=1)


def drawn(*points: Point, **more: Any) -> Chart:
    types = sorted({of_type for _, of_type, _ in points})
    values = {"kind": "bars", "types": types, "until": TODAY, "number_of_days": 14, "text": "{:g}".format}
    made = chart("jobs", "Jobs", points, **{**values, **more})
    assert made is not None
    return made


def test_bars_of_one_day_stand_on_each_other_in_proportion() -> None:
    made = drawn((TODAY, "a", 30), (TODAY, "b", 10), (YESTERDAY, "a", 20))
    before, first, second = made.marks
    assert first.height == pytest.approx(3 * second.height)
    assert second.y + second.height == pytest.approx(first.y)
    assert first.y + first.height == pytest.approx(before.y + before.height)
    assert before.x < first.x == second.x
    assert (first.series, second.series) == (0, 1)
    assert first.said == "2026-02-14, a: 30"


def test_points_stand_by_themselves() -> None:
    made = drawn((TODAY, "a", 30), (TODAY, "b", 10), kind="points")
    assert made.marks[0].y < made.marks[1].y


def test_no_mark_leaves_the_picture() -> None:
    made = drawn(*[(TODAY - timedelta(days=back), "a", 7.0**back) for back in range(14)])
    assert all(mark.y >= 0 and mark.y + mark.height <= made.height for mark in made.marks)
    assert all(made.left <= mark.x and mark.x + mark.width <= made.right for mark in made.marks)


@pytest.mark.parametrize(("highest", "top"), [(7, "10"), (10, "10"), (11, "20"), (21, "50"), (0.003, "0.005")])
def test_the_scale_ends_at_a_number_that_reads_well(highest: float, top: str) -> None:
    assert drawn((TODAY, "a", highest)).ticks[-1][1] == top


@pytest.mark.parametrize(
    ("highest", "ticks"), [(1, ["0", "1"]), (2, ["0", "1", "2"]), (4, ["0", "5"]), (60, ["0", "50", "100"])]
)
def test_no_line_behind_whole_numbers_stands_for_a_part_of_one(highest: int, ticks: list[str]) -> None:
    made = drawn((TODAY, "a", highest), whole=True)
    assert [text for _, text in made.ticks] == ticks


@pytest.mark.parametrize("highest", [10.0**power * factor for power in range(-6, 8) for factor in (1, 2, 5)])
@pytest.mark.parametrize("text", [span_of_time, lambda value: dollars(Decimal(str(value))) if value else "$0"])
def test_each_line_behind_times_and_costs_reads_another_figure(highest: float, text: Callable[[float], str]) -> None:
    made = drawn((TODAY, "a", highest), text=text, kind="points")
    texts = [text for _, text in made.ticks]
    if highest >= 0.0002 or text is span_of_time:
        assert len(set(texts)) == 3, texts
    assert texts[0] in ("0 s", "$0")


def test_further_types_are_one_where_they_can_be_added() -> None:
    points = [(TODAY, f"type_{number}", 1.0) for number in range(MAX_SERIES + 3)]
    bars = drawn(*points)
    assert bars.series[-1] == OTHERS
    assert bars.rows == [(TODAY, ["1"] * MAX_SERIES + ["3"])]
    assert OTHERS not in drawn(*points, kind="points").series


def test_the_words_name_the_highest_figure_and_the_table_has_all() -> None:
    made = drawn((TODAY, "a", 3), (YESTERDAY, "b", 5))
    assert "for a, b" in made.said
    assert f"The highest is 5 on {YESTERDAY}" in made.said
    assert made.rows == [(TODAY, ["3", ""]), (YESTERDAY, ["", "5"])]


@pytest.mark.parametrize("points", [[], [(TODAY, "a", 0.0)]])
def test_without_a_figure_there_is_no_picture(points: list[Point]) -> None:
    made = chart("jobs", "Jobs", points, kind="bars", types=["a"], until=TODAY, number_of_days=14, text=str)
    assert made is None
