"""A set of many tickets on a real Airflow, from the trigger to the last write: how long each part takes.

`.venv/bin/python -m benchmarks.set_run 10000` starts the demo's Airflow in a folder of its own, with the stand-in for
OpenAI, runs the template Dag for so many tickets, approves over REST what its policy leaves to people, compares the
ledger with the witnesses, and prints the seconds of each phase. It exits with 1 where they differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from demo.business.seed import MOST_TICKETS
from demo.busy_day import ENVIRONMENT, Day, check_day, run_day
from demo.check import CheckFailedError
from demo.local import running_demo

#: Seconds that the stand-in takes to answer.
ANSWER_SECONDS = 2.0


def main() -> None:
    """Run one set, and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.set_run", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("items", type=int, help=f"how many tickets, 1 to {MOST_TICKETS:,}")
    items = parser.parse_args().items
    if not 1 <= items <= MOST_TICKETS:
        sys.exit(f"A set has 1 to {MOST_TICKETS:,} tickets here, not {items:,}.")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "demo"
        with running_demo(
            home, extra_env=ENVIRONMENT, answer_seconds=ANSWER_SECONDS, more_tickets=items, report=print
        ) as demo:
            try:
                day = run_day(demo, items, print, alone=True)
                check_day(demo, day)
            except CheckFailedError as error:
                sys.exit(str(error))
    report(day, items)
    print(f"With the start of Airflow and the comparison: {time.monotonic() - began:.0f} s.")


def report(day: Day, items: int) -> None:
    """Print the seconds of each phase."""
    print(f"\n{items:,} tickets: {day.said}.")
    for phase, seconds in day.seconds.items():
        print(f"{phase:12} {seconds:8.0f} s {items / max(seconds, 1):8.1f} a second")


if __name__ == "__main__":
    main()
