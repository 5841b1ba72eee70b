"""Sends e-mails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_aihandoff.operators.side_effect import SideEffectOperator

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.jobs.job_view import JobView
    from airflow_provider_aihandoff.targets.email import EmailTarget


class EmailSideEffectOperator(SideEffectOperator):
    """Send one e-mail, at most once, over an Airflow connection of the type SMTP.

    The whole mail is approved: sender, every recipient, subject, further headers, text and HTML. Its ``Message-ID`` is
    made of the effect key. It goes to every recipient or to none: if the server refuses one, no one gets it.

    A server that refuses (5xx) proves that nothing was sent; one that is unavailable or says 4xx is "not now", and
    Airflow's retry sends the mail. Where the connection breaks after the mail was handed over, it is ``unknown``, and
    waits for a person: a mail server cannot be asked what became of a mail. Retry, clear and kill work as in
    :class:`SideEffectOperator`. Requires the extra ``email`` of this package.

    :param smtp_conn_id: connection of the type SMTP: server, TLS and credentials.
    :param from_email: the sender (templated); by default, what the connection says.
    :param to: recipients (templated): a list of ``address`` or ``Name <address>``, or a text with commas between them.
    :param cc: the same, for copies (templated).
    :param bcc: the same, for copies that the other recipients do not see (templated). The reviewer sees them.
    :param subject: one line (templated).
    :param text: what it says, as plain text (templated).
    :param html: what it says, as HTML (templated). With ``text``, readers choose one of both.
    :param headers: further headers (templated), such as ``Reply-To``.
    :param timeout: seconds to wait for each answer of the server.
    """

    template_fields: Sequence[str] = (
        "job",
        "from_email",
        "to",
        "cc",
        "bcc",
        "subject",
        "text",
        "html",
        "headers",
        "undo",
    )
    known_fields = ("job", "when", "from_email", "to", "cc", "bcc")
    template_fields_renderers: ClassVar[dict[str, str]] = {"html": "html", "headers": "json", "undo": "json"}

    def __init__(
        self,
        *,
        smtp_conn_id: str = "smtp_default",
        from_email: str | None = None,
        to: str | Sequence[str] = (),
        cc: str | Sequence[str] = (),
        bcc: str | Sequence[str] = (),
        subject: str,
        text: str | None = None,
        html: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.smtp_conn_id = smtp_conn_id
        self.from_email = from_email
        self.to = to
        self.cc = cc
        self.bcc = bcc
        self.subject = subject
        self.text = text
        self.html = html
        self.headers = headers
        self.timeout = timeout

    def plan(self, job: JobView) -> dict[str, Any]:
        """The mail: connection, server, sender, recipients, subject, headers, text and HTML."""
        from airflow_provider_aihandoff.targets.email import plan_mail

        mail = plan_mail(
            self.smtp_conn_id,
            sender=self.from_email,
            to=self.to,
            cc=self.cc,
            bcc=self.bcc,
            subject=self.marked("subject"),
            text=self.marked("text"),
            html=self.marked("html"),
            headers=self.marked("headers"),
            name=self.effect_name,
        )
        return self.settled_plan(mail)

    def target(self) -> EmailTarget:
        """The mail server behind the connection."""
        from airflow_provider_aihandoff.targets.email import EmailTarget

        return EmailTarget(self.effect_name, self.timeout)
