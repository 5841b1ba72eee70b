"""Each of these Dags has jobs beside one feature of Airflow: pools, groups, branches, the past, assets, deadlines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.openlineage.utils.selective_enable import enable_lineage
from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier
from airflow.sdk import (  # type: ignore[attr-defined]  # its stubs leave these out
    AsyncCallback,
    DeadlineAlert,
    DeadlineReference,
    dag,
    task,
    task_group,
)
from product_notes import ProductNote

from airflow_provider_aihandoff.assets import applied_asset
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor

FEATURE = "feature"


def draft_of(key: str, task_id: str = "draft", delay: float = 0, **arguments: Any) -> OpenAIBackgroundResponseOperator:
    return OpenAIBackgroundResponseOperator(
        task_id=task_id,
        job_type=FEATURE,
        job_key=key,
        model="gpt-5.2",
        input=f"[[standin: delay={delay}]] Write about {key}.",
        output_type=ProductNote,
        **arguments,
    )


def unapproved(key: str, **arguments: Any) -> OpenAIBackgroundResponseOperator:
    return draft_of(key, approval="not required", approval_reason="it is a test", **arguments)


def write_of(draft: Any, slug: str, task_id: str = "publish", **arguments: Any) -> HttpSideEffectOperator:
    return HttpSideEffectOperator(
        task_id=task_id,
        job=draft,
        http_conn_id="cms",
        method="PUT",
        endpoint=f"/posts/{slug}",
        json={"title": "{{ job.output.title }}", "body": "{{ job.output.body }}"},
        external_id_path="$.id",
        idempotent=True,
        external_url="https://cms.example/posts/{external_id}",
        undo={"method": "DELETE", "endpoint": f"/posts/{slug}"},
        **arguments,
    )


@dag(schedule=None)
def features_pool() -> None:
    unapproved("slow", task_id="slow", delay=20, pool="narrow", priority_weight=10, inline_wait=timedelta(0))
    unapproved("quick", task_id="quick", pool="narrow", priority_weight=1)


@dag(schedule=None)
def features_group() -> None:
    @task_group
    def piece() -> None:
        draft = unapproved("grouped")
        draft >> write_of(draft, "grouped")

    @task
    def titles() -> list[str]:
        return ["first", "second"]

    @task_group
    def each(title: str) -> None:
        draft = unapproved("each-{{ ti.map_index }}")
        draft >> write_of(draft, "each-{{ ti.map_index }}")

    piece() >> each.expand(title=titles())


@dag(schedule=None)
def features_branch() -> None:
    @task.branch
    def choose() -> str:
        return "first"

    @task(trigger_rule="none_failed_min_one_success")
    def join() -> str:
        return "joined"

    draft = unapproved("branched")
    first, second = (write_of(draft, f"branched-{name}", task_id=name) for name in ("first", "second"))
    draft >> choose() >> [first, second] >> join()


@dag(schedule=None)
def features_teardown() -> None:
    @task
    def check() -> None:
        raise ValueError("the page is wrong")

    draft = unapproved("torn-down")
    publish = write_of(draft, "torn-down").as_setup()  # type: ignore[no-untyped-call]
    retract = RollbackOperator(task_id="retract", job=draft, reason="the work is over").as_teardown(setups=publish)
    draft >> publish >> check() >> retract


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    end_date=datetime(2026, 1, 2, tzinfo=UTC),
    catchup=False,
)
def features_daily() -> None:
    draft = draft_of("daily-{{ ds }}")
    approve = ApprovalSensor(task_id="approve", job=draft)
    draft >> approve >> write_of(draft, "daily-{{ ds }}", depends_on_past=True)


@dag(schedule=None, params={"slug": ""})
def features_bound() -> None:
    unapproved("bound-{{ params.slug }}", delay=15, inline_wait=timedelta(0), max_active_tis_per_dag=1)


@dag(schedule=None, params={"slug": ""})
def features_asset() -> None:
    draft = draft_of("{{ params.slug }}")
    approve = ApprovalSensor(task_id="approve", job=draft)
    draft >> approve >> write_of(draft, "{{ params.slug }}", outlets=[applied_asset(FEATURE)])


@dag(schedule=applied_asset(FEATURE))
def features_after() -> None:
    @task
    def told(triggering_asset_events: Any = None) -> list[dict[str, Any]]:
        return [event.extra for event in triggering_asset_events[applied_asset(FEATURE)]]

    told()


@dag(
    schedule=None,
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(seconds=5),
        callback=AsyncCallback(
            SlackWebhookNotifier, {"slack_webhook_conn_id": "reviewers_slack", "text": "No one has decided yet."}
        ),
    ),
)
def features_deadline() -> None:
    draft = draft_of("late")
    draft >> ApprovalSensor(task_id="approve", job=draft) >> write_of(draft, "late")


features_pool()
features_group()
features_branch()
features_teardown()
features_daily()
features_bound()
enable_lineage(features_asset())
features_after()
features_deadline()
