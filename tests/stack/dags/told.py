"""A note whose reviewers are told by a notifier, and who may be wanted by name, or both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier, dag
from pydantic import BaseModel, Field

from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.reviewers import Approvers
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


class ProductNote(BaseModel):
    title: str = Field(max_length=200)
    tagline: str
    body: str


class ToFile(BaseNotifier):
    """Appends what there is to say to a file."""

    template_fields = ("text",)

    def __init__(self) -> None:
        super().__init__()
        self.text = "{{ handoff.notice }} {{ handoff.job_key }} {{ handoff.link }}"

    def notify(self, context: Any) -> None:
        with (Path(os.environ["AIRFLOW_HOME"]) / "notices.txt").open("a") as file:
            file.write(f"{self.text}\n")


def note(**review: Any) -> None:
    draft = OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_type="note",
        job_key="{{ params.slug }}",
        model="gpt-5.2",
        input="[[standin: delay=0]] Write the product note for {{ params.slug }}.",
        output_type=ProductNote,
    )
    approve = ApprovalSensor(task_id="approve", job=draft, notifiers=[ToFile()], **review)
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


@dag(schedule=None, params={"slug": "none"})
def told() -> None:
    note()


@dag(schedule=None, params={"slug": "none"})
def told_both() -> None:
    note(approvers=Approvers(users=("alice", "bob")), approvals=2)


told()
told_both()
