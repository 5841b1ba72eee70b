"""The same items as a set, and as mapped tasks with a job each. For `sets --mapped`."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import dag, task_group

from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from airflow_provider_aihandoff.policies import MinimumConfidence
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from benchmarks.sets_request import INSTRUCTIONS, MODEL, Label

ITEMS = [
    {"number": str(number), "text": f"Ticket {number}: I was charged twice."}
    for number in range(int(os.environ.get("SETS_ITEMS", "1")))
]
ASKED: dict[str, Any] = {"model": MODEL, "instructions": INSTRUCTIONS, "output_type": Label}


def decide_and_write(draft: Any) -> None:
    """What both do with a draft."""
    approve = ApprovalSensor(task_id="approve", job=draft, policy=MinimumConfidence(0.0))
    write = HttpSideEffectOperator(
        task_id="write",
        job=draft,
        http_conn_id="channel",
        method="POST",
        endpoint="/messages",
        json={"channel": "benchmark", "text": "{{ job.output.suggested_reply or 'no reply' }}"},
    )
    draft >> approve >> write


@dag(schedule=None)
def sets_one() -> None:
    """One task for each step."""
    decide_and_write(
        OpenAIResponseSetOperator(
            task_id="draft",
            items=ITEMS,
            job_type="set",
            job_key="{{ item.number }}",
            input="{{ item.text }}",
            **ASKED,
        )
    )


@dag(schedule=None)
def sets_mapped() -> None:
    """Three tasks for each item."""

    @task_group
    def one(number: str, text: str) -> None:
        decide_and_write(
            OpenAIBackgroundResponseOperator(
                task_id="draft",
                job_type="mapped",
                job_key=number,
                input=text,
                **ASKED,
            )
        )

    one.expand_kwargs(ITEMS)


sets_one()
sets_mapped()
