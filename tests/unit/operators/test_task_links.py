"""The buttons with a task: where they lead, and that they are empty where there is nothing to show."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.operators.task_links import ExternalRecordLink, ReviewLink
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


@pytest.fixture(autouse=True)
def _base_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/data/")


def draft() -> OpenAIBackgroundResponseOperator:
    return OpenAIBackgroundResponseOperator(task_id="draft", model="gpt-5.2", input="Write.")


def publish(job: Any) -> HttpSideEffectOperator:
    return HttpSideEffectOperator(task_id="publish", job=job, http_conn_id="cms", endpoint="/posts")


def review_link(task: Any) -> str:
    return ReviewLink().get_link(task, ti_key=None)


def test_a_draft_leads_to_the_page_of_its_job_or_set_once_there_is_one() -> None:
    task = draft()
    assert review_link(task) == ""
    task.made = {"job_id": 7}
    assert review_link(task) == "https://airflow.example/data/aihandoff/jobs/7"
    task.made = {"set_id": 3}
    assert review_link(task) == "https://airflow.example/data/aihandoff/sets/3"


@pytest.mark.parametrize("job", [7, "7", {"job_id": 7, "state": "review"}])
def test_the_tasks_after_it_lead_to_the_same_page(job: Any) -> None:
    for task in (
        publish(job),
        ApprovalSensor(task_id="approve", job=job),
        RollbackOperator(task_id="retract", job=job, reason="wrong"),
    ):
        assert {link.name for link in task.operator_extra_links} >= {"Review"}
        assert review_link(task) == "https://airflow.example/data/aihandoff/jobs/7"


def test_a_record_is_led_to_where_there_is_exactly_one() -> None:
    task, link = publish(7), ExternalRecordLink()
    assert link.get_link(task, ti_key=None) == ""
    task.external_links = ["https://cms.example/posts/1"]
    assert link.get_link(task, ti_key=None) == "https://cms.example/posts/1"
    task.external_links = ["https://cms.example/posts/1", "https://cms.example/posts/2"]
    assert link.get_link(task, ti_key=None) == ""
