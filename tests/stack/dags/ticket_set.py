"""Labels for many tickets as one set: drafted, approved but for some, and written to the helpdesk."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task
from pydantic import BaseModel

from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from airflow_provider_aihandoff.policies import AllOf, AllowedValues
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


class Post(BaseModel):
    title: str
    body: str


PARAMS = {"number": 50, "prefix": "set", "job_type": "set", "fault": ""}
"""How many tickets, how their slugs begin, and how the stand-in answers the first request for the first of them."""


def define(*, wait_for_decisions: bool = False) -> None:
    @task(retries=3, retry_delay=timedelta(seconds=1))
    def tickets(params: dict[str, Any] | None = None) -> list[dict[str, str]]:
        assert params is not None
        faults = {0: f" [[standin: {params['fault']}]]"} if params["fault"] else {}
        return [
            {"slug": f"{params['prefix']}-{number}", "fault": faults.get(number, "")}
            for number in range(params["number"])
        ]

    draft = OpenAIResponseSetOperator(
        task_id="draft",
        items=tickets(),
        job_type="{{ params.job_type }}",
        job_key="{{ item.slug }}",
        model="gpt-5.2",
        input="Write about {{ item.slug }}.{{ item.fault }}",
        output_type=Post,
        max_in_flight=30,
        send_at_once=4,
        retry_delay=timedelta(seconds=1),
    )
    approve = ApprovalSensor(task_id="approve", job=draft, policy=AllOf(AllowedValues("title", ["none"]), name="none"))
    write = HttpSideEffectOperator(
        task_id="write",
        job=draft,
        http_conn_id="cms",
        method="PUT",
        endpoint="/posts/{{ job.job_key }}",
        json={"title": "{{ job.output.title }}", "body": "{{ job.output.body }}"},
        external_id_path="$.id",
        idempotent=True,
        write_at_once=4,
        wait_for_decisions=wait_for_decisions,
        retry_delay=timedelta(seconds=1),
    )
    if wait_for_decisions:
        draft >> [approve, write]
    else:
        draft >> approve >> write


@dag(schedule=None, params=PARAMS)
def ticket_set() -> None:
    define()


@dag(schedule=None, params=PARAMS)
def ticket_set_written_as_decided() -> None:
    define(wait_for_decisions=True)


ticket_set()
ticket_set_written_as_decided()
