"""An order: a head, a post for each of its lines that names the head, and a refund that is written on a condition."""

from __future__ import annotations

from typing import Any

from airflow.sdk import dag
from pydantic import BaseModel

from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


class Line(BaseModel):
    slug: str
    title: str


class Order(BaseModel):
    category: str
    lines: list[Line]


ORDER = '{"category":"sale","lines":[{"slug":"line-a","title":"A"},{"slug":"line-b","title":"B"}]}'

HEAD = {"title": "An order", "body": "Of two lines."}


@dag(schedule=None)
def order_lines() -> None:
    draft = OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_type="order",
        job_key="order:{{ run_id }}",
        model="gpt-5.2",
        input=f"[[standin: delay=0 text='{ORDER}']] Read the order.",
        output_type=Order,
    )
    approve = ApprovalSensor(task_id="approve", job=draft)
    put: dict[str, Any] = {
        "job": draft,
        "http_conn_id": "cms",
        "method": "PUT",
        "external_id_path": "$.id",
        "idempotent": True,
    }
    head = HttpSideEffectOperator(task_id="head", endpoint="/posts/order-head", json=HEAD, **put)
    line = HttpSideEffectOperator(
        task_id="line",
        for_each="$.lines",
        endpoint="/posts/{{ item.slug }}",
        json={"title": "{{ item.title }}", "body": "of {effects.head.external_id}"},
        **put,
    )
    refund = HttpSideEffectOperator(
        task_id="refund",
        when="{{ job.output.category == 'refund' }}",
        endpoint="/posts/order-refund",
        json={"title": "A refund", "body": "It is under way."},
        **put,
    )
    draft >> approve >> head >> line >> refund


order_lines()
