"""Jobs that flow through the three pipelines, and the person who decides on some of them."""

import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import psycopg

from airflow_provider_aihandoff.core.errors import HandoffError
from demo.airflow_api import UNREACHABLE, AirflowApiError
from demo.airflow_stack import BUSINESS_DATABASE, METADATA_DATABASE
from demo.business.seed import LAST_WEEK, MORE_OPENED, products
from demo.pipelines import approve_what_waits
from nodes.components import Stack
from nodes.person import REVIEWER, resolve_writes, send_lost_requests_again
from nodes.topology import BUSINESS_URL, OPENAI_URL
from nodes.verdict import read_json

REQUESTER = "admin"
MAINTENANCE = "aihandoff_reconcile"
DAGS = ("publishing", "report_drafting", "ticket_classification", MAINTENANCE)
APPROVE_SECONDS, RESOLVE_SECONDS, MAINTENANCE_SECONDS = 3.0, 5.0, 30.0
"""Between two rounds of each."""
LOGGED = "Filling up the DagBag"
"""Stands in the log of each task that has begun."""
MOST_CLEARS = 5
"""How often a person clears a run."""

_INSERT_SALES = "INSERT INTO sales (week, region, product, units, revenue) VALUES (%s, 'North', %s, %s, %s)"
_OPEN_TASKS = """
    SELECT task_id, coalesce(state, 'not scheduled'), try_number FROM task_instance
    WHERE dag_id = %s AND run_id = %s AND state IS DISTINCT FROM 'success' ORDER BY task_id"""
_LATE_RETRIES = """
    SELECT dag_id, run_id, array_agg(task_id) FROM task_instance
    WHERE run_id = ANY(%s) AND state = 'up_for_retry' AND end_date > now() + interval '1 minute'
    GROUP BY dag_id, run_id"""

Run = tuple[str, str]


