"""Maintenance: every few minutes, look for what nobody waits for any more."""

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
    Finds responses whose task is gone, requests whose answer was lost, deadlines that passed, reviews whose time is
    over, and webhooks in quarantine, and takes the one next step for each. The log says what it found and did, and what
    is left to a person; what it does to a job is in the job's history. It also removes old webhooks from the inbox.

    **Connections**: `aihandoff_ledger`, and the OpenAI connections of the jobs.

    **Running it again**, or twice at once, is safe. `airflow aihandoff reconcile --dry-run` shows what it would do.
    """,
)
def aihandoff_reconcile() -> None:
    ReconcileOperator(task_id="reconcile")


aihandoff_reconcile()
