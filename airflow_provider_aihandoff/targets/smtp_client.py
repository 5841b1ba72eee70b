"""A connection to a mail server as Airflow's SMTP hook makes it, bounded as a whole in time and bytes."""

from __future__ import annotations

import smtplib
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, cast

from airflow_provider_aihandoff.core.call_watch import CallWatch

if TYPE_CHECKING:
    from airflow.providers.smtp.hooks.smtp import SmtpHook

#: How much of all that a server says is read, in bytes.
ANSWERS_LIMIT = 1024 * 1024


def connect(conn_id: str, watch: CallWatch, timeout: float) -> smtplib.SMTP:
    """Connect, begin TLS and log in, as the connection says. Sends no mail.

    :param watch: what ends the connection.
    :param timeout: seconds to connect, and to wait for each answer.
    :raises smtplib.SMTPResponseException: the server refused it.
    :raises Exception: it cannot be done.
    """
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    class Watched(smtplib.SMTP):
        def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
            made: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]
            watch.connected(made)
            return made

        def getreply(self) -> tuple[int, bytes]:
            if self.file is None and self.sock is not None:
                self.file = _Bounded(cast("BinaryIO", self.sock.makefile("rb")))
            return super().getreply()

    class WatchedTls(smtplib.SMTP_SSL, Watched):
        pass

    class Hook(SmtpHook):
        def _build_client(self) -> smtplib.SMTP_SSL | smtplib.SMTP:
            kind = WatchedTls if self.use_ssl else Watched
            try:
                return kind(**{**self._build_client_kwargs(is_async=False), "timeout": timeout})
            except smtplib.SMTPServerDisconnected as error:  # the hook would connect again: the task is tried again
                raise ConnectionAbortedError(str(error)) from None

    hook: SmtpHook = Hook(smtp_conn_id=conn_id)
    try:
        hook.get_conn()
        # The hook's own way of sending tries again whatever went wrong, and could send a mail twice.
        client = cast("smtplib.SMTP", hook._smtp_client)
        client.ehlo_or_helo_if_needed()
    except BaseException:
        if hook._smtp_client is not None:
            with suppress(OSError):
                cast("smtplib.SMTP", hook._smtp_client).close()
        raise
    return client


class _Bounded:
    """The lines of a server, up to a limit. One that breaks off is none: half of a code reads like another one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, ANSWERS_LIMIT

    def readline(self, limit: int = -1) -> bytes:
        """The next line; empty at the end.

        :raises OSError: it breaks off, or all of them are longer than the limit.
        """
        line = self._file.readline(limit)
        if line and len(line) != limit and not line.endswith(b"\n"):
            raise ConnectionAbortedError("an answer broke off")
        self._left -= len(line)
        if self._left < 0:
            raise OSError(f"its answers are longer than {ANSWERS_LIMIT} bytes")
        return line

    def close(self) -> None:
        """Close the file."""
        self._file.close()
