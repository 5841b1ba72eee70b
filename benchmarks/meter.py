"""What a stretch of time has cost: by the clock, in this process, and on all processors of the machine."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Meter:
    """Begins to measure when it is made."""

    def __init__(self) -> None:
        self._begun = self._now()

    def read(self) -> dict[str, float]:
        """Seconds since then: ``seconds`` by the clock, ``cpu`` of this process, and ``machine`` that all processors
        were busy, in whatever process."""
        return {name: now - self._begun[name] for name, now in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {"seconds": time.perf_counter(), "cpu": time.process_time(), "machine": _busy_seconds()}


def _busy_seconds() -> float:
    """How long the processors of this machine have been busy, as Linux counts it (``man 5 proc_stat``)."""
    _, user, nice, system, _, _, interrupts, soft, *_ = Path("/proc/stat").read_text().split(maxsplit=9)
    return sum(map(int, (user, nice, system, interrupts, soft))) / os.sysconf("SC_CLK_TCK")
