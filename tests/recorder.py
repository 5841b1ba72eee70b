"""Keeps the metrics that are sent, instead of sending them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow_provider_aihandoff.core import signals


class Recorder:
    """What was sent: each value with the name of its metric and its labels."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, str], float]] = []

    def count(self, name: str, value: int, labels: dict[str, str]) -> None:
        self.sent.append((name, labels, value))

    def gauge(self, name: str, value: float, labels: dict[str, str]) -> None:
        self.sent.append((name, labels, value))

    def timing(self, name: str, seconds: float, labels: dict[str, str]) -> None:
        self.sent.append((name, labels, seconds))

    def of(self, metric: signals.Metric) -> list[tuple[dict[str, str], float]]:
        """What was sent of one metric."""
        return [(labels, value) for name, labels, value in self.sent if name == metric.name]


@contextmanager
def recording() -> Iterator[Recorder]:
    """Record the metrics of this process."""
    recorder = Recorder()
    signals.use(recorder)
    try:
        yield recorder
    finally:
        signals.use(None)
