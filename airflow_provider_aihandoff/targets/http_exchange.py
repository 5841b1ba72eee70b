"""One HTTP exchange, bounded as a whole in time and bytes, which knows whether its request ever left."""

from __future__ import annotations

import json
import logging
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests
from airflow.providers.common.compat.sdk import redact
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from airflow_provider_aihandoff.core.call_watch import CallWatch
from airflow_provider_aihandoff.core.json_path import find_values, text_of
from airflow_provider_aihandoff.targets.connections import once

log = logging.getLogger(__name__)

#: How much of an answer is read, in bytes, after it is decoded. What is longer cannot be read as JSON.
ANSWER_LIMIT = 4 * 1024 * 1024

#: How much of what a target says is kept, in characters.
WORDS_LIMIT = 2000

_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Answer:
    """What a target answered.

    :param content: the body, decoded; None where it is too long, broke off, or cannot be decoded.
    :param why: why there is none, as a clause.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes | None
    why: str = ""

    def json(self) -> Any:
        """The body as JSON.

        :raises ValueError: it is not JSON, or not there.
        """
        if self.content is None:
            raise ValueError(self.why)
        return json.loads(self.content)

    def json_or_none(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return self.json()
        except (ValueError, RecursionError):
            return None

    def value_at(self, path: str) -> str | None:
        """The text at a place in the JSON; None, with a warning, where there is none."""
        try:
            values = find_values(self.json(), path)
        except Exception as error:  # noqa: BLE001 - the write is applied, whatever its answer looks like
            log.warning("The external id cannot be read: %s: %s", type(error).__name__, error)
            return None
        if not values or values[0] is None:
            log.warning("The answer has no %s; the effect has no external id.", path)
            return None
        return text_of(values[0])

    def words(self) -> str:
        """What the target says, on one line, its secrets masked; empty where it says nothing."""
        if self.content is None:
            return self.why
        try:
            said = redact(self.json())
            text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
        except (ValueError, RecursionError):
            text = str(redact(self.content[: 4 * WORDS_LIMIT].decode("utf-8", "replace")))
        text = " ".join(text.split())
        return text if len(text) <= WORDS_LIMIT else text[:WORDS_LIMIT] + " …"


class NeverLeft(Exception):
    """The exchange broke off before a byte of the request was sent."""


class Broken(Exception):
    """The exchange broke off after the request began to leave, and before the status came."""


class _Watched(HTTPConnection):
    """A connection that a watch has, which learns when the request begins to leave."""

    connecting = False

    def __init__(self, *args: Any, watch: CallWatch, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watch = watch

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        self.watch.connected(made)
        return made

    def connect(self) -> None:
        self.connecting = True
        try:
            super().connect()
        finally:
            self.connecting = False

    def send(self, data: Any) -> None:
        if self.sock is None and self.auto_open:
            self.connect()
        if not self.connecting:  # a tunnel through a proxy is asked for while it connects
            self.watch.begin()
        super().send(data)


class _WatchedTls(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTls


class _Adapter(HTTPAdapter):
    """An adapter whose connections a watch has."""

    def __init__(self, watch: CallWatch) -> None:
        self._watch = watch
        super().__init__()

    @property
    def _pools(self) -> dict[str, Any]:
        return {"http": partial(_Pool, watch=self._watch), "https": partial(_TlsPool, watch=self._watch)}

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if proxy.lower().startswith("socks"):
            self._watch.left = True  # its connections are not ours: they may have sent anything
        else:
            manager.pool_classes_by_scheme = self._pools
        return manager


def adapter_of(watch: CallWatch) -> HTTPAdapter:
    """An adapter whose connections one watch has."""
    return _Adapter(watch)


def exchange_of(session: requests.Session, request: requests.Request, watch: CallWatch, timeout: float) -> Answer:
    """Send one request, follow no redirect, and read the answer.

    :raises NeverLeft: nothing was sent.
    :raises Broken: no status came.
    """
    try:
        prepared = session.prepare_request(request)
        url = prepared.url or ""
        given = session.proxies, session.verify, session.cert
        settings = once(
            ("environment", urlsplit(url)[:2], str(given)),
            lambda: session.merge_environment_settings(url, session.proxies, True, session.verify, session.cert),
        )
        adapter: Any = session.get_adapter(url)
    except (requests.RequestException, ValueError) as error:
        raise NeverLeft(_kind(error)) from None
    try:
        # The adapter alone: the session would read the answer of a redirect whole, and send again where a hook asks.
        response: requests.Response = adapter.send(prepared, timeout=timeout, **settings)
    except Exception as error:  # noqa: BLE001 - whatever breaks it, what counts is whether the request left
        if not watch.left:
            raise NeverLeft(f"{_kind(error)}: {error}") from None
        over = "the whole answer took too long; " if watch.over else ""
        raise Broken(f"{over}{_kind(error)}: {error}") from None
    try:
        content, why = _read(response)
    finally:
        response.close()
    return Answer(response.status_code, str(response.reason or ""), response.headers, content, why)


def _kind(error: Exception) -> str:
    return type(error).__name__


def _read(response: requests.Response) -> tuple[bytes | None, str]:
    """The body, as far as it may be read, and decoded; or why there is none."""
    content = b""
    try:
        while chunk := response.raw.read(_CHUNK, decode_content=False):
            content += chunk
            if len(content) > ANSWER_LIMIT:
                return None, f"its answer is longer than {ANSWER_LIMIT} bytes"
    except Exception as error:  # noqa: BLE001 - the status is known, whatever breaks its body
        return None, f"its answer broke off: {_kind(error)}"
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return content, ""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return None, f"its answer is encoded as {encoding!r}"
    try:
        unpacker = zlib.decompressobj(47 if encoding != "deflate" else 15)
        decoded = unpacker.decompress(content, ANSWER_LIMIT)
    except zlib.error as error:
        return None, f"its answer cannot be decoded: {error}"
    if unpacker.unconsumed_tail:
        return None, f"its answer is longer than {ANSWER_LIMIT} bytes"
    return decoded, ""
