"""What thousands of jobs cost that wait for OpenAI in one triggerer, beside the way in which Airflow's providers wait.

Run it with `.venv/bin/python -m benchmarks.waiting [numbers of jobs]`, on Linux; by default with 100, 1,000 and 10,000.
The triggerer is Airflow's own, with its event loop in a process of its own, on a PostgreSQL from the wheel with its
durable defaults. What waits in it is `OpenAIBackgroundResponseTrigger`, as it is ("hub"); then, in a new triggerer,
the pattern of the providers ("polling", see `waiting_triggers`); and, for the largest number, triggers that do nothing:
what Airflow itself costs.

How the figures are taken:

- Memory is resident memory, beyond that of the same process with one job that waits.
- CPU is taken over 20 s in which nothing ends. The hub's is taken while webhooks arrive.
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
from benchmarks.waiting_rows import HUB, IDLE, POLLING
from benchmarks.waiting_run import Figures, Run
from benchmarks.waiting_stack import WaitingStack

DEFAULT_NUMBERS = (100, 1_000, 10_000)


def main() -> None:
    """Measure each number of jobs in each way, and print the table."""
    numbers = sorted({int(argument) for argument in sys.argv[1:]} or DEFAULT_NUMBERS)
    allow_many_files()
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


def allow_many_files() -> None:
    """Airflow keeps a log file open for each trigger, and a client for each needs a connection for each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
