"""A draft that can be watched while the model works, for as long as a test needs to see it arrive."""

from __future__ import annotations

from airflow.sdk import dag

from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator


@dag(schedule=None, params={"case": "none"})
def watched_draft() -> None:
    OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_key="{{ params.case }}",
        model="gpt-5.2",
        input="[[standin: delay=20 stream=drop]] Write about {{ params.case }}.",
        approval="not required",
        approval_reason="it is a test",
        stream=True,
    )


watched_draft()
