"""What the tests of the pipelines ask the ledger and the outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_api import AirflowApi
from demo.local import LocalDemo
from demo.waiting import wait_until
from tests.airflow_compat import WAITS_FOR_APPROVAL

API = "/aihandoff/api/v1"


def job_of(ledger: Ledger, dag_id: str, run_id: str) -> int | None:
    jobs = ledger.jobs(dag_id=dag_id, run_id=run_id)
    return jobs[0].job_id if jobs else None


def wait_for_state(ledger: Ledger, admin: AirflowApi, dag_id: str, run_id: str, state: JobState) -> int:
    """Wait until the run's job is in the state (and, in review, has a plan); return its id."""

    def reached() -> int | None:
        job_id = job_of(ledger, dag_id, run_id)
        if job_id is None:
            return None
        job = ledger.job(job_id)
        return job_id if job.state is state and (state is not JobState.REVIEW or job.review_digest) else None

    return wait_until(reached, f"{dag_id} to have a job that is {state.value}")


def writes(demo: LocalDemo) -> list[tuple[str, str]]:
    """Every request but the reads that the outside systems have received."""
    entries = outside(f"{demo.business_url}/witness")["requests"]
    return [(entry["method"], entry["path"]) for entry in entries if entry["outcome"] != "READ"]


def responses(demo: LocalDemo) -> list[dict[str, Any]]:
    """Every response that the stand-in for OpenAI has created, and how often it was asked for."""
    created: list[dict[str, Any]] = outside(f"{demo.openai_url}/standin/responses")["responses"]
    return created


def outside(url: str) -> Any:
    return httpx.get(url, headers={"Accept": "application/json"}, trust_env=False).raise_for_status().json()


def asked(ledger: Ledger, admin: AirflowApi, slug: str, dag_id: str = "notified") -> tuple[str, Job]:
    """A note that admin has asked for and that waits for a decision: its run, and its job."""
    run_id = admin.trigger(dag_id, {"slug": slug})
    job_id = wait_for_state(ledger, admin, dag_id, run_id, JobState.REVIEW)
    admin.wait_for_task(dag_id, run_id, "approve", {WAITS_FOR_APPROVAL})
    return run_id, ledger.job(job_id)


def address(demo: LocalDemo, job: Job) -> str:
    return f"{demo.airflow.base_url}/aihandoff/jobs/{job.job_id}"


def decide(api: AirflowApi, job: Job, verdict: str = "approve", comment: str | None = None) -> Any:
    body = {"verdict": verdict, "digest": job.review_digest, "comment": comment}
    return api.request("POST", f"{API}/jobs/{job.job_id}/decisions", json=body)


def published(demo: LocalDemo, slug: str) -> list[tuple[str, str]]:
    return [write for write in writes(demo) if write[1].endswith(f"/posts/{slug}")]


def process_titled(title: str) -> int | None:
    """The process that is named so, if there is one."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if process.read_text().rstrip("\0 ").endswith(title):
                return int(process.parent.name)
        except OSError:
            continue
    return None
