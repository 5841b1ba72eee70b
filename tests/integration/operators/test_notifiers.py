"""Airflow's own notifiers for e-mail and Slack, as an approval calls them: what arrives, and that no content does."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from html import unescape
from typing import Any
from urllib.parse import parse_qs

import psycopg
import pytest
from airflow.providers.slack.notifications.slack import SlackNotifier
from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from psycopg.sql import SQL, Identifier

from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.review.decision_link import hash_of
from airflow_provider_aihandoff.core.review.rules import Approvers, Person
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.tasks import NOTE, publish
from tests.mail import Mailbox, mail_server
from tests.people import insist
from tests.target import Answer, Target, serve

Record = Callable[[], JobRecord]
WORDS = "{{ handoff.notice }}: {{ handoff.message }} {{ handoff.link }}"


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    mailbox = Mailbox()
    with mail_server(mailbox) as connection:
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", connection)
        yield mailbox


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """What stands in for Slack, both its webhooks and its API."""
    with serve() as target:
        target.answers = [Answer(200, {"ok": True})] * 20
        url = f"http://127.0.0.1:{target.port}"
        webhook = {"conn_type": "slackwebhook", "password": f"{url}/services/secret"}
        api = {"conn_type": "slack", "password": "xoxb-secret", "extra": {"base_url": f"{url}/api/"}}
        monkeypatch.setenv("AIRFLOW_CONN_SLACK_WEBHOOK", json.dumps(webhook))
        monkeypatch.setenv("AIRFLOW_CONN_SLACK_API", json.dumps(api))
        yield target


def email(**changes: Any) -> SmtpNotifier:
    arguments: dict[str, Any] = {
        "to": ["bob@example.com", "eve@example.com"],
        "subject": "{{ handoff.label }}",
        "html_content": WORDS,
        "smtp_conn_id": "smtp_default",
    }
    return SmtpNotifier(**{**arguments, **changes})


@contextmanager
def decided_when(ledger: Ledger, is_time: Callable[[], bool], how: Callable[[], None] | None = None) -> Iterator[None]:
    """A person who approves as soon as it is time.

    :param how: how they decide; by default as on the job's page.
    """

    def decide() -> None:
        while not is_time():
            if given_up.wait(0.02):
                return
        if how is None:
            job = ledger.job(1)
            assert job.review_digest is not None
            ledger.reviews.decide(1, "approve", digest=job.review_digest, person=Person("eve"))
        else:
            how()

    given_up = threading.Event()
    thread = threading.Thread(target=insist(decide))
    thread.start()
    try:
        yield
    finally:
        given_up.set()
        thread.join()


@pytest.mark.usefixtures("wait_in", "review")
class TestNotifiers:
    def approve(self, *notifiers: Any, **arguments: Any) -> None:
        ApprovalSensor(task_id="approve", job=1, notifiers=notifiers, **arguments) >> publish(1)

    def test_e_mails_at_each_of_four_moments_have_a_link_and_no_content(
        self, run: RunDag, ledger: Ledger, record: Record, mailbox: Mailbox
    ) -> None:
        times = {"remind_after": timedelta(seconds=0.3), "escalate_after": timedelta(seconds=0.6)}
        people = {"approvers": Approvers(users=("bob",)), "escalate_to": Approvers(users=("eve",))}
        with decided_when(ledger, lambda: len(mailbox.mails) == 3):
            done = run(lambda: self.approve(email(), **times, **people))

        assert done.states == {"approve": "success", "publish": "success"}
        assert [text.partition(":")[0] for text in mailbox.texts] == ["asked", "reminder", "escalation", "decided"]
        assert mailbox.recipients == [["bob@example.com", "eve@example.com"]] * 4
        for mail, text in zip(mailbox.mails, mailbox.texts, strict=True):
            assert "post:kettle" in str(mail["Subject"])
            assert mail["From"] == "airflow@example.com"
            assert text.endswith("/aihandoff/jobs/1")
            assert NOTE["body"] not in str(mail)
        notified = [event.detail["notice"] for event in record().events if event.event == "notified"]
        assert notified == ["asked", "reminder", "escalation", "decided"]

    def test_slack_gets_notifications_by_webhook_and_by_its_api(
        self, run: RunDag, ledger: Ledger, record: Record, slack: Target
    ) -> None:
        notifiers = (
            SlackWebhookNotifier(slack_webhook_conn_id="slack_webhook", text=WORDS),
            SlackNotifier(slack_conn_id="slack_api", channel="#reviews", text=WORDS),
        )
        with decided_when(ledger, lambda: len(slack.received) == 2):
            done = run(lambda: self.approve(*notifiers))

        texts = [_slack_text(received) for received in slack.received]
        assert done.states["approve"] == "success"
        assert [received.path for received in slack.received] == ["/services/secret", "/api/chat.postMessage"] * 2
        assert [text.partition(":")[0] for text in texts] == ["asked", "asked", "decided", "decided"]
        assert all("/aihandoff/jobs/1" in text for text in texts)
        assert not any(NOTE["body"].encode() in received.body for received in slack.received)

    def test_a_notification_has_content_where_the_author_says_so(
        self, run: RunDag, ledger: Ledger, mailbox: Mailbox
    ) -> None:
        with decided_when(ledger, lambda: len(mailbox.mails) == 1):
            run(lambda: self.approve(email(html_content="{{ job.output.body | e }}")))

        assert [unescape(text) for text in mailbox.texts] == [NOTE["body"]] * 2
        assert "<b>" not in mailbox.texts[0]

    def test_an_e_mail_and_a_message_carry_a_link_that_decides_and_nothing_else_has_its_token(
        self,
        run: RunDag,
        ledger: Ledger,
        record: Record,
        mailbox: Mailbox,
        slack: Target,
        conninfo: dict[str, Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        words = "{{ handoff.notice }} {{ handoff.approve_link('eve') }} {{ handoff.reject_link('eve', hours=8) }}"
        mail = email(html_content=words)
        message = SlackWebhookNotifier(slack_webhook_conn_id="slack_webhook", text=words)

        def decide() -> None:
            ledger.decision_links.decide(_tokens(mailbox.texts[0])[0], person=Person("eve"))

        with caplog.at_level(logging.DEBUG), decided_when(ledger, lambda: len(slack.received) == 1, decide):
            done = run(lambda: self.approve(mail, message))

        assert done.states == {"approve": "success", "publish": "success"}
        approve_link, reject_link = _tokens(mailbox.texts[0])
        assert _tokens(_slack_text(slack.received[0])) == [approve_link, reject_link]
        assert len(mailbox.texts) == 2
        assert mailbox.texts[1].count("/aihandoff/jobs/1") == 2, "there is nothing to decide any more"
        assert [decision.decided_by for decision in record().decisions] == ["eve"]
        kept = _all_that_is_kept(conninfo)
        for token in (approve_link, reject_link):
            assert hash_of(token) in kept
            assert token not in kept
            assert token not in caplog.text

    def test_a_mail_server_that_is_unavailable_blocks_neither_decisions_nor_other_notifiers(
        self, run: RunDag, ledger: Ledger, record: Record, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        away = {"conn_type": "smtp", "host": "127.0.0.1", "port": 1, "extra": {"disable_ssl": True}}
        monkeypatch.setenv("AIRFLOW_CONN_AWAY", json.dumps(away))
        with decided_when(ledger, lambda: len(mailbox.mails) == 1):
            done = run(lambda: self.approve(email(smtp_conn_id="away"), email()))

        assert done.states == {"approve": "success", "publish": "success"}
        assert record().job.state is JobState.COMPLETED
        assert [text.partition(":")[0] for text in mailbox.texts] == ["asked", "decided"]


def _all_that_is_kept(conninfo: dict[str, Any]) -> str:
    """Every row of the ledger, as text."""
    with psycopg.connect(**conninfo) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'aihandoff'").fetchall()
        rows = [
            connection.execute(SQL("SELECT kept::text FROM aihandoff.{} AS kept").format(Identifier(name))).fetchall()
            for (name,) in tables
        ]
    return str(rows)


def _tokens(text: str) -> list[str]:
    """The tokens of the decision links in a message."""
    return re.findall(r"/aihandoff/decide/([\w-]{43})", text)


def _slack_text(received: Any) -> str:
    if received.headers["Content-Type"].startswith("application/x-www-form-urlencoded"):
        return str(parse_qs(received.body.decode())["text"][0])
    return str(received.json["text"])
