"""Tasks that tests need often, with sensible defaults."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from airflow_provider_aihandoff.core.jobs.job_view import JobView
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.postgres import PostgresSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.policies import ApprovalPolicy, Approve, AskPerson


class Note(BaseModel):
    title: str
    body: str


NOTE = {"title": "Kettle", "body": '"Boils".\nRobert\'); DROP TABLE reports;-- Ü <b> %(x)s {{ 1 }}'}


def fault(words: str) -> dict[str, str]:
    """Metadata with which the stand-in does what these words say."""
    return {"standin": words}


def ask(task_id: str = "draft", **arguments: Any) -> OpenAIBackgroundResponseOperator:
    """A task that asks the model."""
    defaults: dict[str, Any] = {
        "job_type": "publishing",
        "job_key": "post:kettle",
        "model": "gpt-5.2",
        "input": "Write about the kettle.",
        "output_type": Note,
    }
    return OpenAIBackgroundResponseOperator(task_id=task_id, **{**defaults, **arguments})


def ask_unapproved(task_id: str = "draft", **arguments: Any) -> OpenAIBackgroundResponseOperator:
    """The same for a job that needs no approval."""
    return ask(task_id, **{"approval": "not required", "approval_reason": "it is a test", **arguments})


def publish(draft: Any = 1, task_id: str = "publish", **arguments: Any) -> HttpSideEffectOperator:
    """A task that puts the note of a job, by default the first, to the CMS."""
    defaults: dict[str, Any] = {
        "http_conn_id": "cms",
        "method": "PUT",
        "endpoint": "/posts/kettle",
        "json": {"title": "{{ job.output.title }}", "body": "{{ job.output.body }}"},
        "external_id_path": "$.id",
        "hold_timeout": timedelta(0),  # an unknown effect fails the task at once
    }
    return HttpSideEffectOperator(task_id=task_id, job=draft, **{**defaults, **arguments})


def store(draft: Any = 1, task_id: str = "store", **arguments: Any) -> PostgresSideEffectOperator:
    """A task that writes the note of a job, by default the first, into a table."""
    defaults: dict[str, Any] = {
        "postgres_conn_id": "sales_db",
        "sql": "INSERT INTO reports (title) VALUES (%(title)s) RETURNING report_id",
        "parameters": {"title": "{{ job.output.body }}"},
    }
    return PostgresSideEffectOperator(task_id=task_id, job=draft, **{**defaults, **arguments})


class Policy(ApprovalPolicy):
    """Gives the verdict that is set, and remembers what it was asked about."""

    name, version = "test", "1"

    def __init__(self, verdict: Any = None) -> None:
        self.verdict = Approve("it is a test") if verdict is None else verdict
        self.asked: list[tuple[JobView, list[dict[str, Any]]]] = []

    def decide(self, job: JobView, plan: Sequence[dict[str, Any]]) -> Approve | AskPerson:
        self.asked.append((job, list(plan)))
        if isinstance(self.verdict, Exception):
            raise self.verdict
        verdict: Approve | AskPerson = self.verdict
        return verdict
