"""A product note: drafted, approved and published. The Dags beside it say who is notified, who decides, and by when."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


class ProductNote(BaseModel):
    title: str = Field(max_length=200)
    tagline: str
    body: str


def note(**review: Any) -> None:
    draft = OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_type="note",
        job_key="{{ params.slug }}",
        model="gpt-5.2",
        input="[[standin: delay=0]] Write the product note for {{ params.slug }}.",
        output_type=ProductNote,
    )
    approve = ApprovalSensor(task_id="approve", job=draft, **review)
    publish = HttpSideEffectOperator(
        task_id="publish",
        job=draft,
        http_conn_id="cms",
        method="PUT",
        endpoint="/posts/{{ params.slug }}",
        json={"title": "{{ job.output.title }}", "body": "{{ job.output.body }}"},
        external_id_path="$.id",
        idempotent=True,
        current="/posts/{{ params.slug }}",
    )
    draft >> approve >> publish
