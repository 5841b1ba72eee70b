"""A mail server for tests, which delivers to a list."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, cast

from aiosmtpd.smtp import SMTP, Envelope


class Mailbox:
    """Takes every mail that is delivered to it."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802 - its name there
        content = cast("bytes", envelope.content)
        self.mails.append(message_from_bytes(content, policy=policy.default))
        self.recipients.append(envelope.rcpt_tos)
        return "250 OK"

    @property
    def texts(self) -> list[str]:
        """What each mail says."""
        bodies = [mail.get_body() for mail in self.mails]
        return [str(body.get_content()).strip() for body in bodies if body is not None]


class AnsweringMailbox(Mailbox):
    """Answers each command as it is set to, or cuts the connection instead.

    :ivar cut: the command after which it does so; `DATA`: once it has taken the mail.
    """

    def __init__(self) -> None:
        super().__init__()
        self.at_mail = self.at_data = "250 OK"
        self.at_recipient: dict[str, str] = {}
        self.cut = ""

    async def handle_MAIL(self, server: Any, session: Any, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        envelope.mail_from = address
        return self._or_cut(server, "MAIL", self.at_mail)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        envelope.rcpt_tos.append(address)
        return self._or_cut(server, "RCPT", self.at_recipient.get(address, "250 OK"))

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802
        if self.at_data.startswith("250"):
            await super().handle_DATA(server, session, envelope)
        return self._or_cut(server, "DATA", self.at_data)

    def _or_cut(self, server: Any, command: str, answer: str) -> str:
        if self.cut == command:
            server.transport.abort()
        return answer


@contextmanager
def mail_server(mailbox: Mailbox) -> Iterator[str]:
    """An SMTP server in a thread; yields Airflow's connection to it, as JSON."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(
        loop.create_server(lambda: SMTP(mailbox, hostname="localhost", loop=loop), "127.0.0.1", 0)
    )
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        port = server.sockets[0].getsockname()[1]
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@example.com"}
        yield json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra})
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()
