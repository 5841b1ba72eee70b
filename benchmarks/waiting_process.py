"""What Linux says of one process: its memory and its CPU time."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from demo.guardian import descendants

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


def cpu_of_tree(pid: int) -> float:
    """Seconds of CPU of a process, of all that came from it, and of those of them that have ended."""
    return sum(_cpu_of_all(each) for each in {pid, *descendants(pid)})


def _cpu_of_all(pid: int) -> float:
    """With what its children had used when they ended; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS


def runs_module(pid: int, module: str) -> bool:
    """Whether a process is Python that runs a module."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1:3] == ["-m", module]
    except OSError:
        return False


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
