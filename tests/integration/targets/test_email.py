"""E-mails to a real SMTP server: what arrives, what an answer means, and what no mail can be."""

from __future__ import annotations

import json
import smtplib
import socket
import sys
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects.target import UnclearAnswer
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused, PlanError
from airflow_provider_aihandoff.targets import smtp_client
from airflow_provider_aihandoff.targets.email import EmailTarget, message_of, plan_mail
from tests.integration.targets.mail_systems import MailServer, serving_mail
from tests.mail import AnsweringMailbox, mail_server
from tests.talking import Talk, dripping, listening, silent

KEY = "aih-1-r1-0123456789abcdef"
MAIL: dict[str, Any] = {"to": ["ann@example.com"], "subject": "Kettle", "text": "It boils.", "html": None}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnsweringMailbox]:
    server = AnsweringMailbox()
    with mail_server(server) as connection:
        monkeypatch.setenv("AIRFLOW_CONN_MAIL", connection)
        yield server


def plan(**parts: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"sender": None, "headers": None, **MAIL, **parts}
    return plan_mail("mail", **fields, name="announce")


def send(**parts: Any) -> Any:
    return EmailTarget("announce", timeout=5).apply(plan(**parts), KEY)


class TestSent:
    def test_the_mail_arrives_as_it_was_planned(self, server: AnsweringMailbox) -> None:
        applied = send(
            sender="Shop <shop@example.com>",
            to="Zoë <zoe@example.com>, ann@example.com",
            cc=["bob@example.com"],
            bcc=["eve@example.com"],
            subject="Kettle ☕ " + "and so on " * 20,
            text="Grüße\n.\n..end\n" + "x" * 2000,
            html="<p>Grüße</p>",
            headers={"Reply-To": "help@example.com", "X-Team": "Küche"},
        )

        (mail,) = server.mails
        assert server.recipients == [["zoe@example.com", "ann@example.com", "bob@example.com", "eve@example.com"]]
        assert mail["From"] == "Shop <shop@example.com>"
        assert mail["To"] == "Zoë <zoe@example.com>, ann@example.com"
        assert (mail["Cc"], mail["Bcc"], mail["Reply-To"]) == ("bob@example.com", None, "help@example.com")
        assert mail["Subject"] == "Kettle ☕ " + ("and so on " * 20)
        assert mail["X-Team"] == "Küche"
        text, html = (mail.get_body((kind,)) for kind in ("plain", "html"))
        assert text is not None
        assert html is not None
        assert text.get_content().splitlines() == ["Grüße", ".", "..end", "x" * 2000]
        assert html.get_content().strip() == "<p>Grüße</p>"
        assert parsedate_to_datetime(mail["Date"]).tzinfo is not None
        assert applied.external_id == mail["Message-ID"] == f"<{KEY}@example.com>"
        assert applied.result == {"recipients": 4, "answer": "OK"}

    def test_the_sender_is_the_one_of_the_connection_where_none_is_given(self, server: AnsweringMailbox) -> None:
        send(text=None, html="<p>It boils.</p>")
        assert server.mails[0]["From"] == "airflow@example.com"
        assert server.mails[0].get_content_type() == "text/html"

    def test_every_attempt_makes_the_same_mail_but_for_its_date(self, server: AnsweringMailbox) -> None:
        one, other = (message_of(plan(html="<p>both</p>"), KEY)[1] for _ in range(2))
        assert one == other == f"<{KEY}@example.com>"
        assert message_of(plan(), "aih-2-r1-0")[1] != one

    def test_a_domain_in_another_script_is_planned_as_it_is_sent(self, server: AnsweringMailbox) -> None:
        assert plan(to=["ann@bücher.example"])["to"] == ["ann@xn--bcher-kva.example"]
        send(to=["ann@bücher.example"])
        assert server.recipients == [["ann@xn--bcher-kva.example"]]


