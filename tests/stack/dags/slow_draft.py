"""Drafts that take ten minutes, for tests that interrupt them: one that defers, and one that its worker waits for."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag

from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator

TEN_MINUTES = timedelta(minutes=10)


def draft(inline_wait: timedelta) -> None:
    OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_key="{{ params.case }}",
        model="gpt-5.2",
        inline_wait=inline_wait,
        input="[[standin: delay=600]] Take your time, {{ params.case }}.",
    )


@dag(schedule=None, params={"case": "none"})
def slow_draft() -> None:
    draft(inline_wait=timedelta(0))


@dag(schedule=None, params={"case": "none"})
def attended_draft() -> None:
    draft(inline_wait=TEN_MINUTES)


slow_draft()
attended_draft()
