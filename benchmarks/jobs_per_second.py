"""How many jobs a second go from draft to write through one ledger with 1, 2 and 4 workers, and where the time goes.

Run it with `.venv/bin/python -m benchmarks.jobs_per_second [--jobs 240] [--workers 1 2 4]` on a quiet machine, some
minutes. A worker is a process that makes its jobs one after the other: it drafts each, lets a policy approve it, and
writes it, with the operators themselves, each opening the ledger for itself as a task does. No Airflow takes part.
OpenAI is the stand-in, which answers at once; the target is the demo's business system, which syncs each write to
disk; PostgreSQL is the one from the wheel, with its durable defaults. The numbers of workers take turns, so that other
work on the machine slows them alike.

The time of a job is that of the worker: in calls to the ledger, in calls to the model, in calls to the target, and the
rest, which is the worker's own work. The CPU is that of each process, also of PostgreSQL. With `--sets`, each worker
makes its jobs as one set, in threads, with transactions that they share: then only the CPU is split.

With `--airflow 40` it runs so many jobs as mapped tasks on the demo's Airflow in place of all that, and prints the CPU
that each component takes for a job.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from airflow_provider_aihandoff.core.database import schema
from benchmarks.sets_services import Services, services
from benchmarks.waiting_process import cpu_of_tree, runs_module
from demo.airflow_stack import COMPONENTS, postgres_connection
from demo.guardian import descendants
from demo.local import CHECKOUT, running_demo
from demo.postgres import Postgres, PostgresServer
from demo.processes import python

_COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = %s"

#: What a worker spends its time in.
PARTS = ("ledger", "model", "target", "rest")


@dataclass(frozen=True)
class Pace:
    """What some workers did together.

    :param seconds: from the first beginning to the last end.
    :param spent: seconds a job, by what the worker spent them in; empty in threads, where that cannot be separated.
    :param cpu: seconds of CPU a job, by process.
    :param commits: transactions a job.
    """

    workers: int
    jobs: int
    seconds: float
    spent: Mapping[str, float]
    cpu: Mapping[str, float]
    commits: float

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds


def main() -> None:
    """Measure, and print the table."""
    options = _options()
    if options.airflow:
        report_airflow(options.airflow)
        return
    with tempfile.TemporaryDirectory() as folder, services(Path(folder), 0.0) as running:
        found: dict[int, list[Pace]] = {workers: [] for workers in options.workers}
        for turn in range(options.turns):
            for workers in options.workers:
                number = max(1, options.jobs // workers // options.turns)
                found[workers].append(run(running, f"l{turn}_{workers}", workers, number, sets=options.sets))
    report([together(paces) for paces in found.values()])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jobs_per_second", description=__doc__)
    parser.add_argument("--jobs", type=int, default=240, help="jobs with each number of workers (default: 240)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="processes (default: 1 2 4)")
    parser.add_argument("--turns", type=int, default=2, help="how often each has its turn (default: 2)")
    parser.add_argument("--sets", action="store_true", help="make the jobs of a worker as one set")
    parser.add_argument("--airflow", type=int, help="so many mapped tasks on the demo's Airflow instead")
    return parser.parse_args()


def run(running: Services, database: str, workers: int, jobs: int, *, sets: bool) -> Pace:
    """Let some workers make so many jobs each, in a ledger of their own."""
    running.postgres.create_database(database)
    schema.upgrade(running.postgres.connection_kwargs(database))
    connection = json.dumps(postgres_connection(running.postgres, database))
    env = {**running.env, "AIRFLOW_CONN_AIHANDOFF_LEDGER": connection}
    with _started(env, workers, jobs, sets=sets) as processes:
        # Without what made the schema, and the job with which each worker has warmed up.
        commits = _commits(running.postgres, database)
        before, began = _cpu(running), time.perf_counter()
        answers = _answers(processes)
        seconds, after = time.perf_counter() - began, _cpu(running)
    made = workers * jobs
    cpu = {name: (after[name] - before[name]) / made for name in after}
    cpu["worker"] = sum(answer["cpu"] for answer in answers) / made
    spent = {part: sum(answer["spent"].get(part, 0.0) for answer in answers) / made for part in PARTS}
    return Pace(
        workers, made, seconds, {} if sets else spent, cpu, (_commits(running.postgres, database) - commits) / made
    )


@contextmanager
def _started(env: Mapping[str, str], workers: int, jobs: int, *, sets: bool) -> Iterator[list[subprocess.Popen[str]]]:
    """Worker processes that have imported everything, and made a job each, and wait for a word to begin."""
    processes = []
    try:
        for worker in range(workers):
            command = python("-m", "benchmarks.jobs_worker", str(worker), str(jobs), *(["--set"] if sets else []))
            pipe = subprocess.PIPE
            processes.append(subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True))
        for process in processes:
            _line(process)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _answers(processes: Sequence[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """Let all begin, and return what each of them says at its end."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("begin\n")
        process.stdin.flush()
    return [json.loads(_line(process)) for process in processes]


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    if line := process.stdout.readline():
        return line
    raise RuntimeError(f"A worker has ended with {process.wait()}.")


