"""Drafts that no one has to approve, one for each of the faults of the stand-in that a run names."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task

from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator


@dag(schedule=None, params={"words": [], "case": "none"})
def drafts() -> None:
    @task
    def requests(params: dict[str, Any] | None = None) -> list[dict[str, str]]:
        assert params is not None
        return [
            {"job_key": f"{params['case']}:{number}", "input": f"[[standin: {words}]] Write."}
            for number, words in enumerate(params["words"])
        ]

    OpenAIBackgroundResponseOperator.partial(
        task_id="draft",
        model="gpt-5.2",
        inline_wait=timedelta(0),
        max_revisions=1,
        approval="not required",
        approval_reason="it is a test, and writes nothing",
    ).expand_kwargs(requests())


drafts()
