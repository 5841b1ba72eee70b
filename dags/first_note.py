"""A first job: a note, drafted by a model, approved by you, and written into a file. It needs no system of yours."""

from __future__ import annotations

from pathlib import Path

from airflow.providers.common.compat.sdk import Param, dag, task
from pydantic import BaseModel

from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


class Note(BaseModel):
    title: str
    body: str


@dag(
    schedule=None,
    params={
        "about": Param("rain barrels", type="string", description="What to write about"),
        "file": Param("/tmp/first_note.md", type="string", description="The file to write, on the worker"),  # noqa: S108
    },
    doc_md="""
    Trigger it. It drafts a note in the background, waits for you, and writes the approved text into a file.

    **You need the connections** `openai_default` and `aihandoff_ledger`.

    **If you run it again** about the same, it attaches to the job that exists: you pay and write nothing twice.
    """,
)
def first_note() -> None:
    draft = OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_type="first note",
        job_key="{{ params.about }}",
        model="gpt-5.2",
        input="Write a short note about {{ params.about }}.",
        output_type=Note,
    )
    # You are alone here. Leave `requester_may_approve` out, and another user than the one who asked has to approve.
    approve = ApprovalSensor(task_id="approve", job=draft, requester_may_approve=True)

    @task.side_effect(job=draft, idempotent=True)  # the same text in the same file: written twice, it is there once
    def write(file: str, text: str) -> str:
        Path(file).write_text(text, "utf-8")
        return file

    draft >> approve >> write(file="{{ params.file }}", text="# {{ job.output.title }}\n\n{{ job.output.body }}\n")


first_note()
