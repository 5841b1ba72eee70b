"""Maintenance: every few minutes, find orphaned jobs, expired reviews and webhooks in quarantine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.common.compat.sdk import dag

from airflow_provider_aihandoff.operators.reconcile import ReconcileOperator


@dag(
    schedule=timedelta(minutes=5),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["aihandoff"],
    doc_md="""
    Finds responses whose task has ended, requests whose answer was lost, deadlines that passed, expired reviews, and
    webhooks in quarantine, and takes one next step for each. In the log you see what it found and did, and what is left
    for you. What it does to a job is in the job's history. It also removes old webhooks from the inbox, and sends the
    gauges of your metrics. With `notifiers`, its task notifies you of what needs a person.

    **You need the connections** `aihandoff_ledger`, and the OpenAI connections of your jobs.

    **You can run it again**, or twice at once. `airflow aihandoff reconcile --dry-run` shows you what it would do.
    """,
)
def aihandoff_reconcile() -> None:
    ReconcileOperator(task_id="reconcile")


aihandoff_reconcile()
