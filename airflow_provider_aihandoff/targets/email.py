"""Sends e-mails over SMTP: everything but the date and the ``Message-ID`` stands in the plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email import policy
from email.errors import HeaderParseError
from email.headerregistry import Address, HeaderRegistry, UniqueAddressHeader
from email.message import EmailMessage
from email.utils import formatdate
from html import escape
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_aihandoff.core.call_watch import CallWatch
from airflow_provider_aihandoff.core.effects.target import Applied, RequestView, Target, UnclearAnswer, take_text
from airflow_provider_aihandoff.core.error_text import said
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused, PlanError
from airflow_provider_aihandoff.core.secret_names import without_login
from airflow_provider_aihandoff.targets.connections import needed

if TYPE_CHECKING:
    from smtplib import SMTP

    from airflow.providers.smtp.hooks.smtp import SmtpHook

#: Headers that the plan has a field for, or that are made when the mail is sent.
_OWN_HEADERS = frozenset(
    {"bcc", "cc", "date", "from", "message-id", "mime-version", "return-path", "sender", "subject", "to"}
)

#: The name of a header (RFC 5322, 2.2).
_HEADER_NAME = re.compile(r"[!-9;-~]+")

#: Lines end with CRLF, and nothing needs more than seven bits: every server takes that.
_POLICY = policy.SMTP.clone(cte_type="7bit")
_HEADERS = HeaderRegistry()

#: How much of what a server answers is kept, in characters: where it refuses a mail, and where it accepts one.
_WORDS, _ANSWER = 2000, 200

_TOO_LONG = "it took too long to answer"


@dataclass(frozen=True)
class EmailTarget(Target):
    """A mail server that is spoken to through an Airflow connection of the type SMTP.

    A mail is sent at most once: no server says later what became of one, and none recognizes a second one. So a mail
    that was handed over without an answer waits for a person. Its ``Message-ID`` is made of the effect key, so that it
    can be found in the server's log and in a mailbox.

    :param name: the effect's name, for messages.
    :param timeout: seconds to connect, and to wait for each answer of the server. The whole call may take four times as
        long.
    """

    kind = "email"

    name: str
    timeout: float = 30.0

    @property
    def call_seconds(self) -> float:  # type: ignore[override]
        """To connect, to log in and to name the recipients, in half of it; to hand the mail over, in the other half. At
        its end, the connection is cut.
        """
        return 4 * self.timeout

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """Hand the mail over to the server, for every recipient or for none."""
        mail, message_id = message_of(plan, key)
        recipients = [address_of(each) for each in (*plan["to"], *plan["cc"], *plan["bcc"])]
        watch = CallWatch(self.call_seconds / 2, self.call_seconds)
        try:
            client = self._connect(plan, watch)
            try:
                self._ask(client, watch, f"MAIL FROM:<{address_of(plan['from'])}>", 250)
                for recipient in recipients:  # if one is refused, no one gets it
                    self._ask(client, watch, f"RCPT TO:<{recipient}>", 250, 251)
                self._begin(watch)
                self._ask(client, watch, "DATA", 354)
                answer = self._hand_over(client, mail)
            finally:
                with suppress(OSError):
                    client.putcmd("QUIT")
                client.close()
        finally:
            watch.close()
        return Applied(message_id, {"recipients": len(recipients), "answer": answer[:_ANSWER]})

    @classmethod
    def quoted(cls, field: str, value: str) -> str:
        """Escaped in HTML."""
        return escape(value) if field == "html" else value

    @classmethod
    def refuses(cls, field: str, value: str) -> str | None:
        """In a header, what is not one line of text; NUL anywhere."""
        if field in ("subject", "headers") and _is_broken(value):
            return "has a line break or a control character"
        return "has a NUL character" if "\x00" in value else None

    @classmethod
    def describe(cls, plan: Mapping[str, Any]) -> RequestView:
        """The server, who gets it, the subject and further headers, and the exact text."""
        rest = dict(plan)
        address = take_text(rest, "server")
        names = {"From": "from", "To": "to", "Cc": "cc", "Bcc": "bcc", "Subject": "subject"}
        mail = {name: _joined(rest.pop(field)) for name, field in names.items() if rest.get(field)}
        rest = {field: part for field, part in rest.items() if field not in names.values() or part != []}
        headers = rest.pop("headers") if isinstance(rest.get("headers"), Mapping) else {}
        bodies = {name: take_text(rest, field) for name, field in (("Text", "text"), ("HTML", "html"))}
        return RequestView(
            action="E-mail",
            address=address,
            tables={"mail": mail, **({"headers": headers} if headers else {})},
            bodies={name: text for name, text in bodies.items() if text},
            rest=rest,
            key_label="Effect key, in the Message-ID",
        )

    def _connect(self, plan: Mapping[str, Any], watch: CallWatch) -> SMTP:
        """Open the connection and log in, as Airflow's hook does.

        :raises EffectNotNow: there is no such connection here, or no server, or it cannot be used.
        :raises EffectRefused: the connection leads to another server by now, or the server refuses it.
        """
        from smtplib import SMTPResponseException

        from airflow_provider_aihandoff.targets import smtp_client

        with needed(plan["connection"], self.name):
            server = server_of(plan["connection"])
        if server != plan["server"]:
            raise EffectRefused(
                f"the plan of the effect {self.name!r} is for {plan['server']}, and its connection leads to {server}.",
                answered=False,
                remedy="Restore the connection, or ask for a decision on the new server.",
            )
        try:
            return smtp_client.connect(plan["connection"], watch, self.timeout)
        except SMTPResponseException as error:
            raise self._not_accepted(error.smtp_code, error.smtp_error, "when it was greeted") from error
        except UnicodeError as error:
            raise self._not_sent("its login has characters that cannot be sent") from error
        except Exception as error:  # whatever it is: no part of the mail has left
            raise self._not_sent(_TOO_LONG if watch.over else said(error)) from error

    def _ask(self, client: SMTP, watch: CallWatch, command: str, *expected: int) -> None:
        """Send one command that comes before the mail: until then, nothing is sent that a server could deliver."""
        try:
            code, text = client.docmd(command)
        except (OSError, ValueError) as error:
            why = _TOO_LONG if watch.over else f"{type(error).__name__} after {command!r}"
            raise self._not_sent(why) from error
        if code not in expected:
            raise self._not_accepted(code, text, f"to {command!r}")

    def _begin(self, watch: CallWatch) -> None:
        try:
            watch.begin()
        except TimeoutError as error:
            raise self._not_sent(_TOO_LONG) from error

    def _hand_over(self, client: SMTP, mail: bytes) -> str:
        """Send the mail itself. From its first byte on, only the server's answer says whether it has taken it."""
        try:
            client.send(re.sub(rb"(?m)^\.", b"..", mail) + b".\r\n")  # RFC 5321, 4.5.2
            code, text = client.getreply()
        except OSError as error:
            raise UnclearAnswer(f"the connection broke after the mail was sent: {type(error).__name__}") from error
        if 400 <= code < 600:
            raise self._not_accepted(code, text, "to the mail")
        if not 200 <= code < 300:
            raise UnclearAnswer(f"the server answered {code} {_text(text)} to the mail")
        return _text(text)

    def _not_sent(self, why: str) -> EffectNotNow:
        return EffectNotNow(
            f"the mail server of the effect {self.name!r} did not take the mail: {why}.",
            remedy="Check the server and its connection; a retry is safe.",
        )

    def _not_accepted(self, code: int, text: bytes | str, when: str) -> EffectNotNow | EffectRefused:
        """What an answer other than the wanted one means (RFC 5321, 4.2.1): with a 5, it will always be so."""
        said = f"the mail server of the effect {self.name!r} answered {code} {_text(text)} {when}"
        if 500 <= code < 600:
            return EffectRefused(
                f"{said}.", remedy="Fix the cause at the server; then clear this task, which sends the same mail."
            )
        return EffectNotNow(f"{said}.", remedy="A retry is safe.")


