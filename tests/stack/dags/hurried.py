"""Notes that wait seconds for a decision: until people are reminded, others are asked, and it is too late."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import dag
from product_notes import note

from airflow_provider_aihandoff.jobview import JobView
from airflow_provider_aihandoff.policies import ApprovalPolicy, Approve, AskPerson
from airflow_provider_aihandoff.reviewers import Approvers

WORDS = "{{ handoff.notice }}: {{ handoff.message }} {{ handoff.link }}"
EMAIL = SmtpNotifier(
    to="reviewers@example.com", subject="{{ handoff.label }}", html_content=WORDS, smtp_conn_id="reviewers_mail"
)
SLACK = SlackWebhookNotifier(slack_webhook_conn_id="reviewers_slack", text=WORDS)


class BriefIsFine(ApprovalPolicy):
    name = "brief-is-fine"
    version = "2"

    def decide(self, job: JobView, plan: Sequence[dict[str, Any]]) -> Approve | AskPerson:
        return Approve("it is brief") if len(job.output.body) < 10_000 else AskPerson("it is long")


@dag(schedule=None, params={"slug": "none"})
def escalated() -> None:
    note(
        notifiers=[EMAIL, SLACK],
        approvers=Approvers(users=("alice",)),
        remind_after=timedelta(seconds=5),
        escalate_after=timedelta(seconds=10),
        escalate_to=Approvers(users=("bob",)),
    )


@dag(schedule=None, params={"slug": "none"})
def expires_rejected() -> None:
    note(timeout=4)


@dag(schedule=None, params={"slug": "none"})
def expires_failed() -> None:
    note(timeout=4, on_timeout="fail")


@dag(schedule=None, params={"slug": "none"})
def expires_by_policy() -> None:
    note(timeout=4, on_timeout=BriefIsFine())


escalated()
expires_rejected()
expires_failed()
expires_by_policy()