class TestNotSent:
    @pytest.mark.parametrize(
        ("answers", "raised", "said"),
        [
            ({"at_mail": "550 not you"}, EffectRefused, "answered 550 not you to 'MAIL FROM:<airflow@example.com>'"),
            ({"at_mail": "451 try later"}, EffectNotNow, "answered 451 try later"),
            ({"at_recipient": {"bob@example.com": "550 no such user"}}, EffectRefused, "RCPT TO:<bob@example.com>"),
            ({"at_recipient": {"bob@example.com": "450 mailbox busy"}}, EffectNotNow, "450 mailbox busy"),
            ({"at_data": "554 spam"}, EffectRefused, "answered 554 spam to the mail"),
            ({"at_data": "452 no room"}, EffectNotNow, "answered 452 no room to the mail"),
            ({"cut": "MAIL"}, EffectNotNow, "after 'MAIL FROM"),
            ({"cut": "RCPT"}, EffectNotNow, "after 'RCPT TO"),
        ],
    )
    def test_a_refusal_before_the_mail_was_accepted_proves_that_no_one_gets_it(
        self, server: AnsweringMailbox, answers: dict[str, Any], raised: type[Exception], said: str
    ) -> None:
        vars(server).update(answers)
        with pytest.raises(raised) as error:
            send(to=["ann@example.com", "bob@example.com"])
        assert said in str(error.value)
        assert server.mails == []

    def test_a_server_that_is_unavailable_is_not_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            extra = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@example.com"}
            fields = {"conn_type": "smtp", "host": "127.0.0.1", "port": closed.getsockname()[1], "extra": extra}
            monkeypatch.setenv("AIRFLOW_CONN_MAIL", json.dumps(fields))
        with pytest.raises(EffectNotNow, match="did not take the mail: ConnectionRefusedError"):
            send()

    def test_a_server_that_rejects_the_password_refuses_the_mail(
        self, server: AnsweringMailbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def login(*_: Any, **__: Any) -> None:
            raise smtplib.SMTPAuthenticationError(535, b"bad credentials")

        planned = plan()
        monkeypatch.setattr("airflow.providers.smtp.hooks.smtp.SmtpHook.get_conn", login)
        with pytest.raises(EffectRefused, match="answered 535 bad credentials when it was greeted"):
            EmailTarget("announce").apply(planned, KEY)

    def test_a_connection_that_is_missing_or_leads_elsewhere_sends_nothing(
        self, server: AnsweringMailbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        planned = plan()
        monkeypatch.setenv("AIRFLOW_CONN_MAIL", json.dumps({"conn_type": "smtp", "host": "elsewhere"}))
        with pytest.raises(EffectRefused, match="and its connection leads to elsewhere"):
            EmailTarget("announce").apply(planned, KEY)
        monkeypatch.delenv("AIRFLOW_CONN_MAIL")
        with pytest.raises(EffectNotNow, match="'mail' of the effect 'announce' is not defined here"):
            EmailTarget("announce").apply(planned, KEY)
        assert server.mails == []

    def test_a_server_that_is_too_slow_is_given_up_before_the_next_attempt_may_begin(
        self, server: AnsweringMailbox
    ) -> None:
        planned = plan()
        with pytest.raises(EffectNotNow, match="it took too long"):
            Hurried("announce").apply(planned, KEY)
        assert server.mails == []


class TestNeverLeft:
    """A mail of which nothing has left is not now, whatever the error is."""

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"login": "shop", "password": "gehe\u0142m"}, "its login has characters that cannot be sent"),
            ({"extra": {"ssl_context": "mine", "disable_tls": False}}, "ssl_context"),
            ({"extra": {"auth_type": "oauth2"}}, "oauth2"),
            ({"extra": {"disable_tls": False}}, "STARTTLS extension not supported"),
            ({"extra": {"disable_ssl": False}}, "SSLError"),
        ],
    )
    def test_a_connection_that_cannot_be_used_is_not_now(
        self, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], said: str
    ) -> None:
        server = MailServer()
        with serving_mail(server) as connection:
            plain = json.loads(connection)
            changed = {**plain, **fields, "extra": {**plain["extra"], **fields.get("extra", {})}}
            monkeypatch.setenv("AIRFLOW_CONN_MAIL", json.dumps(changed))
            with pytest.raises(EffectNotNow, match="did not take the mail") as never:
                send()
        assert said in str(never.value)
        assert "gehe" not in str(never.value)
        assert server.mails == []