def plan_mail(
    conn_id: str,
    *,
    sender: str | None,
    to: str | Iterable[str],
    cc: str | Iterable[str] = (),
    bcc: str | Iterable[str] = (),
    subject: str,
    text: str | None,
    html: str | None,
    headers: Mapping[str, Any] | None,
    name: str,
) -> dict[str, Any]:
    """The exact mail, but for its date and its ``Message-ID``. Reads the connection; opens nothing.

    :param sender: by default, what the connection says.
    :param name: the effect's name, for messages.
    :raises PlanError: it cannot be sent as a mail, or Airflow's SMTP provider is not installed.
    """
    try:
        hook = smtp_hook(conn_id)
    except ImportError as error:
        raise PlanError(
            f"the effect {name!r} is an e-mail, and Airflow's SMTP provider is not installed here.",
            remedy="Install it: pip install 'airflow-provider-aihandoff[email]'.",
        ) from error
    sender = sender or hook.get_connection(conn_id).extra_dejson.get("from_email")
    if not sender:
        raise PlanError(
            f"the effect {name!r} has no sender.", remedy=f"Give `from_email`, here or in the connection {conn_id!r}."
        )
    plan = {
        "connection": conn_id,
        "server": server_of(conn_id),
        "from": _only_address(sender, "from_email", name),
        "to": _addresses(to, "to", name),
        "cc": _addresses(cc, "cc", name),
        "bcc": _addresses(bcc, "bcc", name),
        "subject": _one_line(subject, "subject", name),
        "headers": _further_headers(headers or {}, name),
        **({} if text is None else {"text": text}),
        **({} if html is None else {"html": html}),
    }
    if not (plan["to"] or plan["cc"] or plan["bcc"]):
        raise PlanError(f"the effect {name!r} has no recipient.")
    if not (text or html):
        raise PlanError(f"the effect {name!r} has neither text nor html.")
    if "\x00" in f"{text}{html}":
        raise PlanError(f"the effect {name!r} has a NUL character, which is not allowed in a mail.")
    try:
        message_of(plan, "aih-0")
    except ValueError as error:
        raise PlanError(f"the effect {name!r} cannot be sent as a mail: {error}.") from error
    return plan


