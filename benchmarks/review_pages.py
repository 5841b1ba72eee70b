"""How long the review pages and a bulk decision take with many jobs in review, as one person asks for them over HTTP.

Run it with `.venv/bin/python -m benchmarks.review_pages [jobs]` (1,000 unless given). Airflow's API server runs in this
process, with its simple auth manager and real tokens; its own metadata is a SQLite file. The ledger is in PostgreSQL
from the wheel, with its durable defaults. Each job has an output of about 1 KB and one effect.
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
from typing import Any

from airflow_provider_aihandoff.core.states import ResponseStatus
from demo.postgres import open_postgres

TIMES = 7
BASE_URL = "http://airflow.test"


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
        finally:
            postgres.destroy()


def fill(connection: dict[str, Any], jobs: int) -> list[str]:
    """So many jobs in review; each as the bulk review page names it."""
    from airflow_provider_aihandoff.core.database import schema
    from airflow_provider_aihandoff.core.digests import digest
    from airflow_provider_aihandoff.core.generation.revision_store import Output
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Actor, EffectPlan, JobSpec, Owner
    from airflow_provider_aihandoff.core.review.rules import ReviewRules

    schema.upgrade(connection)
    later, chosen = datetime.now(UTC) + timedelta(hours=1), []
    program = Actor.program("benchmark")
    rules = ReviewRules(because={"policy": "sampling@1", "reason": "one in ten goes to a person"})
    request = {"model": "gpt-5.2", "input": "Label the ticket."}
    with Ledger(connection, max_size=4) as ledger:
        for number in range(jobs):
            spec = JobSpec(
                job_type="ticket",
                job_key=f"ticket:{number}",
                input=request,
                request=request,
                conn_id="openai_default",
                requested_by="airflow",
                permissions={},
                approval="required",
                approval_reason=None,
                max_revisions=3,
                deadline=later,
                owner=Owner(f"tickets_{number % 10}", "run", "draft", number, "ti", 1),
            )
            job_id = ledger.submission.open(spec).job.job_id
            intent = ledger.submission.intend(job_id, 1, actor=program, lease=timedelta(seconds=30))
            assert intent.token is not None
            ledger.submission.submitted(
                job_id, 1, token=intent.token, response_id=f"resp_{number}", status=ResponseStatus.QUEUED, actor=program
            )
            label = {"category": ("billing", "bug")[number % 2], "reply": f"Ticket {number}. {'Thank you. ' * 90}"}
            ledger.outputs.store(job_id, 1, Output(ResponseStatus.COMPLETED, label), actor=program)
            plan = {"method": "PUT", "url": f"http://helpdesk/tickets/{number}", "body": label}
            effect = EffectPlan("label", "http", plan, digest(plan), plan)
            job = ledger.reviews.ask(job_id, [effect], policy=None, deadline=later, actor=program, rules=rules)
            chosen.append(f"{job_id}:{job.review_digest}")
    return chosen


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
        "bulk review, by requests": "/aihandoff/bulk-review?by=shape&select=all",
        "GET /reviews": "/aihandoff/api/v1/reviews?limit=1000",
        "a job": f"/aihandoff/jobs/{choices[0].partition(':')[0]}",
    }
    print(f"{len(choices):,} jobs in review; seconds, median of {TIMES}")
    for name, path in pages.items():
        seconds, size = measure(browser, path)
        print(f"{name:36} {seconds:6.2f}   {size / 1000:,.0f} KB")
    form = {"by": "type", "verdict": "approve", "job": choices[:1000]}
    started = time.perf_counter()
    answer = browser.post("/aihandoff/bulk-review/decision", data=form)
    assert answer.status_code == 200, answer.text
    print(f"{f'approving {len(choices[:1000]):,} of them at once':36} {time.perf_counter() - started:6.2f}")


def measure(browser: Any, path: str) -> tuple[float, int]:
    """How long a page takes, and how large it is."""
    times, size = [], 0
    for _ in range(TIMES):
        started = time.perf_counter()
        answer = browser.get(path)
        times.append(time.perf_counter() - started)
        assert answer.status_code == 200, answer.text
        size = len(answer.content)
    return statistics.median(times), size


if __name__ == "__main__":
    main()
