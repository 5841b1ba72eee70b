"""Jobs of the three pipelines as their own Dags make them: with a person who decides, and with OpenAI's webhooks.

Everything is real but Airflow itself (see `task_runs`): the operators of `dags/`, the ledger, the stand-in for OpenAI,
and the business systems that are written to, with the contents of the demo.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk import DAG

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from benchmarks.effect_overhead import answers
from benchmarks.task_runs import DagRun
from demo.airflow_stack import BUSINESS_DATABASE, demo_connections, postgres_connection
from demo.business import seed
from demo.local import DAGS_FOLDER
from demo.ports import free_port
from demo.postgres import Postgres
from demo.processes import ProcessSpec, Supervisor, python
from demo.waiting import wait_until

#: Who decides: not the one who asks.
REVIEWER = Person("bob")
PUBLISHING, REPORT, TICKETS = "publishing", "report_drafting", "ticket_classification"

#: Webhooks that are recorded in one transaction.
_TOGETHER = 16


@contextmanager
def business(folder: Path, postgres: Postgres, *, tickets: int = 0) -> Iterator[None]:
    """Start the stand-in and the business systems, and let this process find them as Airflow's connections.

    :param tickets: how many further tickets the helpdesk has.
    """
    postgres.create_database(BUSINESS_DATABASE)
    seed.seed_business_database(postgres.connection_kwargs(BUSINESS_DATABASE))
    with Supervisor() as services:
        openai, target = free_port(), free_port()
        witness = folder / "witness.jsonl"
        commands = {
            "openai": ("airflow_provider_aihandoff.testing", f"--port={openai}", "--delay-seconds=0"),
            "business": ("demo.business", f"--port={target}", f"--log-file={witness}", f"--more-tickets={tickets}"),
        }
        for name, (module, *arguments) in commands.items():
            services.add(ProcessSpec(name, python("-m", module, *arguments), folder / f"{name}.log"))
            services.start(name)
        for url in (f"http://127.0.0.1:{openai}/standin/health", f"http://127.0.0.1:{target}/witness"):
            wait_until(lambda url=url: answers(url), url, 60)  # type: ignore[misc]
        connections = demo_connections(
            postgres, f"http://127.0.0.1:{target}", "sk-any", openai_url=f"http://127.0.0.1:{openai}/v1"
        )
        os.environ |= {
            "AIRFLOW__AIHANDOFF__INLINE_WAIT": "0",
            "AIRFLOW__AIHANDOFF__MIN_DEFERRAL": "0",
            **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()},
        }
        yield


def use_ledger(postgres: Postgres, database: str) -> None:
    """Let the operators find a ledger."""
    os.environ["AIRFLOW_CONN_AIHANDOFF_LEDGER"] = json.dumps(postgres_connection(postgres, database))


def publish(ledger: Ledger, number: int) -> None:
    """One product note, which a person approves."""
    product = seed.products()[number % len(seed.products())]
    slug = f"{product['slug']}-{number}"
    run = DagRun(_dag(PUBLISHING), f"manual__{number:036}", {"slug": slug})
    run.xcoms["product_facts"] = {**product, "slug": slug}
    _draft_and_decide(ledger, run, "draft")
    run.execute("publish")


def report(ledger: Ledger, number: int) -> None:
    """One sales report, which a person approves; written to two places."""
    run = DagRun(_dag(REPORT), f"scheduled__{number:033}")
    week = (date(2026, 1, 5) + timedelta(weeks=number)).isoformat()
    run.xcoms["figures"] = {"week": week, "sales": [{**row, "week": week} for row in _figures()]}
    _draft_and_decide(ledger, run, "draft")
    run.execute("store")
    run.execute("announce")


def classify(ledger: Ledger, tickets: Sequence[Mapping[str, Any]], number: int) -> None:
    """The labels of some tickets, as one set; a policy approves the plain ones, and a person the others."""
    run = DagRun(_dag(TICKETS), f"scheduled__{number:033}")
    run.xcoms["open_tickets"] = [
        {"ticket_id": ticket["id"], "text": f"Subject: {ticket['subject']}\n\n{ticket['body']}"} for ticket in tickets
    ]
    work: Callable[[], Any] = lambda: run.execute("label")  # noqa: E731
    while True:
        try:
            set_id = int(work()["set_id"])
            break
        except TaskDeferred:
            found = next(each for each in ledger.sets.newest() if each.run_id == run.run_id)
            deliver(ledger, [each.response_id for each in ledger.sets.waiting(found.set_id, ended=False)])
            event = {"set_id": found.set_id, "gone": [], "not_now": 0}
            work = lambda event=event: run.resume("label", "execute_complete", event)  # type: ignore[misc] # noqa: E731
    try:
        run.execute("approve")
    except TaskDeferred:
        waiting = ledger.sets.jobs(set_id, [JobState.REVIEW], after=0)
        choices = [(job.job_id, job.review_digest) for job in waiting if job.review_digest is not None]
        ledger.reviews.decide_many(choices, "approve", person=REVIEWER)
        run.resume("approve", "execute", {"set_id": set_id})
    run.execute("write")


def deliver(ledger: Ledger, response_ids: Sequence[str | None]) -> None:
    """Record OpenAI's webhooks that these responses are completed."""
    deliveries = [_delivery(response_id) for response_id in response_ids if response_id is not None]
    for start in range(0, len(deliveries), _TOGETHER):
        some = deliveries[start : start + _TOGETHER]
        for delivery, receipt in zip(some, ledger.inbox_batches.receive(some), strict=True):
            if receipt is None:
                ledger.inbox.receive(delivery)


