"""Notes whose reviewers get notified by a notifier, and who may be wanted by name, or both, or by a policy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseNotifier, dag
from product_notes import note

from airflow_provider_aihandoff.jobview import JobView
from airflow_provider_aihandoff.policies import ApprovalPolicy, AskPerson
from airflow_provider_aihandoff.reviewers import Approvers


class ToFile(BaseNotifier):
    """Appends what there is to say to a file."""

    template_fields = ("text",)

    def __init__(self) -> None:
        super().__init__()
        self.text = "{{ handoff.notice }} {{ handoff.job_key }} {{ handoff.link }} {{ handoff.approve_link('bob') }}"

    def notify(self, context: Any) -> None:
        with (Path(os.environ["AIRFLOW_HOME"]) / "notices.txt").open("a") as file:
            file.write(f"{self.text}\n")


class OnlyAlice(ApprovalPolicy):
    name = "only-alice"
    version = "1"

    def decide(self, job: JobView, plan: Sequence[dict[str, Any]]) -> AskPerson:
        return AskPerson("she knows the product", approvers=Approvers(users=("alice",)))


@dag(schedule=None, params={"slug": "none"})
def notified() -> None:
    note(notifiers=[ToFile()])


@dag(schedule=None, params={"slug": "none"})
def notified_both() -> None:
    note(notifiers=[ToFile()], approvers=Approvers(users=("alice", "bob")), approvals=2)


@dag(schedule=None, params={"slug": "none"})
def notified_by_policy() -> None:
    note(policy=OnlyAlice())


notified()
notified_both()
notified_by_policy()