class TestBounds:
    @pytest.mark.parametrize(
        ("talk", "tls"),
        [
            (dripping(b"220 "), False),
            (dripping(b"220-\r\n", b"220-\r\n"), False),
            (dripping(b"220 hello\r\n250 hello\r\n250 "), False),
            (dripping(b"\x16\x03\x03\x40\x00"), True),
        ],
        ids=["greeting", "lines", "sender", "TLS handshake"],
    )
    def test_a_server_that_drips_is_cut_off_at_the_end_of_the_whole_time_and_nothing_has_left(
        self, monkeypatch: pytest.MonkeyPatch, talk: Talk, tls: bool
    ) -> None:
        with listening(talk) as port:
            lead_to(monkeypatch, port, disable_ssl=not tls, disable_tls=True)
            began = time.monotonic()
            with pytest.raises(EffectNotNow, match=r"it took too long to answer|handshake operation timed out"):
                EmailTarget("announce", timeout=0.3).apply(plan(), KEY)
            assert time.monotonic() - began < 3

    def test_a_server_that_never_answers_is_given_up_after_one_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with listening(silent) as port:
            lead_to(monkeypatch, port, disable_ssl=True, disable_tls=True)
            began = time.monotonic()
            with pytest.raises(EffectNotNow, match="did not take the mail"):
                EmailTarget("announce", timeout=0.3).apply(plan(), KEY)
            assert time.monotonic() - began < 1.2

    def test_answers_are_read_up_to_a_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(smtp_client, "ANSWERS_LIMIT", 1000)

        def flood(connection: socket.socket) -> None:
            while True:
                connection.sendall(b"220-and so on\r\n" * 100)

        with listening(flood) as port:
            lead_to(monkeypatch, port, disable_ssl=True, disable_tls=True)
            with pytest.raises(EffectNotNow, match="its answers are longer than 1000 bytes"):
                send()

    def test_what_the_server_says_is_kept_up_to_a_bound_and_without_secrets(
        self, server: AnsweringMailbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from airflow.providers.common.compat.sdk import mask_secret

        mask_secret("hunter2-of-the-shop")
        server.at_data = "554 hunter2-of-the-shop " + "no " * 100
        with pytest.raises(EffectRefused) as refused:
            send()
        assert "hunter2" not in str(refused.value)
        assert str(refused.value).count("no ") > 90


def lead_to(monkeypatch: pytest.MonkeyPatch, port: int, **extra: Any) -> None:
    extra = {"from_email": "airflow@example.com", "ssl_context": "none", **extra}
    fields = {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", json.dumps(fields))


class Hurried(EmailTarget):
    """A target whose call may last no time at all."""

    call_seconds = -1.0


class TestUnknown:
    def test_a_connection_that_breaks_after_the_mail_was_handed_over_leaves_it_unknown(
        self, server: AnsweringMailbox
    ) -> None:
        server.cut = "DATA"
        with pytest.raises(UnclearAnswer, match="broke after the mail was sent"):
            send()
        assert len(server.mails) == 1

    def test_an_answer_without_a_meaning_leaves_the_mail_unknown(self, server: AnsweringMailbox) -> None:
        server.at_data = "354 go on"
        with pytest.raises(UnclearAnswer, match="answered 354 go on to the mail"):
            send()

    def test_a_mail_can_neither_be_probed_nor_sent_again(self) -> None:
        target = EmailTarget("announce")
        assert (target.idempotent, target.can_probe, target.can_read) == (False, False, False)


@pytest.mark.usefixtures("server")
class TestPlan:
    @pytest.mark.parametrize(
        ("parts", "said"),
        [
            ({"subject": "Kettle\nBcc: eve@example.com"}, "`subject` of the effect 'announce' has a line break"),
            ({"subject": "Kettle\r\n\r\nbody"}, "`subject` of the effect 'announce' has a line break"),
            ({"subject": "Kettle\u2028Bcc: eve@example.com"}, "`subject` of the effect 'announce' has a line break"),
            (
                {"to": ["ann@example.com\r\nRCPT TO:<eve@example.com>"]},
                "`to` of the effect 'announce' has a line break",
            ),
            ({"to": ["ann@example.com, eve@example.com"]}, "`to` of the effect 'announce' is not one address"),
            (
                {"to": "all: ann@example.com, eve@example.com;"},
                "`to` of the effect 'announce' has no address that a mail",
            ),
            ({"to": ["ann"]}, "`to` of the effect 'announce' "),
            ({"to": ["ann@"]}, "`to` of the effect 'announce' "),
            ({"to": [""]}, "`to` of the effect 'announce' has no address that a mail"),
            ({"to": ["zoë@example.com"]}, "has no address that a mail can be sent to: 'zoë@example.com'"),
            ({"to": []}, "has no recipient"),
            ({"to": " "}, "has no recipient"),
            ({"sender": "a@example.com, b@example.com"}, "`from_email` of the effect 'announce' is not one address"),
            ({"headers": {"X-Note": "a\nb"}}, "`headers['X-Note']` of the effect 'announce' has a line break"),
            ({"headers": {"X Note": "a"}}, "cannot have the header 'X Note'"),
            ({"headers": {"BCC": "eve@example.com"}}, "cannot have the header 'BCC'"),
            ({"headers": {"Content-Type": "text/html"}}, "cannot have the header 'Content-Type'"),
            ({"headers": {"Reply-To": "a@x.com", "reply-to": "b@x.com"}}, "cannot be sent as a mail: There may be"),
            ({"text": None}, "has neither text nor html"),
            ({"text": "\ud800"}, "cannot be sent as a mail"),
            ({"text": "\x00"}, "has a NUL character"),
        ],
    )
    def test_an_invalid_mail_is_refused_with_the_reason(self, parts: dict[str, Any], said: str) -> None:
        with pytest.raises(PlanError) as refused:
            plan(**parts)
        assert said in str(refused.value)

    def test_the_plan_of_a_mail_has_everything_that_is_sent(self) -> None:
        planned = plan(cc="bob@example.com", bcc=["Eve <eve@example.com>"], html="<p>It boils.</p>")
        assert planned == {
            "connection": "mail",
            "server": planned["server"],
            "from": "airflow@example.com",
            "to": ["ann@example.com"],
            "cc": ["bob@example.com"],
            "bcc": ["Eve <eve@example.com>"],
            "subject": "Kettle",
            "headers": {},
            "text": "It boils.",
            "html": "<p>It boils.</p>",
        }
        assert planned["server"].startswith("127.0.0.1:")

    def test_without_the_smtp_provider_the_error_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "airflow.providers.smtp.hooks.smtp", None)
        with pytest.raises(PlanError, match=r"pip install 'airflow-provider-aihandoff\[email\]'"):
            plan()

    def test_a_mail_needs_a_sender(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_MAIL", json.dumps({"conn_type": "smtp", "host": "mail"}))
        with pytest.raises(PlanError, match="has no sender"):
            plan()


@pytest.mark.usefixtures("server")
def test_a_reviewer_sees_every_recipient_and_every_word() -> None:
    planned = plan(bcc=["eve@example.com"], html="<p>It boils.</p>", headers={"Reply-To": "help@example.com"})
    view = EmailTarget.describe(planned)
    assert (view.action, view.address) == ("E-mail", planned["server"])
    assert view.tables == {
        "mail": {
            "From": "airflow@example.com",
            "To": "ann@example.com",
            "Bcc": "eve@example.com",
            "Subject": "Kettle",
        },
        "headers": {"Reply-To": "help@example.com"},
    }
    assert view.bodies == {"Text": "It boils.", "HTML": "<p>It boils.</p>"}
    assert view.rest == {"connection": "mail"}


@pytest.mark.usefixtures("server")
def test_airflows_smtp_hook_has_the_parts_that_are_used() -> None:
    """Airflow's hook has no public way to its connection: where its name changes, this says so."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    hook = SmtpHook(smtp_conn_id="mail")
    hook.get_conn()
    assert {"docmd", "getreply", "send", "ehlo_or_helo_if_needed"} <= set(dir(hook._smtp_client)), (
        "SmtpHook no longer keeps its smtplib connection as _smtp_client: change targets/email.py"
    )
