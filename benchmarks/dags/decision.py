"""Somebody decides, and a task goes on: through the ledger, and by Airflow's own operator. For `decision`."""

from __future__ import annotations

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import dag

from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


@dag(schedule=None)
def decision_ledger() -> None:
    """A job that writes nothing."""
    draft = OpenAIBackgroundResponseOperator(task_id="draft", model="gpt-5.2", input="Write about the kettle.")
    ApprovalSensor(task_id="approve", job=draft)


@dag(schedule=None)
def decision_airflow() -> None:
    """The same question, asked by Airflow's own operator."""
    ApprovalOperator(task_id="approve", subject="A text about the kettle")


decision_ledger()
decision_airflow()
