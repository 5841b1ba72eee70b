"""How long the review pages and a bulk decision take with many jobs in review, as one person asks for them over HTTP.

Run it with `.venv/bin/python -m benchmarks.review_pages [jobs]` (1,000 unless given, and at most 10,000). Airflow's API
server runs in this process, with its simple auth manager and real tokens; its own metadata is a SQLite file. The ledger
is in PostgreSQL from the wheel, with its durable defaults. Each job has an output of about 1 KB and one effect. At the
end come pages of large jobs, each beside the page of an ordinary one: their budget keeps them from taking longer than
they are worth.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from airflow_provider_aihandoff.core.states import ResponseStatus
from demo.postgres import open_postgres

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Actor, Job

TIMES = 7
BASE_URL = "http://airflow.test"
NARROWED = urlencode({"by": "type", "where": '[["category"],"bug"]'})


def main() -> None:
    """Measure, and print the medians."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    with tempfile.TemporaryDirectory() as folder:
        postgres = open_postgres(Path(folder) / "postgres")
        postgres.start()
        try:
            postgres.create_database("ledger")
            connection = postgres.connection_kwargs("ledger")
            choices = fill(connection, jobs)
            with client(Path(folder), connection) as browser:
                report(browser, choices)
                ordinary = f"/aihandoff/jobs/{choices[0].partition(':')[0]}"
                report_large(browser, ordinary, fill_large(connection))
        finally:
            postgres.destroy()


def fill(connection: dict[str, Any], jobs: int) -> list[str]:
    """So many jobs in review; each as the bulk review page names it."""
    from airflow_provider_aihandoff.core.database import schema
    from airflow_provider_aihandoff.core.ledger import Ledger

    schema.upgrade(connection)
    chosen = []
    with Ledger(connection, max_size=4) as ledger:
        for number in range(jobs):
            label = {"category": ("billing", "bug")[number % 2], "reply": f"Ticket {number}. {'Thank you. ' * 90}"}
            job = in_review(ledger, number, label)
            chosen.append(f"{job.job_id}:{job.review_digest}")
    return chosen


def in_review(ledger: Ledger, number: int, output: Any, schema: Any = None, job_type: str = "ticket") -> Job:
    """A job with this output, which waits for a decision.

    :param schema: the strict JSON schema of the output type.
    """
    from airflow_provider_aihandoff.core.generation.revision_store import Output
    from airflow_provider_aihandoff.core.models import JobSpec, Owner

    request: dict[str, Any] = {"model": "gpt-5.2", "input": "Label the ticket."}
    if schema:
        request["text"] = {"format": {"type": "json_schema", "name": "label", "schema": schema}}
    spec = JobSpec(
        job_type=job_type,
        job_key=f"{job_type}:{number}",
        input=request,
        request=request,
        conn_id="openai_default",
        requested_by="airflow",
        permissions={},
        approval="required",
        approval_reason=None,
        max_revisions=3,
        deadline=datetime.now(UTC) + timedelta(hours=1),
        owner=Owner(f"{job_type}s_{number % 10}", "run", "draft", number, "ti", 1),
    )
    job_id = ledger.submission.open(spec).job.job_id
    intent = ledger.submission.intend(job_id, 1, actor=program(), lease=timedelta(seconds=30))
    assert intent.token is not None
    response_id = f"resp_{job_type}_{number}"
    ledger.submission.submitted(
        job_id, 1, token=intent.token, response_id=response_id, status=ResponseStatus.QUEUED, actor=program()
    )
    ledger.outputs.store(job_id, 1, Output(ResponseStatus.COMPLETED, output), actor=program())
    return ask(ledger, job_id, {"method": "PUT", "url": f"http://helpdesk/tickets/{number}", "body": output})


def ask(ledger: Ledger, job_id: int, plan: dict[str, Any]) -> Job:
    """Ask for a decision on a job that has an output."""
    from airflow_provider_aihandoff.core.digests import digest
    from airflow_provider_aihandoff.core.models import EffectPlan
    from airflow_provider_aihandoff.core.review.rules import ReviewRules

    effect = EffectPlan("label", "http", plan, digest(plan), plan)
    rules = ReviewRules(because={"policy": "sampling@1", "reason": "one in ten goes to a person"})
    later = datetime.now(UTC) + timedelta(hours=1)
    return ledger.reviews.ask(job_id, [effect], policy=None, deadline=later, actor=program(), rules=rules)


def program() -> Actor:
    """Who fills the ledger."""
    from airflow_provider_aihandoff.core.models import Actor

    return Actor.program("benchmark")