def message_of(plan: Mapping[str, Any], key: str) -> tuple[bytes, str]:
    """The mail as it is sent, and its ``Message-ID``. Every attempt makes the same one, but for its date."""
    message = EmailMessage(_POLICY)
    message_id = f"<{key}@{address_of(plan['from']).rpartition('@')[2]}>"
    message["From"] = plan["from"]
    for header in ("To", "Cc"):
        if plan[header.lower()]:
            message[header] = ", ".join(plan[header.lower()])
    message["Subject"] = plan["subject"]
    message["Date"] = formatdate(usegmt=True)
    message["Message-ID"] = message_id
    for header, value in plan["headers"].items():
        message[header] = value
    if "text" in plan:
        message.set_content(plan["text"])
        if "html" in plan:
            message.add_alternative(plan["html"], subtype="html")
    else:
        message.set_content(plan["html"], subtype="html")
    return message.as_bytes(), message_id


def address_of(mailbox: str) -> str:
    """The address in ``Name <address>``."""
    return str(_parsed(mailbox).addresses[0].addr_spec)


def server_of(conn_id: str) -> str:
    """The server that a connection leads to. Opens nothing."""
    connection = smtp_hook(conn_id).get_connection(conn_id)
    host = without_login(str(connection.host))
    return f"{host}:{connection.port}" if connection.port else host


def smtp_hook(conn_id: str) -> SmtpHook:
    """Airflow's own way to a mail server.

    :raises ImportError: Airflow's SMTP provider is not installed.
    """
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    return SmtpHook(smtp_conn_id=conn_id)


def _addresses(value: str | Iterable[str], field: str, name: str) -> list[str]:
    """The mailboxes of a text with commas, or of a list in which each item is one."""
    if isinstance(value, str):
        return _mailboxes(value, field, name) if value.strip() else []
    return [_only_address(str(each), field, name) for each in value]


def _only_address(text: str, field: str, name: str) -> str:
    found = _mailboxes(text, field, name)
    if len(found) != 1:
        raise PlanError(f"`{field}` of the effect {name!r} is not one address: {text!r}.")
    return found[0]


def _mailboxes(text: str, field: str, name: str) -> list[str]:
    """The mailboxes of a header, each as it is sent.

    :raises PlanError: it is no list of addresses, or one of them cannot be sent to.
    """
    try:
        header = _parsed(_one_line(text, field, name))
        if (
            getattr(header, "defects", ())
            or not header.addresses
            or any(group.display_name is not None for group in header.groups)
        ):
            raise ValueError("it is not a list of addresses")
        return [
            str(Address(each.display_name, each.username, each.domain.encode("idna").decode()))
            for each in header.addresses
            if each.username and each.domain
        ]
    except (ValueError, IndexError, HeaderParseError) as error:  # the parser raises all of these
        raise PlanError(
            f"`{field}` of the effect {name!r} has no address that a mail can be sent to: {text!r}.",
            remedy="Write `address` or `Name <address>`, with ASCII characters alone before the @.",
        ) from error


def _parsed(text: str) -> UniqueAddressHeader:
    return cast("UniqueAddressHeader", _HEADERS("To", text))


def _one_line(value: Any, field: str, name: str) -> str:
    """A text that can be a header.

    :raises PlanError: it has a line break, which would begin another header, or another character that none may have.
    """
    text = str(value or "")
    if _is_broken(text):
        raise PlanError(
            f"`{field}` of the effect {name!r} has a line break or a control character: {text!r}.",
            remedy="A header is one line. Use a template filter, such as {{ job.output.title | trim }}.",
        )
    return text


def _is_broken(text: str) -> bool:
    """Whether a text is more than one line, or has a control character."""
    return any(ord(character) < 32 or ord(character) == 127 for character in text) or len(text.splitlines()) > 1


def _further_headers(headers: Mapping[str, Any], name: str) -> dict[str, str]:
    for header in headers:
        lower = header.lower()
        if not _HEADER_NAME.fullmatch(header) or lower in _OWN_HEADERS or lower.startswith("content-"):
            raise PlanError(
                f"the effect {name!r} cannot have the header {header!r}.",
                remedy="Headers that a mail has in any case have arguments of their own; others need a plain name.",
            )
    return {header: _one_line(value, f"headers[{header!r}]", name) for header, value in headers.items()}


def _joined(value: Any) -> Any:
    """The mailboxes of a list, one after another."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _text(answer: bytes | str) -> str:
    """What a server answered, on one line, its secrets masked."""
    from airflow.providers.common.compat.sdk import redact

    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
    return " ".join(str(redact(text)).split())[:_WORDS]