def _cpu(running: Services) -> dict[str, float]:
    """Seconds of CPU of all but the workers, so far."""
    found = {}
    if isinstance(running.postgres, PostgresServer) and running.postgres.pid is not None:
        found["PostgreSQL"] = cpu_of_tree(running.postgres.pid)
    for name, module in {"model": "airflow_provider_aihandoff.testing", "target": "demo.business"}.items():
        found[name] = sum(cpu_of_tree(pid) for pid in descendants(os.getpid()) if runs_module(pid, module))
    return found


def _commits(postgres: Postgres, database: str) -> float:
    with psycopg.connect(**postgres.connection_kwargs("postgres"), autocommit=True) as connection:
        row = connection.execute(_COMMITS, [database]).fetchone()
    assert row is not None
    return float(row[0])


def together(paces: Sequence[Pace]) -> Pace:
    """What the turns of one number of workers come to."""
    jobs = sum(pace.jobs for pace in paces)

    def mean(of: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
        return {name: sum(number * each[name] for number, each in of) / jobs for name in of[0][1]}

    return Pace(
        paces[0].workers,
        jobs,
        sum(pace.seconds for pace in paces),
        mean([(pace.jobs, pace.spent) for pace in paces]),
        mean([(pace.jobs, pace.cpu) for pace in paces]),
        sum(pace.jobs * pace.commits for pace in paces) / jobs,
    )


def report(found: Sequence[Pace]) -> None:
    """Print the table; the ratios are to the first number of workers."""
    first = found[0]
    head = "".join(f"{f'{pace.workers} workers' if pace.workers > 1 else '1 worker':>12}" for pace in found)
    print(f"{f'{first.jobs:,} jobs, drafted, approved, written':44}{head}")

    def row(name: str, values: Sequence[float], form: str) -> None:
        print(f"{name:44}" + "".join(f"{format(value, form):>12}" for value in values))

    row("jobs a second", [pace.rate for pace in found], ".1f")
    row(f"  beside {first.workers}", [pace.rate / first.rate for pace in found], ".2f")
    for part in first.spent:
        row(f"ms of a job's time: {part}", [1000 * pace.spent[part] for pace in found], ".1f")
    for name in first.cpu:
        row(f"ms of CPU a job: {name}", [1000 * pace.cpu[name] for pace in found], ".1f")
    row("transactions a job", [pace.commits for pace in found], ".1f")


# On a whole Airflow.


def report_airflow(jobs: int) -> None:
    """Print the CPU that each component of the demo's Airflow takes for a job of three mapped tasks."""
    env = {"PYTHONPATH": str(CHECKOUT), "AIRFLOW__CORE__MAX_MAP_LENGTH": str(jobs + 1), "SETS_ITEMS": str(jobs)}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_demo(Path(folder), CHECKOUT / "benchmarks" / "dags", extra_env=env, report=lambda _: None) as demo,
    ):
        api = demo.airflow.api()
        api.wait_for_dags({"sets_mapped"}, timeout_seconds=240)
        pids: dict[str, int] = {name: demo.airflow.process(name).pid for name in COMPONENTS}
        if isinstance(demo.postgres, PostgresServer) and demo.postgres.pid is not None:
            pids["PostgreSQL"] = demo.postgres.pid
        before, began = {name: cpu_of_tree(pid) for name, pid in pids.items()}, time.monotonic()
        state = api.wait_for_run("sets_mapped", api.trigger("sets_mapped"), timeout_seconds=3600)
        assert state == "success", f"the run is {state}"
        seconds = time.monotonic() - began
        cpu = {name: (cpu_of_tree(pid) - before[name]) / jobs for name, pid in pids.items()}
    print(f"{jobs:,} jobs as three mapped tasks each: {seconds:.0f} s, {jobs / seconds:.2f} jobs a second")
    for name, each in cpu.items():
        print(f"  s of CPU a job: {name + (', with its tasks' if name == 'scheduler' else ''):28}{each:8.3f}")
    print(f"  s of CPU a job, in all: {sum(cpu.values()):28.3f}")


if __name__ == "__main__":
    main()
