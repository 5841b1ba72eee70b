"""What happens on a real Airflow when no one decides: people are reminded, others are asked, and the review expires."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_api import AirflowApi
from demo.local import LocalDemo
from demo.waiting import wait_until
from tests.mail import Mailbox
from tests.stack.pipelines.shared import asked, decide, job_of, published
from tests.target import Target

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

#: What each Dag whose reviews end in seconds is to publish.
SLUGS = {dag_id: dag_id.replace("_", "-") for dag_id in ("expires_rejected", "expires_failed", "expires_by_policy")}


def test_a_reminder_and_an_escalation_come_once_each_though_the_triggerer_is_killed_meanwhile(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger, mailbox: Mailbox, slack: Target
) -> None:
    run_id, job = asked(ledger, admin, "no-one-decides", "escalated")
    demo.airflow.kill("triggerer")
    demo.airflow.start("triggerer")
    assert decide(demo.airflow.api("bob"), job).status_code == 403
    wait_until(lambda: len(mailbox.mails) == 3, "three mails")
    assert [text.partition(":")[0] for text in mailbox.texts] == ["asked", "reminder", "escalation"]
    link = f"{demo.airflow.base_url}/aihandoff/jobs/{job.job_id}"
    assert all(text.endswith(link) for text in mailbox.texts)

    assert decide(demo.airflow.api("bob"), job).status_code == 200
    assert admin.wait_for_run("escalated", run_id) == "success"
    record = ledger.record(job.job_id)
    notified = [event.detail["notice"] for event in record.events if event.event == "notified"]
    assert notified == ["asked", "reminder", "escalation", "decided"]
    assert [text.partition(":")[0] for text in mailbox.texts] == notified
    assert [str(request.json["text"]).partition(":")[0] for request in slack.received] == notified
    body = record.revision.output["body"]
    assert not any(body in str(mail) for mail in mailbox.mails)
    assert not any(body.encode() in request.body for request in slack.received)


def test_an_expired_review_rejects_fails_or_has_a_policy_decide(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    runs = {dag_id: admin.trigger(dag_id, {"slug": slug}) for dag_id, slug in SLUGS.items()}
    ends = {
        dag_id: (admin.wait_for_run(dag_id, run_id), *_end(admin, ledger, dag_id, run_id))
        for dag_id, run_id in runs.items()
    }
    assert ends == {
        "expires_rejected": ("success", "skipped", JobState.REJECTED, [("reject", "timeout")]),
        "expires_failed": ("failed", "upstream_failed", JobState.FAILED, []),
        "expires_by_policy": ("success", "success", JobState.COMPLETED, [("approve", "brief-is-fine@2")]),
    }
    assert [len(published(demo, slug)) for slug in SLUGS.values()] == [0, 0, 1]


def _end(admin: AirflowApi, ledger: Ledger, dag_id: str, run_id: str) -> tuple[Any, ...]:
    """How its publishing task and its job ended, and who decided what."""
    job_id = job_of(ledger, dag_id, run_id)
    assert job_id is not None
    record = ledger.record(job_id)
    decided = [(decision.verdict, decision.decided_by) for decision in record.decisions]
    return admin.task_states(dag_id, run_id)["publish", -1], record.job.state, decided
