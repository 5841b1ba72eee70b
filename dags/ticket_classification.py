"""Ticket classification: a label for every open ticket, as one set. A policy approves plain cases, people the rest."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException, Param, dag, task
from airflow.timetables.interval import CronDataIntervalTimetable
from pydantic import BaseModel, Field

from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from airflow_provider_aihandoff.policies import AllOf, AllowedValues, MinimumConfidence, Sampling
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


class Category(StrEnum):
    BILLING = "billing"
    BUG = "bug"
    HOW_TO = "how_to"
    ACCOUNT = "account"
    FEATURE_REQUEST = "feature_request"
    COMPLAINT = "complaint"


class Priority(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    URGENT = "urgent"


class TicketLabel(BaseModel):
    category: Category
    priority: Priority
    confidence: float = Field(ge=0, le=1)
    sensitive: bool = Field(description="Law, privacy, safety or much money is involved")
    suggested_reply: str


#: A person reviews what is sensitive, what the model is not sure of, and one in twenty of the rest.
PLAIN = AllOf(AllowedValues("sensitive", [False]), MinimumConfidence(0.85), Sampling(5), name="plain")


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


@dag(
    schedule=CronDataIntervalTimetable("@hourly", timezone="UTC"),
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001  Airflow takes it as UTC
    catchup=False,
    max_active_runs=1,
    params={
        "opened_from": Param(None, type=["null", "string"], format="date-time", description="Instead of the interval"),
        "opened_to": Param(None, type=["null", "string"], format="date-time", description="Instead of the interval"),
    },
    doc_md="""
    Every hour: one set, with a job for each open ticket that was opened in the hour before. It sets category, priority
    and a suggested reply in the helpdesk, and never closes a ticket. You can name another interval when you trigger a
    run.

    A policy approves plain cases. You decide on the rest, and on a sample of the plain ones, in the bulk review: the
    page of the set leads there. Each approved label is written once, whatever becomes of the others.

    **You need the connections** `openai_default`, `helpdesk` (HTTP) and `aihandoff_ledger`.

    **If you run it again**, it attaches to the jobs that exist: you pay for no ticket twice, and label none twice. The
    interval makes sure that a cleared run gets the same tickets again.
    """,
)
def ticket_classification() -> None:
    @task
    def open_tickets(
        params: dict[str, Any] | None = None,
        data_interval_start: datetime | None = None,
        data_interval_end: datetime | None = None,
    ) -> list[dict[str, str]]:
        from airflow.providers.http.hooks.http import HttpHook

        assert params is not None
        start = _moment(params["opened_from"]) or data_interval_start
        end = _moment(params["opened_to"]) or data_interval_end
        if start is None or end is None:
            raise ValueError("A run without a data interval needs opened_from and opened_to. Nothing was done.")
        tickets = HttpHook("GET", http_conn_id="helpdesk").run("/tickets?status=open").json()["tickets"]
        found = [
            {"ticket_id": ticket["id"], "text": f"Subject: {ticket['subject']}\n\n{ticket['body']}"}
            for ticket in tickets
            if start <= datetime.fromisoformat(ticket["opened_at"]) < end
        ]
        if not found:
            raise AirflowSkipException("No ticket was opened in this interval.")
        return found

    label = OpenAIResponseSetOperator(
        task_id="label",
        items=open_tickets(),
        set_key="{{ run_id }}",  # a run for another interval is another set
        job_type="ticket",
        job_key="{{ item.ticket_id }}",
        model="gpt-5-mini",
        instructions="Label this support ticket, and suggest a reply.",
        input="{{ item.text }}",
        output_type=TicketLabel,
    )
    approve = ApprovalSensor(task_id="approve", job=label, policy=PLAIN)
    write = HttpSideEffectOperator(
        task_id="write",
        job=label,
        http_conn_id="helpdesk",
        method="PUT",
        endpoint="/tickets/{{ job.job_key }}/label",
        json={
            "category": "{{ job.output.category }}",
            "priority": "{{ job.output.priority }}",
            "suggested_reply": "{{ job.output.suggested_reply }}",
        },
        external_id_path="$.id",
        idempotent=True,  # the helpdesk honours Idempotency-Key
        timeout=10,
    )
    label >> approve >> write


ticket_classification()
