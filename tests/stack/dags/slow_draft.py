"""A draft that takes ten minutes, for tests that interrupt it."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator


@dag(schedule=None, params={"case": "none"})
def slow_draft() -> None:
    OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_key="{{ params.case }}",
        model="gpt-5.2",
        inline_wait=timedelta(0),
        input="[[standin: delay=600]] Take your time, {{ params.case }}.",
    )


slow_draft()
