"""Prints the figures of the waiting benchmark: one table, and what follows from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.waiting_rows import HUB, IDLE, POLLING
from benchmarks.waiting_run import EVENT_SECONDS, LOAD_SECONDS, Figures

Results = Mapping[tuple[str, int], Figures]
_WIDTHS = (44, 8, 11, 11, 9, 11)


class Row(NamedTuple):
    """One figure.

    :param ratio: whether how many times as much it is says something.
    """

    name: str
    read: Callable[[Figures], float | None]
    decimals: int
    ratio: bool = True


def _quantile(seconds: Sequence[float], q: float) -> float | None:
    """The smallest of the values that a share of ``q`` does not exceed."""
    return sorted(seconds)[math.ceil(q * len(seconds)) - 1] * 1000 if seconds else None


ROWS = (
    Row("jobs that wait", lambda f: f.waiting, 0, ratio=False),
    Row(f"seconds until all wait (at most {LOAD_SECONDS})", lambda f: f.load_seconds, 1, ratio=False),
    Row("memory a job, event loop's process (KiB)", lambda f: f.memory, 1),
    Row("memory a job, its parent (KiB)", lambda f: f.supervisor_memory, 1),
    Row("connections to the ledger", lambda f: f.ledger_connections, 0, ratio=False),
    Row("connections to OpenAI", lambda f: f.openai_connections, 0),
    Row("CPU idle, event loop's process (s/s)", lambda f: f.cpu, 3),
    Row("CPU idle, its parent (s/s)", lambda f: f.supervisor_cpu, 3),
    Row("requests a minute, webhooks arrive", lambda f: f.requests, 0),
    Row("requests a minute, webhooks are silent", lambda f: f.silent_requests, 0),
    Row("webhook to event, p50 (ms)", lambda f: _quantile(f.fired, 0.5), 0),
    Row("webhook to event, p99 (ms)", lambda f: _quantile(f.fired, 0.99), 0),
    Row("webhook to task resumed, p50 (ms)", lambda f: _quantile(f.resumed, 0.5), 0),
    Row("webhook to task resumed, p99 (ms)", lambda f: _quantile(f.resumed, 0.99), 0),
    Row("event loop blocked, longest (s)", lambda f: max(f.blocked, default=0), 2),
    Row("  while the jobs were loaded", lambda f: max(f.load_blocked, default=0), 2),
    Row("longest pause between heartbeats (s)", lambda f: f.heartbeat_silence, 1, ratio=False),
)


def report(results: Results) -> None:
    """Print the table, what did not go as planned, and how the cost of one job changes with their number."""
    numbers = sorted({jobs for _, jobs in results})
    _line("", "jobs", "hub", "polling", "ratio", "no trigger")
    for row in ROWS:
        for position, jobs in enumerate(numbers):
            found = [results.get((pattern, jobs)) for pattern in (HUB, POLLING, IDLE)]
            values = [None if figures is None else row.read(figures) for figures in found]
            cells = [_cell(value, row.decimals) for value in values]
            _line(row.name if position == 0 else "", f"{jobs:,}", *cells[:2], _ratio(row, *values[:2]), cells[2])
    print()
    for (pattern, jobs), figures in results.items():
        if figures.remark:
            print(f"{pattern}, {jobs:,} jobs: {figures.remark}")
    _costs([results[HUB, jobs] for jobs in numbers])


def _line(*cells: str) -> None:
    first, *others = cells
    print(first.ljust(_WIDTHS[0]) + "".join(cell.rjust(width) for cell, width in zip(others, _WIDTHS[1:], strict=True)))


def _cell(value: float | None, decimals: int) -> str:
    if value is None:
        return "-"
    return f"{value:,.{decimals}f}" if math.isfinite(value) else "none came"


def _ratio(row: Row, hub: float | None, polling: float | None) -> str:
    if not row.ratio or not hub or polling is None or not math.isfinite(polling):
        return ""
    return f"{polling / hub:,.1f}"


def _costs(found: Sequence[Figures]) -> None:
    """Whether the cost of a job falls, as their number grows."""
    print("\nThe hub's cost of one job, as their number grows:")
    costs: tuple[tuple[str, Callable[[Figures], float], int], ...] = (
        ("memory (KiB)", lambda f: f.memory, 1),
        ("CPU (microseconds a second)", lambda f: f.cpu / f.waiting * 1e6, 0),
        ("requests an hour, webhooks arrive", lambda f: (f.requests or 0) / f.waiting * 60, 1),
        ("requests an hour, webhooks are silent", lambda f: (f.silent_requests or 0) / f.waiting * 60, 1),
        ("webhook to event, p50 (ms)", lambda f: 1000 * statistics.median(f.fired), 1),
    )
    for name, read, decimals in costs:
        values = " -> ".join(f"{read(figures):,.{decimals}f}" for figures in found)
        print(f"  {name:40} {values}")
    print(
        f"\nThe ratio is polling to hub. An event that had not come {EVENT_SECONDS} s after the last response ended"
        " counts as infinitely late."
    )
