"""What the ledger adds to one HTTP effect, claim → send → confirm, beside the bare request; in a small and a big one.

Run it with `.venv/bin/python -m benchmarks.effect_overhead [--effects 500] [--ledger 1000 1000000]`. PostgreSQL is the
one from the wheel, with its durable defaults; the target is the demo's business system, which syncs each request to
disk first. All are measured alternately, so that whatever else the machine does happens to all of them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import requests

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.effects.apply import Wait, apply_effect
from airflow_provider_aihandoff.core.effects.target import Applied, Target
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, EffectPlan, JobSpec, Owner
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import ResponseStatus
from benchmarks.ledger_rows import fill_effects
from demo.ports import free_port
from demo.postgres import Postgres, open_postgres
from demo.processes import ProcessSpec, Supervisor, python
from demo.waiting import wait_until

PROGRAM = Actor.program("benchmark")
OWNER = Owner("benchmark", "run", "draft", -1, "ti", 1)


def main() -> None:
    """Measure all of them, and print medians and their ratios."""
    parser = argparse.ArgumentParser(description="Compare an effect through the ledger with the bare request.")
    parser.add_argument("--effects", type=int, default=500, help="how many are measured (default: 500)")
    parser.add_argument("--ledger", type=int, nargs="+", default=[1_000, 1_000_000], help="effects in the ledger")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Supervisor() as services:
        postgres = open_postgres(Path(folder) / "postgres")
        postgres.start()
        try:
            target = start_target(services, Path(folder))
            with ExitStack() as ledgers:
                sizes = {size: ledgers.enter_context(filled(postgres, size)) for size in arguments.ledger}
                report(*measure(sizes, target, arguments.effects))
        finally:
            postgres.destroy()


def filled(postgres: Postgres, effects: int) -> Ledger:
    """A ledger of its own with so many effects in it."""
    name = f"ledger_{effects}"
    postgres.create_database(name)
    conninfo = postgres.connection_kwargs(name)
    schema.upgrade(conninfo)
    with psycopg.connect(**conninfo) as connection:
        fill_effects(connection, effects)
        (size,) = connection.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchone() or ("?",)
    print(f"A ledger with {effects:,} applied effects: {size}.", flush=True)
    return Ledger(conninfo)


def start_target(services: Supervisor, folder: Path) -> str:
    """Start the business system and return the URL to write to."""
    port = free_port()
    command = python("-m", "demo.business", f"--port={port}", f"--log-file={folder / 'witness.jsonl'}")
    services.add(ProcessSpec("business", command, folder / "business.log"))
    services.start("business")
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/witness"), "the business system", 30)
    return f"http://127.0.0.1:{port}/channel/messages"


def answers(url: str) -> bool:
    """Whether a server listens."""
    try:
        return requests.get(url, timeout=2).ok
    except requests.ConnectionError:
        return False


def measure(ledgers: dict[int, Ledger], target: str, number: int) -> tuple[list[float], dict[int, list[float]]]:
    """Seconds of each bare write, and of each write through each ledger."""
    bare: list[float] = []
    through: dict[int, list[float]] = {size: [] for size in ledgers}
    for index in range(number):
        body = f'{{"channel":"benchmark","text":"{index}"}}'
        bare.append(timed(partial(post, target, body, f"bare-{index}")))
        for size, ledger in ledgers.items():
            job_id, plan = approved(ledger, target, index, f'{{"channel":"{size}","text":"{index}"}}')
            through[size].append(timed(partial(apply, ledger, job_id, plan)))
    return bare, through


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def post(target: str, body: str, key: str) -> requests.Response:
    """The bare request."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    response = requests.post(target, data=body.encode(), headers=headers, timeout=10)
    response.raise_for_status()
    return response


def approved(ledger: Ledger, target: str, index: int, body: str) -> tuple[int, EffectPlan]:
    """A job whose one effect is approved; not part of what is measured."""
    spec = JobSpec(
        job_type="benchmark",
        job_key=str(index),
        input={},
        request={},
        conn_id="none",
        requested_by="benchmark",
        permissions={},
        approval="required",
        approval_reason=None,
        max_revisions=1,
        deadline=datetime.now(UTC) + timedelta(hours=1),
        owner=OWNER,
    )
    job = ledger.submission.open(spec).job
    intent = ledger.submission.intend(job.job_id, 1, actor=PROGRAM, lease=timedelta(minutes=1))
    assert intent.token is not None
    where = {"token": intent.token, "response_id": f"resp_{index}", "status": "queued", "actor": PROGRAM}
    ledger.submission.submitted(job.job_id, 1, **where)  # type: ignore[arg-type]
    ledger.outputs.store(job.job_id, 1, Output(ResponseStatus.COMPLETED, "text"), actor=PROGRAM)
    request = {"method": "POST", "url": target, "body": body}
    plan = EffectPlan("post", "http", request, digest(request), request)
    job = ledger.reviews.ask(job.job_id, [plan], policy=None, deadline=spec.deadline, actor=PROGRAM)
    assert job.review_digest is not None
    ledger.reviews.decide(job.job_id, "approve", digest=job.review_digest, person=Person("benchmark"))
    return job.job_id, plan


class Channel(Target):
    """The bare request, as a target of the apply protocol."""

    kind = "channel"
    idempotent = True
    call_seconds = 10.0

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """Send it."""
        return Applied(str(post(plan["url"], plan["body"], key).json()["id"]))


def apply(ledger: Ledger, job_id: int, plan: EffectPlan) -> None:
    """The same request, claimed before and confirmed after."""
    done = apply_effect(ledger, job_id, plan, Channel(), actor=PROGRAM)
    assert not isinstance(done, Wait), done.why


def report(bare: list[float], through: dict[int, list[float]]) -> None:
    """Print medians, 99th percentiles, and how many times as long each takes as another one."""
    print(f"{len(bare)} effects each{'':22}median       p99")
    rows = {"bare request": bare} | {f"through a ledger of {size:,}": seconds for size, seconds in through.items()}
    for name, seconds in rows.items():
        print(f"{name:32} {1000 * statistics.median(seconds):7.1f} ms {1000 * p99(seconds):7.1f} ms")
    first, *others = through.items()
    of_bare = [figure(first[1]) / figure(bare) for figure in (statistics.median, p99)]
    print(f"{f'ledger of {first[0]:,} / bare':32} {of_bare[0]:7.2f}    {of_bare[1]:7.2f}")
    for size, seconds in others:
        ratios = [figure(seconds) / figure(first[1]) for figure in (statistics.median, p99)]
        print(f"{f'ledger of {size:,} / {first[0]:,}':32} {ratios[0]:7.2f}    {ratios[1]:7.2f}")


def p99(seconds: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(seconds, n=100)[98]


if __name__ == "__main__":
    main()
