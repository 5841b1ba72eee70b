"""Events: send changes of jobs to those who have subscribed."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import dag

from airflow_provider_aihandoff.operators.event_delivery import EventDeliveryOperator


@dag(
    schedule="@continuous",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["aihandoff"],
    doc_md="""
    Sends changes of jobs, signed, to the receivers that `airflow aihandoff events subscribe` has named. The triggerer
    does it; no worker slot is held. Each run sends for an hour, and the next one begins when it ends.

    **You need the connection** `aihandoff_ledger`, and those with the secrets of your subscriptions.

    **You can run it again**, or twice at once, and beside `airflow aihandoff events deliver`.
    """,
)
def aihandoff_events() -> None:
    EventDeliveryOperator(task_id="deliver")


aihandoff_events()
