"""What Linux says of one process: its memory and its CPU time."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuShare:
    """CPU seconds that a process has used, up to a moment."""

    used: float
    at: float

    def since(self, before: CpuShare) -> float:
        """Seconds of CPU a second, since another moment."""
        return (self.used - before.used) / (self.at - before.at)


def cpu(pid: int) -> CpuShare:
    """What a process, with all its threads, has used so far."""
    # The name, in parentheses, can hold anything; utime and stime are the 14th and 15th field.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return CpuShare((int(fields[11]) + int(fields[12])) / _TICKS, time.monotonic())


def memory(pid: int) -> int:
    """The resident memory of a process in KiB."""
    return _kib(Path(f"/proc/{pid}/status"), "VmRSS:")


def free_memory() -> float:
    """How much of the machine's memory can still be used, from 0 to 1."""
    meminfo = Path("/proc/meminfo")
    return _kib(meminfo, "MemAvailable:") / _kib(meminfo, "MemTotal:")


def _kib(file: Path, name: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
