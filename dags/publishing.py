"""Publishing: product copy, drafted by a model, approved by a person, published in a CMS."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task
from pydantic import BaseModel

from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


class ProductNote(BaseModel):
    title: str
    tagline: str
    body: str


@dag(
    schedule=None,
    params={"slug": Param("tidewater-kettle", type="string", description="The product to write about")},
    doc_md="""
    Trigger it with the `slug` of a product. It reads the product's facts, drafts a note in the background, waits for
    a person, and publishes the approved text in the CMS.

    **Four eyes**: if you trigger the run, you cannot approve what it drafted, whatever your permissions. The page shows
    what would be written, and what would undo it.

    **You need the connections** `openai_default`, `cms` (HTTP) and `aihandoff_ledger`.

    **If you run it again** for the same product, it attaches to the job that exists: you pay and publish nothing twice.
    """,
)
def publishing() -> None:
    @task
    def product_facts(params: dict[str, Any] | None = None) -> dict[str, Any]:
        from airflow.providers.http.hooks.http import HttpHook

        assert params is not None
        facts: dict[str, Any] = HttpHook("GET", http_conn_id="cms").run(f"/products/{params['slug']}").json()
        return facts

    facts = product_facts()
    draft = OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_type="publishing",
        job_key="post:{{ params.slug }}",
        model="gpt-5.2",
        instructions="You write product notes: warm, concrete, and true to the facts you are given.",
        input="Write the product note for {{ ti.xcom_pull(task_ids='product_facts') | tojson }}",
        output_type=ProductNote,
        permissions={"writes": "cms/posts/{{ params.slug }}"},
    )
    # Not by the user who triggered the run: see requester_may_approve.
    approve = ApprovalSensor(task_id="approve", job=draft)
    publish = HttpSideEffectOperator(
        task_id="publish",
        job=draft,
        http_conn_id="cms",
        method="PUT",
        endpoint="/posts/{{ params.slug }}",
        json={
            "title": "{{ job.output.title }}",
            "tagline": "{{ job.output.tagline }}",
            "body": "{{ job.output.body }}",
        },
        external_id_path="$.id",
        idempotent=True,  # the CMS honours Idempotency-Key
        timeout=10,
        current="/posts/{{ params.slug }}",  # so that a reviewer sees what it would change
        undo={"method": "DELETE", "endpoint": "/posts/{{ params.slug }}"},
    )
    facts >> draft >> approve >> publish


publishing()
