"""The three pipelines as a person would use them: trigger them, watch their jobs, decide as a reviewer."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import CONFLICT
from typing import Any

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from demo.airflow_api import FINISHED, AirflowApi
from demo.airflow_stack import LEDGER_DATABASE
from demo.local import LocalDemo

PIPELINES: Mapping[str, Mapping[str, Any]] = {
    "publishing": {"slug": "tidewater-kettle"},
    "report_drafting": {},
    "ticket_classification": {"opened_from": "2026-11-19T07:00:00Z", "opened_to": "2026-11-19T15:00:00Z"},
}
"""Each Dag, and what its first run is given."""
API = "/aihandoff/api/v1"
MOST_JOBS = 100_000
"""How many jobs are compared, and listed, at most."""
AT_ONCE = 1000
"""How many of them one decision is about at most."""

_ANSWERS = """
    SELECT count(*) FILTER (WHERE told), count(*) FILTER (WHERE NOT told) FROM (
        SELECT EXISTS (
            SELECT FROM aihandoff.inbox AS i WHERE i.response_id = r.response_id AND disposition = 'applied') AS told
        FROM aihandoff.revisions AS r WHERE completed_at IS NOT NULL AND response_id IS NOT NULL) AS ended"""

Runs = dict[str, str]


@contextmanager
def open_ledger(demo: LocalDemo) -> Iterator[Ledger]:
    """Open the ledger as an onlooker, beside Airflow."""
    with Ledger(demo.postgres.connection_kwargs(LEDGER_DATABASE)) as ledger:
        yield ledger


def trigger_all(api: AirflowApi) -> Runs:
    """Start a run of each pipeline and return their ids by Dag."""
    api.wait_for_dags(set(PIPELINES))
    return {dag_id: api.trigger(dag_id, conf) for dag_id, conf in PIPELINES.items()}


def trigger_new(api: AirflowApi) -> Runs:
    """Start a run of each pipeline that has never run."""
    api.wait_for_dags(set(PIPELINES))
    return {dag_id: api.trigger(dag_id, conf) for dag_id, conf in PIPELINES.items() if not api.runs(dag_id)}


def approve_what_waits(reviewer: AirflowApi) -> int:
    """Approve, over REST, what waits for a logged-in reviewer, all of a Dag run at once; return how many."""
    waiting = reviewer.json("GET", f"{API}/reviews", params={"mine": True, "limit": AT_ONCE})["reviews"]
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for review in waiting:
        if review["review_digest"]:
            choice = {"job_id": review["job_id"], "digest": review["review_digest"]}
            runs.setdefault((review["dag_id"], review["run_id"]), []).append(choice)
    return sum(len(choices) for choices in runs.values() if _approve(reviewer, choices))


def _approve(reviewer: AirflowApi, choices: list[dict[str, Any]]) -> bool:
    """Approve all of these jobs, or none where one has changed since: then it is read again."""
    body = {"verdict": "approve", "comment": "looks right", "jobs": choices}
    answer = reviewer.request("POST", f"{API}/decisions", json=body)
    if answer.status_code != CONFLICT:
        answer.raise_for_status()
    return answer.status_code != CONFLICT


def unfinished(api: AirflowApi, runs: Runs) -> list[str]:
    """The Dags whose run has not ended."""
    return [dag_id for dag_id, run_id in runs.items() if api.run_state(dag_id, run_id) not in FINISHED]


def answers(demo: LocalDemo) -> tuple[int, int]:
    """How many responses ended by a webhook, and how many by polling OpenAI."""
    with demo.postgres.connect(LEDGER_DATABASE) as connection:
        row = connection.execute(_ANSWERS).fetchone()
    assert row is not None
    return row[0], row[1]


def summary(jobs: list[Job]) -> str:
    """How many jobs of each type are in each state, in one line."""
    counts: dict[str, Counter[str]] = {}
    for job in jobs:
        counts.setdefault(job.job_type, Counter())[job.state.value] += 1
    parts = (
        f"{job_type}: {', '.join(f'{number} {state}' for state, number in sorted(states.items()))}"
        for job_type, states in sorted(counts.items())
    )
    return "  |  ".join(parts) or "no jobs yet"
