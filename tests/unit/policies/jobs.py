"""Jobs for policies to decide on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_provider_aihandoff.core.jobs.job_view import JobView, as_fields
from airflow_provider_aihandoff.policies import ApprovalPolicy, Approve, AskPerson

PLAN = [{"method": "PUT", "url": "http://cms/posts/kettle"}]


def job(output: Any = None, **changes: Any) -> JobView:
    fields: dict[str, Any] = {
        "job_id": 1,
        "job_type": "ticket",
        "job_key": "4711",
        "revision": 1,
        "requested_by": "alice",
        "permissions": {},
        "input": {},
        "output": as_fields(output),
    }
    return JobView(**{**fields, **changes})


class Says(ApprovalPolicy):
    """Gives the verdict that is set."""

    version = "1"

    def __init__(self, verdict: Any, name: str = "says") -> None:
        self.verdict = verdict
        self.name = name

    def decide(self, job: JobView, plan: Sequence[dict[str, Any]]) -> Approve | AskPerson:
        if isinstance(self.verdict, Exception):
            raise self.verdict
        verdict: Approve | AskPerson = self.verdict
        return verdict