@dataclass
class Batch:
    """The jobs of one row of the table: a report, some posts, and a set of tickets."""

    number: int
    jobs: int
    """How many jobs it makes."""
    first_job: int
    """The id that the newest job had before."""
    runs: list[Run] = field(default_factory=list)
    held: set[int] = field(default_factory=set)
    """The jobs of which a person had to resolve a write or a lost request."""
    cleared: dict[Run, int] = field(default_factory=dict)
    """How often a person has cleared each run, since it had failed or its retry was late."""
    revived: list[str] = field(default_factory=list)
    """What ended by itself, and was started again."""

    @property
    def posts(self) -> int:
        """How many of the jobs are posts, each with a run of its own."""
        return max(1, self.jobs // 20)

    @property
    def tickets(self) -> int:
        """How many of the jobs are those of the set."""
        return self.jobs - 1 - self.posts


class Traffic:
    """Starts batches, and does what people and a schedule do meanwhile."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._requester, self._reviewer = stack.api(REQUESTER), stack.api(REVIEWER)
        self._next = dict.fromkeys(("approve", "resolve", "maintain"), 0.0)
        self._tickets = 0
        self._products = [product["slug"] for product in products(stack.jobs)]
        self._numbers = 0
        self._maintained = 0
        self._requester.wait_for_dags(set(DAGS))

    def start(self, jobs: int) -> Batch:
        """Start the runs of a batch."""
        self._numbers += 1
        batch = Batch(self._numbers, jobs, first_job=self._newest_job())
        week = LAST_WEEK + timedelta(weeks=batch.number)
        with self._stack.databases.metadata.connect(BUSINESS_DATABASE) as connection:
            connection.execute(_INSERT_SALES, [week, "Tidewater Kettle", 40 + batch.number, 3560])
        opened = MORE_OPENED + timedelta(seconds=self._tickets)
        self._tickets += batch.tickets
        until = MORE_OPENED + timedelta(seconds=self._tickets)
        tickets = {"opened_from": opened.isoformat(), "opened_to": until.isoformat()}
        self._trigger(batch, "ticket_classification", tickets, "tickets")
        self._trigger(batch, "report_drafting", {}, "report")
        for number in range(batch.posts):
            self._trigger(batch, "publishing", {"slug": self._products.pop()}, f"post-{number}")
        return batch

    def go_on(self, batch: Batch) -> None:
        """Do what is due: approve, resolve, clear what has failed, maintain, start what has ended."""
        batch.revived += self._stack.revive()
        try:
            if self._is_due("approve", APPROVE_SECONDS):
                approve_what_waits(self._reviewer)
            if self._is_due("resolve", RESOLVE_SECONDS):
                self._resolve(batch)
                self._clear(batch)
            if self._is_due("maintain", MAINTENANCE_SECONDS):
                self._maintained += 1
                self._requester.trigger(MAINTENANCE, run_id=f"maintenance-{self._maintained}")
        except (*UNREACHABLE, AirflowApiError, HandoffError, psycopg.OperationalError):
            return  # what is down is down on purpose; the next round does it

    def unfinished(self, batch: Batch) -> list[Run]:
        """The runs of a batch that have not ended well."""
        return [run for run, state in self.states(batch).items() if state != "success"]

    def states(self, batch: Batch) -> dict[Run, str]:
        """The state of each run of a batch, as Airflow's database has it."""
        query = "SELECT dag_id, run_id, state FROM dag_run WHERE run_id = ANY(%s)"
        with self._stack.databases.metadata.connect(METADATA_DATABASE) as connection:
            rows = connection.execute(query, [[run_id for _, run_id in batch.runs]]).fetchall()
        return {(row[0], row[1]): str(row[2]) for row in rows}

    def in_words(self, run: Run) -> str:
        """A run that has not ended, with what its tasks are at."""
        with self._stack.databases.metadata.connect(METADATA_DATABASE) as connection:
            tasks = connection.execute(_OPEN_TASKS, [*run]).fetchall()
        states = ", ".join(f"{task_id} is {state} (try {number})" for task_id, state, number in tasks)
        return f"{' '.join(run)} has not ended: {states or 'no task is under way'}"

    def unreadable_logs(self, batch: Batch) -> list[str]:
        """The tasks of the set whose log the API server cannot show: it is on the node that ran the task."""
        dag_id, run_id = batch.runs[0]
        tasks = self._requester.task_instances(dag_id, run_id)
        return [
            f"{dag_id} {run_id}: the log of {task.task_id} cannot be read"
            for task in tasks
            if LOGGED not in self._requester.task_log(dag_id, run_id, task.task_id, task.try_number)
        ]

    def _trigger(self, batch: Batch, dag_id: str, conf: dict[str, Any], name: str) -> None:
        run_id = f"batch-{batch.number}-{name}"
        batch.runs.append((dag_id, run_id))
        self._requester.wait_for(lambda: self._triggered(dag_id, conf, run_id), f"{dag_id} to be triggered", 120)

    def _triggered(self, dag_id: str, conf: dict[str, Any], run_id: str) -> bool:
        """Whether the run is there. A second request for it, after an answer that was lost, is refused with 409."""
        body = {"logical_date": None, "conf": conf, "dag_run_id": run_id}
        answer = self._requester.request("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body)
        if answer.status_code != httpx.codes.CONFLICT:
            answer.raise_for_status()
        return True

    def _is_due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now < self._next[what]:
            return False
        self._next[what] = now + seconds
        return True

    def _resolve(self, batch: Batch) -> None:
        with self._stack.open_ledger() as ledger:
            batch.held |= resolve_writes(ledger, lambda: read_json(f"{BUSINESS_URL}/witness")["requests"])
            batch.held |= send_lost_requests_again(
                ledger, lambda: read_json(f"{OPENAI_URL}/standin/responses")["responses"]
            )

    def _clear(self, batch: Batch) -> None:
        """Clear what has failed, and what waits for a retry that is late by as much as a worker's clock was ahead."""
        for run, state in self.states(batch).items():
            if state == "failed" and batch.cleared.get(run, 0) < MOST_CLEARS:
                self._requester.clear(*run, only_failed=True)
                batch.cleared[run] = batch.cleared.get(run, 0) + 1
        with self._stack.databases.metadata.connect(METADATA_DATABASE) as connection:
            late = connection.execute(_LATE_RETRIES, [[run_id for _, run_id in batch.runs]]).fetchall()
        for dag_id, run_id, task_ids in late:
            if batch.cleared.get((dag_id, run_id), 0) < MOST_CLEARS:
                self._requester.clear(dag_id, run_id, task_ids)
                batch.cleared[dag_id, run_id] = batch.cleared.get((dag_id, run_id), 0) + 1

    def _newest_job(self) -> int:
        with self._stack.databases.connect_ledger() as connection:
            row = connection.execute("SELECT coalesce(max(job_id), 0) FROM aihandoff.jobs").fetchone()
        assert row is not None
        return int(row[0])
