"""Report drafting: last week's sales figures become a report that a person approves, in two places."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.providers.common.compat.sdk import dag, task
from pydantic import BaseModel, Field

from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.postgres import PostgresSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor

FIGURES = """
    SELECT week::text, region, product, units, revenue::float
    FROM sales WHERE week > (SELECT max(week) FROM sales) - 14
    ORDER BY week, region, product"""


class Section(BaseModel):
    heading: str
    body: str


class Figure(BaseModel):
    label: str
    value: str
    source: str = Field(description="Where in the input the figure stands")


class Report(BaseModel):
    title: str
    summary: str
    sections: list[Section]
    figures: list[Figure] = Field(description="Every figure that the text relies on")


@dag(
    schedule="0 6 * * MON",
    start_date=datetime(2026, 1, 5),  # noqa: DTZ001  Airflow takes it as UTC
    catchup=False,
    doc_md="""
    Every Monday: reads the figures of the last two weeks, snapshots them as the job's input, and drafts a report.
    After you have approved it, it is stored in the table `reports` and announced in a channel.

    **If the report is not right yet**, you can edit it on its page, in a form of its fields, or request changes from
    the model with a comment, up to the limits below. In both cases you decide on a new plan.

    **You need the connections** `openai_default`, `sales_db` (Postgres), `channel` (HTTP) and `aihandoff_ledger`.

    **If you run it again** for the same week, it attaches to the job that exists. Other figures for the same week make
    a new revision as long as nothing was written, and are refused afterwards.
    """,
)
def report_drafting() -> None:
    @task
    def figures() -> dict[str, Any]:
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        rows = PostgresHook("sales_db").get_records(FIGURES)
        names = ("week", "region", "product", "units", "revenue")
        return {"week": rows[-1][0], "sales": [dict(zip(names, row, strict=True)) for row in rows]}

    draft = OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_type="report",
        job_key="sales:{{ ti.xcom_pull(task_ids='figures').week }}",
        model="gpt-5.2",
        instructions="You write the weekly sales report. Use only figures that stand in the input, and list them.",
        input="Draft the report on the newest week, compared with the one before: "
        "{{ ti.xcom_pull(task_ids='figures') | tojson }}",
        output_type=Report,
        max_revisions=4,  # the first, and three that a reviewer requests
        max_output_tokens=8_000,
        max_cost_usd=5,
    )
    approve = ApprovalSensor(task_id="approve", job=draft)
    store = PostgresSideEffectOperator(
        task_id="store",
        job=draft,
        postgres_conn_id="sales_db",
        sql="INSERT INTO reports (title, body) VALUES (%(title)s, %(body)s::jsonb) RETURNING report_id",
        parameters={"title": "{{ job.output.title }}", "body": "{{ job.output | tojson }}"},
    )
    announce = HttpSideEffectOperator(
        task_id="announce",
        job=draft,
        http_conn_id="channel",
        endpoint="/messages",
        json={"channel": "sales", "text": "{{ job.output.title }}\n\n{{ job.output.summary }}"},
        external_id_path="$.id",
        idempotent=True,  # the channel honours Idempotency-Key
    )
    figures() >> draft >> approve >> store >> announce


report_drafting()
