"""An answer that is refined three times in a task loop. Airflow has loops as of 3.4; before it, there is no Dag."""

from __future__ import annotations

from typing import Any, cast

from airflow.sdk import dag, task, task_group
from product_notes import ProductNote

from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator


@dag(schedule=None, params={"slug": ""})
def refined() -> None:
    @task_group
    def refine() -> None:
        draft = OpenAIBackgroundResponseOperator(
            task_id="draft",
            job_type="refined",
            model="gpt-5.2",
            input="Refine this note: {{ loop.previous.title if loop.previous else params.slug }}",
            output_type=ProductNote,
            approval="not required",
            approval_reason="it is refined again",
        )
        publish = HttpSideEffectOperator(
            task_id="publish",
            job=draft,
            http_conn_id="cms",
            method="PUT",
            endpoint="/posts/{{ params.slug }}-{{ loop.index }}",
            json={"title": "{{ job.output.title }}", "body": "{{ job.output.body }}"},
            external_id_path="$.id",
            idempotent=True,
        )

        @task
        def result(made: dict[str, Any]) -> dict[str, Any]:
            return {"title": f"{made['job_id']} was refined"}

        publish >> result(cast("Any", draft.output))

    cast("Any", refine).loop(max_iterations=3)


if RELEASE >= (3, 4):
    refined()
