"""Product notes for a web shop: asked for at the front door, approved by a person, published in a CMS."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG
from pydantic import BaseModel, Field

from airflow_provider_aihandoff.job_types import JobType
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


class NoteRequest(BaseModel):
    slug: str = Field(pattern=r"^[a-z0-9-]+$", max_length=100)


class ProductNote(BaseModel):
    title: str
    tagline: str
    body: str


note = JobType(
    "product-note",
    NoteRequest,
    description="A product note for the shop, reviewed before it is published.",
    users=("shop", "alice"),
    shows_draft=True,
)

with DAG("product_note", schedule=None, params=note.params, tags=note.tags):
    draft = OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_type=note,
        model="gpt-5.2",
        instructions="You write product notes: warm, concrete, and true to the facts you are given.",
        input="Write the product note for {{ params.job_request.input.slug }}.",
        output_type=ProductNote,
        stream=True,
    )
    approve = ApprovalSensor(task_id="approve", job=draft)
    publish = HttpSideEffectOperator(
        task_id="publish",
        job=draft,
        http_conn_id="cms",
        method="PUT",
        endpoint="/posts/{{ params.job_request.input.slug }}",
        json={
            "title": "{{ job.output.title }}",
            "tagline": "{{ job.output.tagline }}",
            "body": "{{ job.output.body }}",
        },
        external_id_path="$.id",
        idempotent=True,
        timeout=10,
        current="/posts/{{ params.job_request.input.slug }}",
        undo={"method": "DELETE", "endpoint": "/posts/{{ params.job_request.input.slug }}"},
    )
    draft >> approve >> publish
