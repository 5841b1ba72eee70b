"""What a number of jobs a month asks of workers, ledger, triggerers and receivers, and which limit comes first.

Run it with `.venv/bin/python -m benchmarks.capacity`. It measures nothing: it multiplies. `Inputs` has the figures,
each with the command that printed it; `Deployment` has what you run. Change a figure with its name, such as
`--model-seconds 120 --workers 8`, and read the table again.

The busiest hour has a tenth of the day's jobs. A job is drafted, approved by policy and written once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

MONTHS, DAYS_A_MONTH, SECONDS_A_DAY = 13, 30, 86_400
#: Of a day's jobs, those in its busiest hour.
BUSIEST_HOUR = 0.1
VOLUMES = (10_000, 100_000, 1_000_000, 10_000_000)
GIB = 2**30

GROWTH = "benchmarks.ledger_growth"
PACE, PACE_OF_SETS = "benchmarks.jobs_per_second", "benchmarks.jobs_per_second --sets"
PACE_OF_AIRFLOW = "benchmarks.jobs_per_second --airflow 40"
BUDGETS, INGEST = "benchmarks.budgets", "benchmarks.webhook_ingest"
YOURS = "yours"


def measured(value: float, command: str, what: str) -> Any:
    """A figure, the command that printed it, and what it is."""
    return field(default=value, metadata={"from": command, "what": what})


@dataclass(frozen=True)
class Inputs:
    """What was measured for one job; times are of CPU, in milliseconds."""

    bytes_a_job: float = measured(15_000, GROWTH, "bytes of rows and indexes that a job leaves")
    inbox_bytes: float = measured(820, GROWTH, "bytes of these in the inbox, which forgets them")
    inbox_days: float = measured(30, "[aihandoff] inbox_retention", "days for which the inbox remembers")
    wal_bytes: float = measured(60_000, GROWTH, "bytes of WAL, without full pages")
    commits: float = measured(44, PACE, "transactions, as tasks of its own")
    commits_in_set: float = measured(2, PACE_OF_SETS, "transactions, in a set")
    worker_cpu: float = measured(95, PACE, "CPU of the worker, as tasks of its own, without Airflow")
    worker_cpu_in_set: float = measured(15, PACE_OF_SETS, "CPU of the worker, in a set")
    ledger_cpu: float = measured(75, PACE, "CPU of PostgreSQL, as tasks of its own")
    ledger_cpu_in_set: float = measured(7, PACE_OF_SETS, "CPU of PostgreSQL, in a set")
    airflow_cpu: float = measured(2_300, PACE_OF_AIRFLOW, "CPU of Airflow, as three mapped tasks")
    commits_a_second: float = measured(3_100, BUDGETS, "durable transactions a second of one PostgreSQL on two cores")
    webhooks_a_second: float = measured(250, INGEST, "webhooks a second of one receiver: the goal of that benchmark")
    model_seconds: float = measured(60, YOURS, "seconds that the model takes")
    review_hours: float = measured(0, YOURS, "hours for which a job waits for a person, on average")


@dataclass(frozen=True)
class Deployment:
    """What runs: two of everything, as `docker-compose.yaml` and the values for Kubernetes have it."""

    workers: int = field(default=2, metadata={"what": "Celery workers"})
    worker_cores: int = field(default=4, metadata={"what": "cores of each"})
    concurrency: int = field(default=16, metadata={"what": "tasks that each runs at once"})
    send_at_once: int = field(default=16, metadata={"what": "requests that a task of a set sends at once"})
    sets_at_once: int = field(default=2, metadata={"what": "tasks of sets that run at once"})
    triggerers: int = field(default=2, metadata={"what": "triggerers"})
    triggerer_capacity: int = field(default=1_000, metadata={"what": "tasks that wait in each"})
    api_servers: int = field(default=2, metadata={"what": "processes of the API server"})
    receivers: int = field(default=2, metadata={"what": "receivers of webhooks"})
    ledger_cores: int = field(default=4, metadata={"what": "cores of the ledger's PostgreSQL"})
    ledger_gib: int = field(default=200, metadata={"what": "GiB of its disk"})
    max_connections: int = field(default=200, metadata={"what": "connections that it takes"})


@dataclass(frozen=True)
class Limit:
    """Something that runs out.

    :param needs: in the busiest hour, or at the end of the months.
    :param then: what you do when it is reached.
    :param grows: with the number of jobs.
    """

    name: str
    needs: float
    has: float
    unit: str
    then: str
    grows: bool = True

    @property
    def used(self) -> float:
        """How much of it is used; above 1 it is exceeded."""
        return self.needs / self.has


@dataclass(frozen=True)
class Plan:
    """What a number of jobs a month needs."""

    jobs: int
    in_sets: bool
    average: float
    peak: float
    limits: Sequence[Limit]

    @property
    def first(self) -> Limit:
        """The limit that is reached first, as the jobs grow."""
        return max((limit for limit in self.limits if limit.grows), key=lambda limit: limit.used)


MORE_WORKERS = "add workers; nothing else has to change"
MORE_LEDGER = "give PostgreSQL more cores and a faster disk; then a ledger for each department"
MORE_DISK = "add disk, or give each department a ledger of its own: a ledger that is left behind takes its keys with it"
IN_SETS = "make the jobs as sets: one task for thousands of them"


def plan(jobs: int, inputs: Inputs, deployment: Deployment, *, in_sets: bool) -> Plan:
    """What so many jobs a month need.

    :param in_sets: they are made as sets, and not as tasks of their own.
    """
    average, peak = rates(jobs)
    worker_cpu = inputs.worker_cpu_in_set if in_sets else inputs.worker_cpu + inputs.airflow_cpu
    ledger_cpu = inputs.ledger_cpu_in_set if in_sets else inputs.ledger_cpu
    commits = inputs.commits_in_set if in_sets else inputs.commits
    # At the end of the busiest hour, those are left which came in it; what waits for longer came at the usual pace.
    wait = inputs.model_seconds + 3600 * inputs.review_hours
    waiting = 0.0 if in_sets else peak * min(wait, 3600) + average * max(0.0, wait - 3600)
    cores = deployment.workers * deployment.worker_cores
    faster = MORE_WORKERS if in_sets else IN_SETS
    limits = [
        Limit("cores of Airflow and workers", peak * worker_cpu / 1000, cores, "cores", faster),
        Limit("cores of the ledger", peak * ledger_cpu / 1000, deployment.ledger_cores, "cores", MORE_LEDGER),
        Limit("transactions", peak * commits, inputs.commits_a_second, "a second", MORE_LEDGER),
        Limit("webhooks", peak, deployment.receivers * inputs.webhooks_a_second, "a second", "add receivers"),
        Limit(
            "tasks that wait",
            waiting,
            deployment.triggerers * deployment.triggerer_capacity,
            "tasks",
            "raise [triggerer] capacity, or add triggerers",
        ),
        Limit(
            "connections",
            sum(connections(deployment).values()),
            deployment.max_connections,
            "connections",
            "put PgBouncer before the ledger, for all but the triggerers",
            grows=False,
        ),
        Limit(f"disk after {MONTHS} months", disk(jobs, inputs) / GIB, deployment.ledger_gib, "GiB", MORE_DISK),
    ]
    return Plan(jobs, in_sets, average, peak, limits)


def rates(jobs: int) -> tuple[float, float]:
    """Jobs a second, on average and in the busiest hour, of so many a month."""
    day = jobs / DAYS_A_MONTH
    return day / SECONDS_A_DAY, day * BUSIEST_HOUR / 3600


def disk(jobs: int, inputs: Inputs, *, days: float = MONTHS * DAYS_A_MONTH) -> float:
    """Bytes that so many jobs a month have left after so many days; the inbox forgets."""
    a_day = jobs / DAYS_A_MONTH
    return a_day * (
        days * (inputs.bytes_a_job - inputs.inbox_bytes) + min(days, inputs.inbox_days) * inputs.inbox_bytes
    )


def connections(deployment: Deployment) -> dict[str, int]:
    """The most connections to the ledger, by component. docs/deployment.md says where each comes from."""
    tasks = deployment.workers * deployment.concurrency
    return {
        "workers: a task each": tasks - deployment.sets_at_once,
        "workers: tasks of sets": deployment.sets_at_once * (deployment.send_at_once + 1),
        "triggerers: the hub": deployment.triggerers,
        "triggerers: for a moment": 4 * deployment.triggerers,
        "API servers: pages": 4 * deployment.api_servers,
        "API servers: what they follow": deployment.api_servers,
        "API servers: webhooks": 6 * deployment.api_servers,
        "receivers": 6 * deployment.receivers,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the inputs, and the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    for kind in (Inputs, Deployment):
        for each in fields(kind):
            named = f"--{each.name.replace('_', '-')}"
            parser.add_argument(named, type=type(each.default), default=each.default, help=each.metadata["what"])
    options = vars(parser.parse_args(arguments))
    inputs = Inputs(**{each.name: options[each.name] for each in fields(Inputs)})
    deployment = Deployment(**{each.name: options[each.name] for each in fields(Deployment)})
    report_inputs(inputs)
    for in_sets in (False, True):
        report([plan(jobs, inputs, deployment, in_sets=in_sets) for jobs in VOLUMES])
    report_disk(inputs)
    report_connections(deployment)


def report_inputs(inputs: Inputs) -> None:
    """Print each figure with the command that it comes from."""
    for each in fields(inputs):
        print(f"{each.metadata['what']:66}{getattr(inputs, each.name):10,.0f}   {each.metadata['from']}")


def report(plans: Sequence[Plan]) -> None:
    """Print what some volumes need of each limit, and which comes first."""
    print(f"\n{'jobs a month, in sets' if plans[0].in_sets else 'jobs a month, tasks of their own':34}", end="")
    print("".join(f"{each.jobs:>14,}" for each in plans))
    print(f"{'a second, average':34}" + "".join(f"{each.average:>14.3f}" for each in plans))
    print(f"{'a second, busiest hour':34}" + "".join(f"{each.peak:>14.3f}" for each in plans))
    for index, limit in enumerate(plans[0].limits):
        needs = "".join(f"{each.limits[index].needs:>9,.2f}{each.limits[index].used:>5.0%}" for each in plans)
        print(f"{f'{limit.name} (of {limit.has:,.0f})':34}{needs}")
    print(f"{'first':34}" + "".join(f"{each.first.name.partition(' after')[0]:>14.14}" for each in plans))
    first = plans[-1].first
    print(f"At {plans[-1].jobs:,}, {first.name} comes first: {first.then}.")


def report_disk(inputs: Inputs) -> None:
    """Print the disk with everything kept, as it is today, and with what a retention would leave."""
    print(f"\n{'GiB of the ledger':34}" + "".join(f"{jobs:>14,}" for jobs in VOLUMES))
    wal = [jobs / DAYS_A_MONTH * inputs.wal_bytes / GIB for jobs in VOLUMES]
    print(f"{'WAL a day, without full pages':34}" + "".join(f"{each:>14,.1f}" for each in wal))
    kept = {f"after {MONTHS} months, all kept": MONTHS * DAYS_A_MONTH, "if jobs were kept for 90 days": 90}
    for what, days in kept.items():
        print(f"{what:34}" + "".join(f"{disk(jobs, inputs, days=days) / GIB:>14,.1f}" for jobs in VOLUMES))


def report_connections(deployment: Deployment) -> None:
    """Print the connections to the ledger by component."""
    found = connections(deployment)
    print()
    for name, number in found.items():
        print(f"{f'connections, {name}':40}{number:6}")
    print(f"{'connections in all, at most':40}{sum(found.values()):6}")


if __name__ == "__main__":
    main()
