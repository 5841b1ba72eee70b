"""A mail server as it is: plain, with STARTTLS or with TLS, with a login; and what may happen to a mail on its way.

It keeps each mail that it has accepted. Most faults befall the first connection only.
"""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from aiosmtpd.smtp import SMTP, AuthResult, Envelope

from tests.mail import Mailbox

Security = Literal["plain", "STARTTLS", "TLS"]

#: How long clients wait, in seconds; a whole call lasts four times as long.
MAIL_PATIENCE = 0.4

#: What happens to the first connection; ``each time``: to every one. ``accepted``: the server has the mail by then.
MAIL_FAULTS = (
    "none",
    "accepted, dropped",
    "accepted, no answer in time",
    "accepted, slow drip",
    "accepted, answer without end",
    "451 to the mail",
    "554 to the mail",
    "451 to the sender",
    "550 to a recipient",
    "421 at the greeting",
    "slow drip at the greeting",
    "greeting without end",
    "dropped at the greeting",
    "dropped before DATA",
    "dropped after DATA",
    "dropped in the mail",
    "login refused, each time",
    "connection refused, each time",
    "TLS refused, each time",
)
#: Those that clients wait for in vain.
SLOW_MAIL_FAULTS = tuple(
    fault for fault in MAIL_FAULTS if fault.startswith(("accepted, ", "slow", "greeting")) and "dropped" not in fault
)

_LOGIN = ("shop", "pa55-of-the-shop")


class MailServer(Mailbox):
    """One mail server.

    :param fault: one of :data:`MAIL_FAULTS`.
    :ivar sent: how many connections it got.
    """

    def __init__(self, fault: str = "none", security: Security = "plain") -> None:
        super().__init__()
        self.fault, self.security = fault, security
        self.sent = 0

    def count(self) -> int:
        """How many mails it has accepted: what no answer can hide."""
        return len(self.mails)

    def now(self) -> str:
        """The fault of the connection that is open."""
        return self.fault if self.sent == 1 or self.fault.endswith("each time") else "none"

    async def handle_MAIL(self, server: Any, session: Any, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        envelope.mail_from = address
        return "451 come back later" if self.now() == "451 to the sender" else "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        envelope.rcpt_tos.append(address)
        if self.now() == "dropped before DATA":
            server.transport.abort()
        second = len(envelope.rcpt_tos) == 2
        return "550 no such user" if second and self.now() == "550 to a recipient" else "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802
        fault = self.now()
        if fault[0] in "45":
            return {"451": "451 no room", "554": "554 it looks like spam"}[fault[:3]]
        await super().handle_DATA(server, session, envelope)
        match fault:
            case "accepted, dropped":
                server.transport.abort()
            case "accepted, no answer in time":
                await asyncio.sleep(2 * MAIL_PATIENCE)
            case "accepted, slow drip":
                await _drip(server, b"250 " + b"o" * 50)
            case "accepted, answer without end":
                await _flood(server, b"250-and so on\r\n")
        return "250 OK"


class _Session(SMTP):
    """One connection."""

    greeted = False

    async def push(self, status: Any) -> None:
        fault, greeting, self.greeted = self.event_handler.now(), not self.greeted, True
        transport: Any = self.transport
        go_on = str(status).startswith("354")
        if greeting and fault == "421 at the greeting":
            status = "421 too many connections"
        elif greeting and fault == "slow drip at the greeting":
            await _drip(self, b"220 " + b"o" * 50)
        elif greeting and fault == "greeting without end":
            await _flood(self, b"220-and so on\r\n")
        elif (greeting and fault == "dropped at the greeting") or (go_on and fault == "dropped after DATA"):
            transport.abort()
            return
        await super().push(status)
        if go_on and fault == "dropped in the mail":
            transport.close()

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        """Take the one login."""
        right = (data.login.decode(), data.password.decode()) == _LOGIN
        return AuthResult(success=right and not self.event_handler.now().startswith("login refused"), handled=False)


async def _drip(session: Any, text: bytes) -> None:
    """Say something, a byte at a time, each of them in time."""
    for byte in text:
        if session.transport is None or session.transport.is_closing():
            return
        session.transport.write(bytes([byte]))
        await asyncio.sleep(MAIL_PATIENCE / 4)


async def _flood(session: Any, line: bytes) -> None:
    """Say the same without end, as fast as it is read."""
    while session.transport is not None and not session.transport.is_closing():
        session._writer.write(line * 1000)
        await session._writer.drain()
        await asyncio.sleep(0)  # a drain alone lets nothing else run while there is room


@contextmanager
def serving_mail(server: MailServer) -> Iterator[str]:
    """Serve in a thread; yields Airflow's connection to it, as JSON."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # clients give up here
    implicit = tls_context() if server.security == "TLS" and not server.fault.startswith("TLS refused") else None
    listening = loop.run_until_complete(
        loop.create_server(lambda: _session(server, loop), "127.0.0.1", 0, ssl=implicit, start_serving=False)
    )
    if not server.fault.startswith("connection refused"):
        loop.run_until_complete(listening.start_serving())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield _connection(server, listening.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(_end(loop), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        listening.close()
        loop.close()


async def _end(loop: asyncio.AbstractEventLoop) -> None:
    """End what sessions still do."""
    tasks = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _session(server: MailServer, loop: asyncio.AbstractEventLoop) -> SMTP:
    server.sent += 1
    refuses_tls = server.fault.startswith("TLS refused")
    starttls = server.security == "STARTTLS" and not refuses_tls
    session = _Session(
        server,
        hostname="localhost",
        loop=loop,
        tls_context=tls_context() if starttls or (server.security == "plain" and refuses_tls) else None,
        require_starttls=starttls or (server.security == "plain" and refuses_tls),
        auth_require_tls=server.security == "STARTTLS",
        authenticator=lambda *args: session.authenticate(*args),
    )
    return session


def _connection(server: MailServer, port: int) -> str:
    extra = {
        "disable_ssl": server.security != "TLS",
        "disable_tls": server.security != "STARTTLS",
        "ssl_context": "none",
        "from_email": "shop@example.com",
    }
    login = {} if server.security == "plain" else dict(zip(("login", "password"), _LOGIN, strict=True))
    return json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": port, **login, "extra": extra})


@functools.cache
def tls_context() -> ssl.SSLContext:
    """A server's side of TLS, with a certificate of its own."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
    certificate = builder.not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "server.pem"
        file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
    return context
