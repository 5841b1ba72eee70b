"""One POST of an event: to an address that was checked, bounded as a whole, following no redirect.

The answer's body is not read: what counts is its status.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import requests
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util.connection import create_connection

from airflow_provider_aihandoff.core.backoff import retry_after_seconds
from airflow_provider_aihandoff.core.call_watch import CallWatch
from airflow_provider_aihandoff.core.event_delivery.address import (
    Address,
    AllowedHosts,
    Resolve,
    checked_address,
    checked_ips,
)

#: Seconds for one call as a whole; for connecting alone; and within which it must begin to leave.
CALL_SECONDS = 10.0
CONNECT_SECONDS = 5.0

#: Addresses of a host that are tried at most.
_MAX_IPS = 8

_GONE = 410
_USER_AGENT = "airflow-provider-aihandoff"


class NotAnswered(Exception):
    """No status came. The event may have arrived all the same. Its text is a clause that names no address."""


@dataclass(frozen=True)
class Answered:
    """What a receiver answered.

    :param retry_after: seconds that it asks for.
    """

    status: int
    retry_after: float | None = None

    @property
    def is_taken(self) -> bool:
        """Whether it has taken the event."""
        return 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        """Whether it wants no events any more."""
        return self.status == _GONE

    @property
    def why(self) -> str:
        """Why the event counts as not taken, as a clause."""
        more = ", and redirects are not followed" if 300 <= self.status < 400 else ""
        return f"the receiver has answered {self.status}{more}"


def post_event(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    allowed: AllowedHosts,
    resolve: Resolve | None = None,
    seconds: float = CALL_SECONDS,
) -> Answered:
    """Send an event.

    :param allowed: the hosts that are listed now.
    :param resolve: as of :func:`address.checked_ips`.
    :param seconds: for the whole call.
    :raises AddressRefused: nothing was sent: the host is not listed, or leads inside of a network.
    :raises NotAnswered: no status came in time.
    """
    address = checked_address(url, allowed)
    watch = CallWatch(begin_seconds=seconds, call_seconds=seconds)
    try:
        answered = _exchange(address, checked_ips(address, resolve), headers, body, watch, seconds)
        if watch.over:  # its head was cut off, and may end anywhere
            raise TimeoutError
        return answered
    except (HTTPError, OSError, ValueError) as error:
        over = watch.over or isinstance(error, TimeoutError)
        why = f"no answer came within {seconds:g} s" if over else f"the call broke off ({type(error).__name__})"
        raise NotAnswered(why) from None
    finally:
        watch.close()


def _exchange(
    address: Address, ips: Sequence[str], headers: Mapping[str, str], body: bytes, watch: CallWatch, seconds: float
) -> Answered:
    pool = _pool(address, ips, watch)
    try:
        response = pool.urlopen(
            "POST",
            address.target,
            body=body,
            headers={**headers, "user-agent": _USER_AGENT},
            retries=False,
            redirect=False,
            timeout=Timeout(connect=min(CONNECT_SECONDS, seconds), read=seconds),
            preload_content=False,
        )
        try:
            return Answered(response.status, retry_after_seconds(response.headers.get("retry-after")))
        finally:
            response.close()
    finally:
        pool.close()


def _pool(address: Address, ips: Sequence[str], watch: CallWatch) -> HTTPConnectionPool:
    """Connections to the addresses that were checked, which ask for the host by its name."""

    class Checked(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            made = _connect(ips, self.port, self.timeout)
            watch.connected(made)
            return made

        def send(self, data: Any) -> None:
            if self.sock is None and self.auto_open:
                self.connect()
            watch.begin()
            super().send(data)

    class CheckedTls(Checked, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Checked

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = CheckedTls

    if address.scheme == "http":
        return Pool(address.host, address.port)
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or requests.utils.DEFAULT_CA_BUNDLE_PATH
    return TlsPool(address.host, address.port, cert_reqs="CERT_REQUIRED", ca_certs=bundle)


def _connect(ips: Sequence[str], port: int, timeout: Any) -> socket.socket:
    tried = ips[:_MAX_IPS]
    each = max(1.0, timeout / len(tried))  # so that a later one is reached while the call may still begin
    for ip in tried[:-1]:
        with suppress(OSError):
            return create_connection((ip, port), each)
    return create_connection((tried[-1], port), each)
