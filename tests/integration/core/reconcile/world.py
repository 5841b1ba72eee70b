"""What tests of the reconciler need: jobs with every problem, states of tasks at will, and all that is stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.provider import ModelProvider, ModelResponse
from airflow_provider_aihandoff.core.generation.submit import submit
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import InboxEntry, Job, OnTimeout, Owner
from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState
from airflow_provider_aihandoff.core.reconcile.findings import Finding
from airflow_provider_aihandoff.core.reconcile.run import reconcile
from airflow_provider_aihandoff.core.states import ResponseStatus
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from tests.factories import LEASE, OWNER, TEST, effect_plan, job_spec

MONTH = timedelta(days=30)
_TABLES = ("ledger", "jobs", "revisions", "decisions", "effects", "inbox", "events", "notices")


def task(name: str) -> Owner:
    """The draft task of a run of this name."""
    return replace(OWNER, run_id=name, ti_id=f"ti-{name}")


class World:
    """One ledger, one OpenAI, and an Airflow whose tasks are in the states that a test gives them."""

    def __init__(self, ledger: Ledger, conninfo: dict[str, Any], provider: ModelProvider) -> None:
        self.ledger, self.conninfo, self.provider = ledger, conninfo, provider
        self.tasks: dict[str, TaskState | list[TaskState]] = {}
        self.before_states: Callable[[], object] | None = None
        self.before_provider: Callable[[], object] | None = None
        self.asked_states = 0

    def reconcile(self, **changes: Any) -> list[Finding]:
        arguments: dict[str, Any] = {
            "provider_for": self.provider_for,
            "states_of": self.states_of,
            "inbox_retention": MONTH,
            **changes,
        }
        return reconcile(arguments.pop("ledger", self.ledger), **arguments)

    def provider_for(self, conn_id: str) -> ModelProvider:
        if self.before_provider is not None:
            self.before_provider()
        if conn_id == "removed":
            raise LookupError("The conn_id `removed` isn't defined")
        return self.provider

    def states_of(self, owners: Collection[Owner]) -> Mapping[Owner, TaskState]:
        """The state of each task by its run; of several, one after the other. Alive where a test says nothing."""
        self.asked_states += 1
        if self.asked_states > 1 and self.before_states is not None:
            self.before_states()
        return {owner: self._state(owner) for owner in owners}

    def _state(self, owner: Owner) -> TaskState:
        state = self.tasks.get(owner.run_id, TaskState.ALIVE)
        if isinstance(state, list):
            return state.pop(0) if len(state) > 1 else state[0]
        return state

    def sql(self, statement: str, *values: Any) -> None:
        with psycopg.connect(**self.conninfo) as connection:
            connection.execute(statement, values)

    def dump(self) -> dict[str, list[Any]]:
        """Every row of every table."""
        with psycopg.connect(**self.conninfo) as connection:
            return {
                table: connection.execute(f"SELECT to_jsonb(t) FROM aihandoff.{table} AS t ORDER BY 1").fetchall()  # noqa: S608
                for table in _TABLES
            }

    def age(self, job: Job, seconds: float) -> None:
        """Nothing has happened to the job for so long."""
        self.sql(
            "UPDATE aihandoff.jobs SET updated_at = clock_timestamp() - %s WHERE job_id = %s",
            timedelta(seconds=seconds),
            job.job_id,
        )

    def pass_deadline(self, job: Job, seconds: float) -> None:
        self.sql(
            "UPDATE aihandoff.revisions SET deadline = clock_timestamp() - %s WHERE job_id = %s",
            timedelta(seconds=seconds),
            job.job_id,
        )

    def opened(self, run: str = "r1", words: str = "stuck=in_progress", **changes: Any) -> Job:
        request = {"model": "gpt-5.2", "input": f"Write {run}.", "metadata": {"standin": words}}
        spec = job_spec(**{"job_key": run, "input": request, "request": request, "owner": task(run), **changes})
        return self.ledger.submission.open(spec).job

    def running(self, run: str = "r1", words: str = "stuck=in_progress", **changes: Any) -> Job:
        """A job whose response does what the words say; left alone for ten minutes."""
        job = self.opened(run, words, **changes)
        submit(self.ledger, self.provider, job, actor=TEST)
        self.age(job, 600)
        return self.ledger.job(job.job_id)

    def overdue(self, run: str = "r1", words: str = "stuck=in_progress", **changes: Any) -> Job:
        job = self.running(run, words, **changes)
        self.pass_deadline(job, 90)
        return job

    def created(self, words: str, **metadata: str) -> str:
        """The id of a response that runs at OpenAI and that the ledger does not know."""
        request = {"model": "gpt-5.2", "input": "x", "metadata": {"standin": words}}
        response = self.provider.create(request, metadata, timeout=5)
        assert isinstance(response, ModelResponse)
        return response.id

    def lost(self, run: str = "r1") -> Job:
        """A job whose attempt died between the request and its answer; left alone for ten minutes."""
        job = self.opened(run)
        self.ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
        self.sql(
            "UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp() - interval '1 second' "
            "WHERE job_id = %s",
            job.job_id,
        )
        self.age(job, 600)
        return self.ledger.job(job.job_id)

    def never_sent(self, run: str = "r1") -> Job:
        job = self.opened(run)
        self.age(job, 600)
        self.pass_deadline(job, 90)
        return job

    def in_review(
        self, run: str = "r1", on_timeout: OnTimeout | None = "reject", since: float = 90, **changes: Any
    ) -> Job:
        """A job in review that expired so many seconds ago."""
        job = self.running(run, **changes)
        self.ledger.outputs.store(job.job_id, 1, Output(ResponseStatus.COMPLETED, "A kettle."), actor=TEST)
        return self.ledger.reviews.ask(
            job.job_id,
            [effect_plan()],
            policy=None,
            deadline=datetime.now(UTC) - timedelta(seconds=since),
            actor=TEST,
            on_timeout=on_timeout,
        )

    def webhook(self, webhook_id: str, response_id: str | None, conn_id: str = "openai_default") -> InboxEntry:
        """A webhook about the end of a response; if it waits for a poll, it is due."""
        kind = "response.completed"
        body = {"type": kind, "data": {"id": response_id}}
        self.ledger.inbox.receive(Delivery(webhook_id, conn_id, kind, response_id, body))
        self.sql("UPDATE aihandoff.inbox SET poll_at = clock_timestamp() WHERE poll_at IS NOT NULL")
        return self.ledger.inbox.read(webhook_id)

    def state(self, job: Job) -> str:
        return self.ledger.job(job.job_id).state.value

    def events(self, job: Job, actor: str = "reconciler") -> list[str]:
        """What this actor did to a job."""
        return [line.event for line in self.ledger.record(job.job_id).events if line.actor == actor]


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind for finding in findings]
