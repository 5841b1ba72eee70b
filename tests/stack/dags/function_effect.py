"""A note that a Python function puts to the CMS, and another one undoes; its answer may get lost."""

from __future__ import annotations

from airflow.sdk import dag, task
from cms_functions import put_post, remove_post

from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


@dag(schedule=None, params={"slug": "none", "lose": "no"})
def function_effect() -> None:
    draft = OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_type="note",
        job_key="{{ params.slug }}",
        model="gpt-5.2",
        input="[[standin: delay=0]] Write about {{ params.slug }}.",
    )
    approve = ApprovalSensor(task_id="approve", job=draft)

    @task.side_effect(job=draft, key="post", undo=remove_post, timeout=30)
    def publish(slug: str, title: str, body: str, lose: str, effect_key: str = "") -> str:
        post_id = put_post(slug, title, body, effect_key)
        if lose == "yes":
            raise ConnectionError("cut off")
        return post_id

    written = publish("{{ params.slug }}", "About {{ params.slug }}", "{{ job.output }}", lose="{{ params.lose }}")
    draft >> approve >> written


function_effect()
