"""A person decides, and a task goes on; beside it, a task that only starts. For `decision`."""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


@dag(schedule=None)
def decision() -> None:
    """A job that writes nothing."""
    draft = OpenAIBackgroundResponseOperator(task_id="draft", model="gpt-5.2", input="Write about the kettle.")
    ApprovalSensor(task_id="approve", job=draft)


@dag(schedule=None)
def decision_beside() -> None:
    """What Airflow takes to start a task, whatever it does."""

    @task
    def start() -> None:
        pass

    start()


decision()
decision_beside()
