"""Each statement on the way of a job has an index: none reads through a table that grows with the jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg

from airflow_provider_aihandoff.core.generation.provider import ModelProvider
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState
from airflow_provider_aihandoff.core.reconcile.run import reconcile
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec, submit
from tests.integration.core.sets.test_shared_steps import answers, left, opened, permitted, wishes
from tests.integration.core.sets.test_written_together import claimed, written
from tests.integration.core.webhooks.inboxes import webhook
from tests.waiting import until

GROWING = ["jobs", "revisions", "decisions", "effects", "inbox", "events"]
SCANS = "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE schemaname = 'aihandoff' AND relname = ANY(%s)"
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def counted(scans: psycopg.Connection[Any]) -> dict[str, int]:
    """How often each table was read through, once all others have said what they did."""
    until(lambda: scans.execute(OTHERS).fetchone() == (0,))
    scans.execute("SELECT pg_stat_clear_snapshot()")
    return dict(scans.execute(SCANS, [GROWING]).fetchall())


@contextmanager
def with_indexes_alone(conninfo: dict[str, Any]) -> Iterator[Ledger]:
    """A ledger on which PostgreSQL reads through a table only where it has no index for a statement; and see that it
    never does."""
    with psycopg.connect(**conninfo, autocommit=True) as scans:
        before = counted(scans)
        with Ledger({**conninfo, "options": "-c enable_seqscan=off"}, max_size=2) as ledger:
            yield ledger
        assert counted(scans) == before


def in_review(ledger: Ledger) -> list[Job]:
    """Jobs of a set, asked about."""
    jobs = opened(ledger)
    ledger.together.submitted(answers(permitted(ledger, jobs)), actor=TEST)
    ledger.inbox_batches.receive([webhook(f"wh_{job.job_id}", f"resp_{job.job_id}") for job in jobs])
    ledger.together.store(left(jobs), actor=TEST, complete=False)
    return [ask(ledger, ledger.job(job.job_id), effect_plan(connection="cms")) for job in jobs]


def test_of_a_job(conninfo: dict[str, Any]) -> None:
    with with_indexes_alone(conninfo) as ledger:
        submit(ledger, job_spec(job_key="t1"), "resp_1")
        ledger.inbox.receive(webhook("wh_1", "resp_1"))
        job = ask(ledger, draft(ledger, job_spec(job_key="t2"), response_id="resp_2"))
        ledger.reviews.notify(job.job_id, digest=str(job.review_digest), actor=TEST)
        approve(ledger, job)
        claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
        ledger.effects.confirm(claim, external_id="post-1", result={}, actor=TEST)
        assert ledger.record(job.job_id).job.state is JobState.COMPLETED
        assert ledger.jobs(dag_id="publishing", run_id="manual__1")


def test_of_the_jobs_of_a_set(conninfo: dict[str, Any]) -> None:
    with with_indexes_alone(conninfo) as ledger:
        jobs = in_review(ledger)
        set_id = int(jobs[0].set_id or 0)
        for read in (ledger.sets.read, ledger.sets.total, ledger.sets.in_flight):
            read(set_id)
        assert ledger.sets.waiting(set_id, ended=False) == []
        assert len(ledger.sets.jobs(set_id, [JobState.REVIEW], after=0)) == len(jobs)
        ledger.sets.unasked(set_id, again=True, after=0)
        assert set(ledger.together.intend(wishes(jobs), actor=TEST, lease=LEASE)) == {None}, "each was sent before"
        choices = [(job.job_id, str(job.review_digest)) for job in jobs]
        ledger.reviews.decide_many(choices, "approve", person=Person("bob"))
        ledger.together.read([(job.job_id, job.revision) for job in jobs])
        ledger.sets.writable(set_id, "publish", refused=False, after=0)
        done = ledger.written_together.confirm(written(claimed(ledger, jobs)), actor=TEST)
        assert None not in done


def test_of_a_run_of_the_maintenance_dag(conninfo: dict[str, Any]) -> None:
    def no_provider(conn_id: str) -> ModelProvider:
        raise AssertionError(f"{conn_id} is asked about nothing")

    with with_indexes_alone(conninfo) as ledger:
        in_review(ledger)
        submit(ledger, job_spec(job_key="runs"), "resp_runs")
        reconcile(
            ledger,
            provider_for=no_provider,
            states_of=lambda owners: dict.fromkeys(owners, TaskState.ALIVE),
            inbox_retention=timedelta(days=30),
        )
        ledger.gauges.read(["openai_default"])