def _delivery(response_id: str) -> Delivery:
    name = response_id.removeprefix("resp_")[:32]
    body = {
        "object": "event",
        "id": f"evt_{name}",
        "type": "response.completed",
        "created_at": 1_780_000_000,
        "data": {"id": response_id},
    }
    return Delivery(f"wh_{name}", "openai_default", "response.completed", response_id, body)


def _draft_and_decide(ledger: Ledger, run: DagRun, task_id: str) -> None:
    """Draft one job, deliver the webhook of its response, ask, and approve what is asked."""
    try:
        run.execute(task_id)
    except TaskDeferred:
        (job,) = ledger.jobs(dag_id=run.dag.dag_id, run_id=run.run_id)
        deliver(ledger, [ledger.revision(job.job_id, job.revision).response_id])
        event = {"job_id": job.job_id, "revision": job.revision, "status": str(ResponseStatus.COMPLETED)}
        run.resume(task_id, "execute_complete", event)
    try:
        run.execute("approve")
    except TaskDeferred:
        (job,) = ledger.jobs(dag_id=run.dag.dag_id, run_id=run.run_id)
        ledger.reviews.decide(job.job_id, "approve", digest=str(job.review_digest), person=REVIEWER)
        run.resume("approve", "execute", {"job_id": job.job_id})


@cache
def _dag(dag_id: str) -> DAG:
    """A Dag of `dags/`, as its author writes it."""
    spec = importlib.util.spec_from_file_location(dag_id, DAGS_FOLDER / f"{dag_id}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[dag_id] = module  # where Pydantic finds the types of its fields
    spec.loader.exec_module(module)
    found = [each for each in vars(module).values() if isinstance(each, DAG)] or [getattr(module, dag_id)()]
    dag: DAG = found[0]
    return dag


@cache
def _figures() -> list[dict[str, Any]]:
    """The figures of two weeks."""
    names = ("week", "region", "product", "units", "revenue")
    rows = [row for row in seed.sales() if row[0] > seed.LAST_WEEK - timedelta(days=14)]
    return [{**dict(zip(names, row, strict=True)), "revenue": float(row[-1])} for row in rows]
