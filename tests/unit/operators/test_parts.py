"""The copies of an effect's task that are rendered for many jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow.sdk import DAG

from airflow_provider_aihandoff.core.effects.target import Applied, Found, NotApplied
from airflow_provider_aihandoff.core.jobs.job_view import JobView, as_fields
from airflow_provider_aihandoff.operators.masking import MASK, hide_from_logs
from airflow_provider_aihandoff.operators.side_effect import SideEffectOperator

SECRET = "a-password-that-only-the-probe-has-read"


class Publish(SideEffectOperator):
    template_fields = (*SideEffectOperator.template_fields, "title")

    def __init__(self, *, title: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.title = title

    def plan(self, job: JobView) -> dict[str, Any]:
        return {"title": self.title}

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        raise NotImplementedError

    def probe(self, plan: dict[str, Any], key: str) -> Found:
        hide_from_logs({"password": SECRET})  # as reading a connection does
        return NotApplied()


def job(number: int, title: str) -> JobView:
    return JobView(number, "publishing", f"post:{number}", 1, "alice", {}, {}, as_fields({"title": title}))


def task() -> Publish:
    with DAG("publishing", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
        return Publish(task_id="publish", job=1, title="{{ job.output.title }}")


def context(of: Publish) -> Any:
    return {"dag": of.get_dag(), "ti": SimpleNamespace(task_id="publish", map_index=-1), "task": of}


def test_each_copy_has_the_values_of_its_job_and_the_task_stays_as_it_was_declared() -> None:
    declared = task()
    declared.share_environment()
    parts = [
        part for number, title in enumerate("ab") for part in declared.parts(context(declared), job(number, title))
    ]
    assert [vars(part)["title"] for part in parts] == ["a", "b"]
    assert declared.title == "{{ job.output.title }}"
    assert vars(declared)["_BaseOperator__init_kwargs"]["title"] == "{{ job.output.title }}"


def test_what_the_probe_has_read_is_shown_in_no_plan() -> None:
    declared = task()
    (plan,) = declared.plans(context(declared), job(1, f"with {SECRET}"), key="key", after=(), ask_target=True)
    assert plan.plan == {"title": f"with {SECRET}"}
    assert plan.shown == {"title": f"with {MASK}"}
