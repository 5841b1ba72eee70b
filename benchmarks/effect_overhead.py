"""What the ledger adds to one HTTP effect: claim → send → confirm, beside the bare request.

Run it with `.venv/bin/python -m benchmarks.effect_overhead [number of effects]`. PostgreSQL is the one from the wheel,
with its durable defaults; the target is the demo's business system, which syncs each request to disk first.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import requests

from airflow_provider_aihandoff.digests import digest
from airflow_provider_aihandoff.ledger import Ledger, schema
from airflow_provider_aihandoff.ledger.records import EffectPlan, JobSpec, Owner
from airflow_provider_aihandoff.ledger.revisions import Output
from demo.ports import free_port
from demo.postgres import open_postgres
from demo.processes import ProcessSpec, Supervisor, python
from demo.waiting import wait_until

DEFAULT_EFFECTS = 500
OWNER = Owner("benchmark", "run", "draft", -1, "ti", 1)


def main() -> None:
    """Measure both ways, alternating, and print medians and their ratio."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_EFFECTS
    with tempfile.TemporaryDirectory() as folder, Supervisor() as services:
        postgres = open_postgres(Path(folder) / "postgres")
        postgres.start()
        try:
            postgres.create_database("benchmark")
            conninfo = postgres.connection_kwargs("benchmark")
            schema.upgrade(conninfo)
            target = start_target(services, Path(folder))
            with Ledger(conninfo) as ledger:
                report(*measure(ledger, target, number), number)
        finally:
            postgres.destroy()


def start_target(services: Supervisor, folder: Path) -> str:
    """Start the business system and return the URL to write to."""
    port = free_port()
    command = python("-m", "demo.business", f"--port={port}", f"--log-file={folder / 'witness.jsonl'}")
    services.add(ProcessSpec("business", command, folder / "business.log"))
    services.start("business")
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/witness"), "the business system", 30)
    return f"http://127.0.0.1:{port}/channel/messages"


def answers(url: str) -> bool:
    """Whether somebody listens."""
    try:
        return requests.get(url, timeout=2).ok
    except requests.ConnectionError:
        return False


def measure(ledger: Ledger, target: str, number: int) -> tuple[list[float], list[float]]:
    """Seconds of each bare write, and of each write through the ledger."""
    bare, through = [], []
    for index in range(number):
        body = f'{{"channel":"benchmark","text":"{index}"}}'
        bare.append(timed(lambda body=body, index=index: post(target, body, f"bare-{index}")))  # type: ignore[misc]
        job_id, plan = approved(ledger, target, index, body)
        through.append(timed(lambda job_id=job_id, plan=plan: apply(ledger, job_id, plan)))  # type: ignore[misc]
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
    intent = ledger.submission.intend(job.job_id, 1, actor="benchmark", lease=timedelta(minutes=1))
    assert intent.token is not None
    where = {"token": intent.token, "response_id": f"resp_{index}", "status": "queued", "actor": "benchmark"}
    ledger.submission.submitted(job.job_id, 1, **where)  # type: ignore[arg-type]
    ledger.outputs.store(job.job_id, 1, Output("completed", "text"), actor="benchmark")
    request = {"method": "POST", "url": target, "body": body}
    plan = EffectPlan("post", "http", request, digest(request), request)
    job = ledger.reviews.ask(job.job_id, [plan], policy=None, deadline=spec.deadline, actor="benchmark")
    assert job.review_digest is not None
    ledger.reviews.decide(job.job_id, "approve", digest=job.review_digest, decided_by="benchmark")
    return job.job_id, plan


def apply(ledger: Ledger, job_id: int, plan: EffectPlan) -> None:
    """The same request, claimed before and confirmed after."""
    claim = ledger.effects.claim(job_id, plan, lease=timedelta(minutes=1), actor="benchmark")
    response = post(plan.plan["url"], plan.plan["body"], claim.effect.effect_key)
    ledger.effects.confirm(claim, external_id=response.json()["id"], result={"status": 201}, actor="benchmark")


def report(bare: list[float], through: list[float], number: int) -> None:
    """Print medians, 99th percentiles, and how many times as long it takes through the ledger."""
    print(f"{number} effects          median     p99")
    for name, seconds in (("bare request", bare), ("through the ledger", through)):
        p99 = statistics.quantiles(seconds, n=100)[98]
        print(f"{name:20} {1000 * statistics.median(seconds):6.1f} ms {1000 * p99:6.1f} ms")
    print(f"ratio of the medians {statistics.median(through) / statistics.median(bare):6.2f}")


if __name__ == "__main__":
    main()