def fill_large(connection: dict[str, Any]) -> dict[str, str]:
    """Large jobs in review: the path of a page of each, by what it shows."""
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.review.rules import Person

    line = "* **bold** _leaning_ `code` [link](address) and *open\n"
    with Ledger(connection, max_size=4) as ledger:
        texts: dict[str, Any] = {name: line * (240_000 // len(line)) for name in ("first", "second")}
        job = in_review(ledger, 0, texts, job_type="markdown")
        for number in range(3):
            assert job.review_digest is not None
            edited = {**texts, "number": number}
            ledger.reviews.edit(job.job_id, digest=job.review_digest, output=edited, person=Person("carol"))
            job = ask(ledger, job.job_id, {"method": "PUT", "url": "http://cms/posts/1"})
        names = [f"field_{number}" for number in range(604)]
        choice = {"enum": [f"choice {number}" for number in range(500)]}
        form = {
            "type": "object",
            "properties": dict.fromkeys(names, choice),
            "required": names,
            "additionalProperties": False,
        }
        fields = in_review(ledger, 1, dict.fromkeys(names, "choice 1"), form, job_type="form")
        items = in_review(ledger, 2, [[number] for number in range(100_000)], job_type="list")
    return {
        "four revisions of 480 KB Markdown": f"/aihandoff/jobs/{job.job_id}",
        "a form of 604 fields with choices": f"/aihandoff/jobs/{fields.job_id}/edit",
        "an output of 100,000 items": f"/aihandoff/jobs/{items.job_id}",
    }


def report_large(browser: Any, ordinary: str, large: dict[str, str]) -> None:
    """Print how long large pages take, and how often the page of an ordinary job would be made in that time."""
    base, _ = measure(browser, ordinary)
    for name, path in large.items():
        seconds, size = measure(browser, path, times=1)
        print(f"{name:36} {seconds:6.2f}   {size / 1000:,.0f} KB   {seconds / base:,.0f} times an ordinary job")


@contextmanager
def client(folder: Path, ledger: dict[str, Any]) -> Iterator[Any]:
    """A person who is logged in to an API server in this process."""
    os.environ |= {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'airflow.db'}",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "bob:user",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__API_AUTH__JWT_SECRET": "of-this-benchmark-" * 5,
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "AIRFLOW_CONN_AIHANDOFF_LEDGER": json.dumps(
            {
                "conn_type": "postgres",
                "host": ledger["host"],
                "port": ledger["port"],
                "login": ledger["user"],
                "password": ledger["password"],
                "schema": ledger["dbname"],
            }
        ),
    }
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.utils import db
    from fastapi.testclient import TestClient

    db.initdb()
    with TestClient(create_app(apps="core"), base_url=BASE_URL, headers={"Origin": BASE_URL}) as browser:
        token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="bob", role="user"))
        browser.cookies.set("_token", token)
        yield browser


def report(browser: Any, choices: list[str]) -> None:
    """Print how long each page takes, and then a decision on all jobs at once."""
    pages = {
        "the list": "/aihandoff/",
        "its last page": f"/aihandoff/?page={(len(choices) + 99) // 100}",
        "bulk review, by type": "/aihandoff/bulk-review?by=type&select=all",
        "bulk review, its last page": f"/aihandoff/bulk-review?by=type&start={len(choices) // 100 * 100 - 100}",
        "bulk review, narrowed": f"/aihandoff/bulk-review?{NARROWED}",
        "bulk review, by requests": "/aihandoff/bulk-review?by=shape&select=all",
        "the page for a whole group": "/aihandoff/bulk-review/all?by=type",
        "GET /reviews": "/aihandoff/api/v1/reviews?limit=1000",
        "a job": f"/aihandoff/jobs/{choices[0].partition(':')[0]}",
    }
    print(f"{len(choices):,} jobs in review; seconds, median of {TIMES}")
    for name, path in pages.items():
        seconds, size = measure(browser, path)
        print(f"{name:36} {seconds:6.2f}   {size / 1000:,.0f} KB")
    form = {"by": "type", "verdict": "approve", "count": len(choices), "jobs": " ".join(choices)}
    started = time.perf_counter()
    answer = browser.post("/aihandoff/bulk-review/all/decision", data=form)
    assert answer.status_code == 200, answer.text
    print(f"{f'approving all {len(choices):,} of them at once':36} {time.perf_counter() - started:6.2f}")


def measure(browser: Any, path: str, times: int = TIMES) -> tuple[float, int]:
    """How long a page takes, and how large it is."""
    seconds, size = [], 0
    for _ in range(times):
        started = time.perf_counter()
        answer = browser.get(path)
        seconds.append(time.perf_counter() - started)
        assert answer.status_code == 200, answer.text
        size = len(answer.content)
    return statistics.median(seconds), size


if __name__ == "__main__":
    main()
