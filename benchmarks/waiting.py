"""What thousands of jobs cost that wait for OpenAI in one triggerer, beside the way in which Airflow's providers wait.

Run it with `.venv/bin/python -m benchmarks.waiting [numbers of jobs]`, on Linux; by default with 100, 1,000 and 10,000.
The triggerer is Airflow's own, with its event loop in a process of its own, on a PostgreSQL from the wheel with its
durable defaults. What waits in it is `OpenAIBackgroundResponseTrigger`, as it is ("hub"); then, in a new triggerer,
the pattern of the providers ("polling", see `waiting_triggers`); and, for the largest number, triggers that do nothing:
what Airflow itself costs.

`.venv/bin/python -m benchmarks.waiting --sets [jobs] [jobs of a set]` lets as many wait as sets, with one trigger for
each set: 50,000 in sets of 1,000 unless you say otherwise. What it prints is for all of them together, beyond the first
set; nothing is ended.

How the figures are taken:

- Memory is resident memory, beyond that of the same process with one job that waits.
- CPU is taken over 40 s in which nothing ends. The hub's is taken while webhooks arrive.
- A webhook is `Ledger.inbox.receive`, 40 a second; its time is the one before the call. Without webhooks, it is the
  moment from which OpenAI says `completed`. The event's time is that of "Trigger fired event" in Airflow's log of the
  trigger. The task is resumed when Airflow's database has it as `scheduled`: a trigger in that database notes the time.
- OpenAI is a small server that counts, without a delay of its own.
- Tasks and jobs are written into the two databases directly, and no scheduler runs: nothing takes the resumed tasks up.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.waiting_report import report
from benchmarks.waiting_rows import HUB, IDLE, POLLING, SETS
from benchmarks.waiting_run import Figures, Run
from benchmarks.waiting_stack import WaitingStack

DEFAULT_NUMBERS = (100, 1_000, 10_000)
SETS_OF_JOBS = (50_000, 1_000)


def main() -> None:
    """Measure each number of jobs in each way, and print the table."""
    allow_many_files()
    if sys.argv[1:2] == ["--sets"]:
        jobs, of_each = [*map(int, sys.argv[2:]), *SETS_OF_JOBS[len(sys.argv) - 2 :]]
        measure_sets(jobs, of_each)
        return
    numbers = sorted({int(argument) for argument in sys.argv[1:]} or DEFAULT_NUMBERS)
    results: dict[tuple[str, int], Figures] = {}
    begun = time.monotonic()

    def progress(what: str) -> None:
        print(f"{time.monotonic() - begun:5.0f} s  {what}", file=sys.stderr, flush=True)

    progress("start")
    with tempfile.TemporaryDirectory() as folder, WaitingStack(Path(folder), numbers[-1]) as stack:
        for jobs in numbers:
            for pattern in (HUB, POLLING, IDLE) if jobs == numbers[-1] else (HUB, POLLING):
                results[pattern, jobs] = Run(stack, pattern, jobs, progress).measure()
    progress("end")
    report(results)


def measure_sets(jobs: int, of_each: int) -> None:
    """Let so many jobs wait, in sets of so many, and print what that costs."""
    sets = jobs // of_each
    with tempfile.TemporaryDirectory() as folder, WaitingStack(Path(folder), sets, of_each) as stack:
        found = Run(stack, SETS, sets, lambda what: print(what, file=sys.stderr, flush=True)).measure()
    print(f"{found.waiting * of_each:,} jobs wait in {found.waiting:,} sets {found.remark}")
    for what, value in (
        ("seconds until all wait", f"{found.load_seconds:,.1f}"),
        ("connections to the ledger", f"{found.ledger_connections:,}"),
        ("CPU idle, event loop's process (s/s); goal: 0.02", f"{found.cpu:.3f}"),
        ("CPU idle, its parent (s/s)", f"{found.supervisor_cpu:.3f}"),
        ("CPU while webhooks are silent (s/s)", f"{found.silent_cpu:.3f}"),
        ("memory of all, event loop's process (MiB)", f"{found.memory * found.waiting / 1024:,.1f}"),
        ("memory a job (KiB)", f"{found.memory / of_each:,.2f}"),
        ("requests a minute, webhooks arrive", f"{found.requests or 0:,.0f}"),
        ("requests a minute, webhooks are silent", f"{found.silent_requests or 0:,.0f}"),
        ("event loop blocked, longest (s)", f"{max(found.load_blocked, default=0):.2f}"),
    ):
        print(f"  {what:50} {value:>10}")


def allow_many_files() -> None:
    """Airflow keeps a log file open for each trigger, and a client for each needs a connection for each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
