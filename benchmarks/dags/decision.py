"""A person decides, and a task goes on; beside it, a task that only starts. For `decision`."""

from __future__ import annotations

from typing import get_args

from airflow.sdk import dag, task

from airflow_provider_aihandoff.operators.required_actions import ApprovalWait
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


def make(wait_in: ApprovalWait) -> None:
    """Make a Dag whose job writes nothing, and whose approval waits there."""

    @dag(dag_id=f"decision_{wait_in}", schedule=None)
    def decision() -> None:
        draft = OpenAIBackgroundResponseOperator(task_id="draft", model="gpt-5.2", input="Write about the kettle.")
        ApprovalSensor(task_id="approve", job=draft, wait_in=wait_in)

    decision()


@dag(schedule=None)
def decision_beside() -> None:
    """What Airflow takes to start a task, whatever it does."""

    @task
    def start() -> None:
        pass

    start()


for each in get_args(ApprovalWait):
    make(each)
decision_beside()
