"""``python -m chaos``: kill everything at random under load, and count what was written twice, or not at all."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from chaos import plain
from chaos.run import Chaos, Lost, Result, quantile

#: How few of the jobs may stay open in a run that counts.
_OPEN_SHARE = 0.02


def main() -> None:
    """Run, print the tables, and exit with an error where something was written twice, lost or not recorded."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--crashes", type=int, default=300, help="processes to kill (default: 300); 0 leaves it out")
    parser.add_argument("--seed", type=int, default=1, help="decides what happens to which attempt (default: 1)")
    parser.add_argument("--at-once", type=int, default=16, help="pieces of work under way at a time (default: 16)")
    parser.add_argument("--plain", type=int, default=300, help="crashes for each of the plain ways; 0 leaves them out")
    parser.add_argument("--sets", type=int, default=0, help="crashes for sets of many jobs (default: 0, left out)")
    parser.add_argument("--items", type=int, default=20, help="jobs of each set (default: 20)")
    parser.add_argument(
        "--lost",
        type=int,
        default=0,
        help="crashes for each way to find the response of a lost request, with a model that thinks for longer than "
        "anything waits for it; 0 leaves them out",
    )
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # that connections break is what this is about
    with tempfile.TemporaryDirectory() as folder:
        results = []
        plain_ways = ((way, options.plain) for way in plain.PIPELINES)
        for way, crashes in (("handoff", options.crashes), ("set", options.sets), *plain_ways):
            if not plain.can_run(way):
                print(f"{way}: left out, since the provider common-ai is not installed; `make chaos` brings it")
            elif crashes:
                print(f"{way}, seed {options.seed}:", flush=True)
                chaos = Chaos(
                    Path(folder) / way,
                    way=way,
                    crashes=crashes,
                    seed=options.seed,
                    works_at_once=options.at_once,
                    items=options.items,
                )
                results.append(chaos.run(say=lambda line: print(line, flush=True)))
                report_faults(results[-1])
        for lost in get_args(Lost) if options.lost else ():
            print(f"lost requests, {lost}, seed {options.seed}:", flush=True)
            chaos = Chaos(
                Path(folder) / lost,
                way="handoff",
                crashes=options.lost,
                seed=options.seed,
                works_at_once=options.at_once,
                lost=lost,
            )
            results.append(chaos.run(say=lambda line: print(line, flush=True)))
            report_faults(results[-1])
        report(results)
    judged = [result for result in results if ledger(result)]
    problems = [problem for result in judged for problem in failures(result)]
    for problem in problems[:50]:
        print(problem)
    for result in judged:
        for job, lines in list(result.count.histories.items())[:20]:
            print(job, *lines, sep="\n  ")
    sys.exit(1 if problems else 0)


def failures(result: Result) -> list[str]:
    """Why a run through the ledger has failed: what was written twice, lost, or left open."""
    problems = [*result.count.problems, *result.faults.stuck]
    if result.count.open > _OPEN_SHARE * result.count.jobs:
        problems.append(f"{result.count.open} of {result.count.jobs} jobs have not come to an end")
    ended_well = result.count.states["completed"] + result.count.states["rolled_back"]
    if ended_well < result.count.jobs / 2:
        problems.append(f"only {ended_well} of {result.count.jobs} jobs were completed: nothing is shown by that")
    paid_twice = result.count.extra_responses - result.count.cancelled_extra
    if result.way in ("webhooks", "handle") and paid_twice:
        problems.append(f"{paid_twice} responses were paid for twice, with {result.way}")
    return problems


def report_faults(result: Result) -> None:
    """Print what was done, by kind, and the results of the jobs."""
    for kind, number in sorted(result.faults.done.items()):
        print(f"  {number:6,}  {kind}")
    states = ", ".join(f"{number:,} {state}" for state, number in result.count.states.most_common())
    print(f"  {result.count.jobs:,} jobs{f': {states}' if states else ''}; {result.seconds:.0f} s", flush=True)


def report(results: list[Result]) -> None:
    """Print the ways beside one another."""
    rows: dict[str, list[str]] = {"": [result.way for result in results]}
    cells: dict[str, Callable[[Result], str]] = {
        "processes killed": lambda result: f"{result.faults.crashes:,}",
        "jobs": lambda result: f"{result.count.jobs:,}",
        "writes": lambda result: f"{result.count.writes:,}",
        "written twice": lambda result: f"{len(result.count.duplicates):,}",
        "counted on, and not there": lambda result: f"{len(result.count.lost):,}" if ledger(result) else "-",
        "there, and not on the record": lambda result: f"{len(result.count.unrecorded):,}" if ledger(result) else "all",
        "naming another's record": lambda result: f"{len(result.count.misdirected):,}" if ledger(result) else "-",
        "histories broken": lambda result: f"{len(result.count.broken):,}" if ledger(result) else "-",
        "responses paid for twice": lambda result: f"{result.count.extra_responses:,}",
        "... and cancelled in time": lambda result: f"{result.count.cancelled_extra:,}" if ledger(result) else "-",
        "... without a warning": lambda result: f"{len(result.count.unwarned):,}" if ledger(result) else "all",
        "held for a person": lambda result: f"{result.faults.held:,}",
        "jobs left open": lambda result: f"{result.count.open if ledger(result) else len(result.faults.stuck):,}",
        "crash to done, median": lambda result: f"{quantile(result.faults.recovered, 0.5):.1f} s",
        "crash to done, p99": lambda result: f"{quantile(result.faults.recovered, 0.99):.1f} s",
    }
    for name, value in cells.items():
        rows[name] = [value(result) for result in results]
    for name, values in rows.items():
        print(f"{name:30}" + "".join(f"{value:>12}" for value in values))


def ledger(result: Result) -> bool:
    """Whether there is a ledger to compare with."""
    return result.way not in plain.PIPELINES


if __name__ == "__main__":
    main()
