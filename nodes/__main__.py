"""`python -m nodes`: end each node of a whole Airflow in turn while jobs flow, and print what came of it."""

import argparse
import fcntl
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psycopg

from demo.airflow_api import UNREACHABLE, AirflowApiError
from demo.local import demo_home
from demo.postgres import PostgresUnavailableError
from demo.processes import ProcessFailedError
from nodes import table
from nodes.components import NotInstalledError, check_programs, running
from nodes.faults import STOPPED_SECONDS, Fault, faults, short_faults
from nodes.network import isolate
from nodes.rounds import Rounds
from nodes.topology import SHORT, WHOLE, Topology
from nodes.traffic import Traffic
from nodes.verdict import judge

JOBS, SHORT_JOBS = 200, 20


NOT_PLAYED = (TimeoutError, *UNREACHABLE, AirflowApiError, psycopg.OperationalError)
"""What ends a row, and not the run."""


class AlreadyRunningError(RuntimeError):
    """Another run is under way on this machine."""


def play(home: Path, chosen: Sequence[Fault], topology: Topology, jobs: int) -> list[str]:
    """Play all rounds on one stack, and print the table; return what is no 0 and has to be one."""
    say = _Steps()
    lines, problems = [table.head()], list[str]()
    with running(home, topology, jobs=jobs * len(chosen), report=say) as stack:
        say("Everything is up")
        traffic = Traffic(stack)
        rounds = Rounds(stack, traffic, jobs, say)
        for fault in chosen:
            try:
                result = rounds.play(fault)
            except NOT_PLAYED as error:
                lines.append(table.not_played(fault.name, error))
                problems.append(f"{fault.name}: {error}")
                say(lines[-1])
                continue
            lines.append(table.line(result))
            problems += result.problems
            say(lines[-1])
            for problem in result.problems:
                say(f"  {problem}")
            if result.revived:
                say(f"  ended by themselves, and started again: {', '.join(result.revived)}")
        whole = judge(stack, after=0)
    print("", *lines, sep="\n")
    print(
        f"\n{whole.jobs} jobs, {whole.writes} writes: {len(whole.differences)} differences between ledger and witness."
    )
    return problems + whole.differences


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Keep other runs away.

    :raises AlreadyRunningError: when there is one.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(f"Another run uses {home}. Wait for its end, then try again.") from None
        yield


class _Steps:
    """Prints each step as it begins, with the time since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, step: str) -> None:
        print(f"{time.monotonic() - self._started:7.1f} s  {step}", flush=True)


def _stop_orderly(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run, and exit with an error where something was written twice, lost, not recorded or left open."""
    parser = argparse.ArgumentParser(prog="python -m nodes", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--short", action="store_true", help="one worker and one triggerer are killed, under 20 jobs")
    parser.add_argument("--jobs", type=int, help=f"jobs of each row ({JOBS}; {SHORT_JOBS} in the short form)")
    parser.add_argument("--only", metavar="WORDS", action="append", help="only the rows with these words; repeat it")
    parser.add_argument("--list", action="store_true", help="print the names of the rows, and do nothing")
    parser.add_argument(
        "--stopped", type=float, default=STOPPED_SECONDS, help="seconds that SIGSTOP lasts (default: %(default)g)"
    )
    options = parser.parse_args()
    every = short_faults() if options.short else faults(stopped=options.stopped)
    chosen = [fault for fault in every if not options.only or any(words in fault.name for words in options.only)]
    if options.list:
        print(*(fault.name for fault in chosen), sep="\n")
        return
    signal.signal(signal.SIGTERM, _stop_orderly)
    home = demo_home() / "nodes"
    try:
        check_programs()
        isolate()
        with alone(home):
            topology = Topology(SHORT if options.short else WHOLE)
            problems = play(home, chosen, topology, options.jobs or (SHORT_JOBS if options.short else JOBS))
    except KeyboardInterrupt:
        sys.exit("Stopped.")
    except (
        AlreadyRunningError,
        NotInstalledError,
        PostgresUnavailableError,
        ProcessFailedError,
        TimeoutError,
    ) as error:
        sys.exit(str(error))
    for problem in problems[:50]:
        print(problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
