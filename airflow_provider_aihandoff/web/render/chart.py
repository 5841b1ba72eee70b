"""Pictures of figures by day and type, laid out for SVG; the table of the same figures stands behind each. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

#: How many types have a colour of their own; the others are one, under this name.
MAX_SERIES = 5
OTHERS = "other types"

#: In units of the picture.
WIDTH, HEIGHT = 640, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 8, 12, 24

#: A figure of one day and one type.
Point = tuple[date, str, float]

#: A type with its figures by day.
_Series = tuple[str, dict[date, float]]


@dataclass(frozen=True)
class Mark:
    """One bar or point.

    :param series: the number of its type, from 0 on.
    :param said: what it is, in words.
    """

    x: float
    y: float
    width: float
    height: float
    series: int
    said: str


@dataclass(frozen=True)
class Chart:
    """One picture.

    :param name: names its parts in the page; letters alone.
    :param said: what the picture shows, in words, with its figures summed up.
    :param kind: ``bars`` stand on each other, ``points`` are by themselves.
    :param series: the types, in the order of their colours.
    :param ticks: the lines behind it: where, and what they stand for.
    :param days: where each day is, and its date; not each one has a room for it.
    :param rows: the table: a day, and the figure of each type on it as text.
    """

    name: str
    title: str
    said: str
    kind: Literal["bars", "points"]
    series: list[str]
    marks: list[Mark]
    ticks: list[tuple[float, str]]
    days: list[tuple[float, str]]
    rows: list[tuple[date, list[str]]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT


def chart(
    name: str,
    title: str,
    points: Iterable[Point],
    *,
    kind: Literal["bars", "points"],
    types: Sequence[str],
    until: date,
    number_of_days: int,
    text: Callable[[float], str],
    whole: bool = False,
) -> Chart | None:
    """Lay out a picture; None where there is no figure.

    :param points: at most one for each day and type.
    :param types: the types in the order of their colours, which is that of every picture of a page.
    :param until: the last day.
    :param text: a figure as text.
    :param whole: the figures are whole numbers.
    """
    values: dict[str, dict[date, float]] = defaultdict(dict)
    for day, of_type, value in points:
        values[of_type][day] = value
    if not any(value for by_day in values.values() for value in by_day.values()):
        return None
    series = _grouped(values, types, kind)
    days = [until - timedelta(days=back) for back in reversed(range(number_of_days))]
    tops = [_of_day(series, day, kind) for day in days]
    top = _round_up(max(tops))
    step = (WIDTH - _LEFT - _RIGHT) / len(days)
    room = HEIGHT - _TOP - _BOTTOM
    marks = []
    for place, day in enumerate(days):
        base = 0.0
        for number, (of_type, by_day) in enumerate(series):
            if day not in by_day:
                continue
            value = by_day[day]
            height, x = value / top * room, _LEFT + place * step
            y = HEIGHT - _BOTTOM - base - height
            marks.append(Mark(x + step * 0.15, y, step * 0.7, height, number, f"{day}, {of_type}: {text(value)}"))
            base += height if kind == "bars" else 0
    every = -(-len(days) // 7)
    return Chart(
        name,
        title,
        _in_words(title, [of_type for of_type, _ in series], days, tops, text),
        kind,
        [of_type for of_type, _ in series],
        marks,
        [(HEIGHT - _BOTTOM - part / top * room, text(part)) for part in _ticks(top, whole)],
        [
            (_LEFT + (place + 0.5) * step, f"{day:%d %b}")
            for place, day in enumerate(days)
            if (len(days) - 1 - place) % every == 0
        ],
        [
            (day, [text(by_day[day]) if day in by_day else "" for _, by_day in series])
            for day in reversed(days)
            if any(day in by_day for _, by_day in series)
        ],
    )


def _grouped(
    values: Mapping[str, dict[date, float]], types: Sequence[str], kind: str
) -> list[tuple[str, dict[date, float]]]:
    """The first types, and all others as one; of points, which cannot be added, without the others."""
    series = [(of_type, values.get(of_type, {})) for of_type in types[:MAX_SERIES]]
    rest = [by_day for of_type, by_day in values.items() if of_type not in types[:MAX_SERIES]]
    if kind == "points" or not rest:
        return series
    others: dict[date, float] = defaultdict(float)
    for by_day in rest:
        for day, value in by_day.items():
            others[day] += value
    return [*series, (OTHERS, dict(others))]


def _of_day(series: Sequence[_Series], day: date, kind: str) -> float:
    found = [by_day.get(day, 0.0) for _, by_day in series]
    return sum(found) if kind == "bars" else max(found)


def _round_up(value: float) -> float:
    """The next number that reads well: 1, 2 or 5 times a power of ten. At least a little."""
    size = 1e-6
    while size < value:
        for factor in (2.0, 2.5, 2.0):
            if size >= value:
                break
            size *= factor
    return float(f"{size:.3g}")


def _ticks(top: float, whole: bool) -> list[float]:
    """What the lines behind a picture stand for. Of whole numbers, none stands for a part of one."""
    middle = top / 2
    return [0.0, top] if whole and not middle.is_integer() else [0.0, middle, top]


def _in_words(
    title: str, series: Sequence[str], days: Sequence[date], tops: Sequence[float], text: Callable[[float], str]
) -> str:
    highest = max(range(len(days)), key=lambda place: tops[place])
    return (
        f"{title}, by day from {days[0]} to {days[-1]}, for {', '.join(series)}. "
        f"The highest is {text(tops[highest])} on {days[highest]}. The table below has every figure."
    )
