"""Business systems as they are: a helpdesk, a headless CMS, a record store; and what may happen on the way to them.

Each keeps its records in memory, and counts which requests of a sender it has applied. A fault befalls writes only.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Reply = tuple[int, Any, Mapping[str, str]]

#: How long clients wait for a system that is slow, in seconds, and for every other one: on a busy machine, that may
#: be slow, too.
PATIENCE, LONG_PATIENCE = 0.3, 30.0

#: What happens to the first write, or to every one. ``applied``: the system has done it before.
FAULTS = (
    "none",
    "applied, dropped",
    "applied, 500",
    "applied, 502",
    "applied, 503",
    "applied, 503 later",
    "applied, 504",
    "applied, 429 later",
    "applied, no answer in time",
    "applied, slow drip",
    "applied, 500 each time",
    "429 later",
    "503",
    "dropped before",
    "sent twice on the way",
)
#: Those that clients wait for in vain.
SLOW_FAULTS = ("applied, no answer in time", "applied, slow drip")
LATER = {"Retry-After": "1"}


@dataclass
class System:
    """One system.

    :param fault: one of :data:`FAULTS`.
    :param applied: how many requests of the sender it has applied.
    :param sent: how many writes it got.
    """

    fault: str = "none"
    applied: int = 0
    sent: int = 0
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Have the records of others."""

    def get(self, path: str, query: Mapping[str, str]) -> Reply:
        """Answer a GET."""
        raise NotImplementedError

    def write(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Reply:
        """Do what a request asks for, or refuse it."""
        raise NotImplementedError

    def count(self) -> int:
        """How often the write of the row stands in the system: what no answer can hide."""
        raise NotImplementedError


class Helpdesk(System):
    """Tickets in pages of 20, the oldest first. It ignores filters that it does not know, and keeps no key."""

    PAGE = 20

    def __post_init__(self) -> None:
        for number in range(45):
            self.records[str(number)] = {"id": number, "subject": f"Old {number}", "ref": None, "status": "open"}

    def get(self, path: str, query: Mapping[str, str]) -> Reply:
        if path.startswith("/tickets/"):
            ticket = self.records.get(path.split("/")[2])
            return (404, {"error": "not found"}, {}) if ticket is None else (200, ticket, {})
        page, tickets = int(query.get("page", 1)), list(self.records.values())
        shown = tickets[(page - 1) * self.PAGE : page * self.PAGE]
        following = f"/tickets?page={page + 1}" if len(tickets) > page * self.PAGE else None
        return 200, {"tickets": shown, "next_page": following}, {}

    def write(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Reply:
        if method == "POST":
            number = len(self.records)
            self.records[str(number)] = {"id": number, "status": "open", "ref": None, **body}
            return 201, {"id": number}, {}
        ticket = self.records.get(path.split("/")[2])
        if ticket is None:
            return 404, {"error": "not found"}, {}
        ticket.update(body)
        return 200, ticket, {}

    def count(self) -> int:
        return sum(ticket["subject"] == "Kettle" or ticket["status"] == "solved" for ticket in self.records.values())


class Cms(System):
    """Posts by slug. What is absent may not be seen (403), and a slug that is taken is a bad request (400)."""

    OURS = "Kettle"

    def __post_init__(self) -> None:
        self.records["pan"] = {"id": 1, "slug": "pan", "title": "Pan"}

    def get(self, path: str, query: Mapping[str, str]) -> Reply:
        post = self.records.get(path.rsplit("/", 1)[1])
        return (403, {"error": {"message": "Forbidden"}}, {}) if post is None else (200, {"data": post}, {})

    def write(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Reply:
        if method == "POST":
            if body["slug"] in self.records:
                return 400, {"error": {"message": "This attribute must be unique"}}, {}
            self.records[body["slug"]] = {"id": len(self.records) + 1, **body}
            return 201, {"data": self.records[body["slug"]]}, {}
        if self.records.pop(path.rsplit("/", 1)[1], None) is None:
            return 403, {"error": {"message": "Forbidden"}}, {}
        return 204, None, {}

    def count(self) -> int:
        return sum(post["title"] == self.OURS for post in self.records.values())


class CmsWithout(Cms):
    """The same, where what counts is that the old post is gone."""

    def count(self) -> int:
        return int("pan" not in self.records)


class TakenCms(Cms):
    """The same, where a person has taken the slug."""

    def __post_init__(self) -> None:
        self.records["kettle"] = {"id": 1, "slug": "kettle", "title": "A post of Ann's"}


class Store(System):
    """Records with versions. It checks preconditions (412), and says 409 while it is busy with a record."""

    OURS = 7

    def __post_init__(self) -> None:
        self.records["pan"] = {"value": 1, "etag": '"1"'}

    def get(self, path: str, query: Mapping[str, str]) -> Reply:
        record = self.records.get(path.rsplit("/", 1)[1])
        return (404, None, {}) if record is None else (200, record, {"ETag": record["etag"]})

    def write(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Reply:
        name = path.rsplit("/", 1)[1]
        there = self.records.get(name)
        if (headers.get("If-None-Match") == "*" and there) or (
            headers.get("If-Match") and (there is None or there["etag"] != headers["If-Match"])
        ):
            return 412, {"error": "precondition failed"}, {}
        if method == "PATCH" and there is None:
            return 204, None, {}  # it takes the request, and does nothing
        self.records[name] = {**(there or {}), **body, "etag": f'"{len(json.dumps(self.records))}"'}
        return 200, self.records[name], {}

    def count(self) -> int:
        return sum(record["value"] == self.OURS for record in self.records.values())


class TakenStore(Store):
    """The same, where a person has a record of that name."""

    def __post_init__(self) -> None:
        self.records["kettle"] = {"value": 99, "etag": '"9"'}


class BusyStore(Store):
    """The same, where another request is at the record for a moment."""

    def write(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Reply:
        if self.sent == 1:
            return 409, {"error": "the record is locked"}, LATER
        return super().write(method, path, body, headers)


class _Handler(BaseHTTPRequestHandler):
    system: System
    lock: threading.Lock
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        with self.lock:
            reply = self.system.get(url.path, {name: values[0] for name, values in parse_qs(url.query).items()})
        self._answer(reply)

    def _write(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        with self.lock:
            self.system.sent += 1
            fault = self._fault()
            if fault in ("429 later", "503", "dropped before"):
                reply: Reply | None = None
            else:
                reply = self._apply(body)
                if fault == "sent twice on the way":
                    reply = self._apply(body, again=True)
        self._answer(self._changed(reply, fault), drip=fault == "applied, slow drip")

    do_POST = do_PUT = do_PATCH = do_DELETE = _write  # noqa: N815  the names of the base class

    def _fault(self) -> str:
        each = self.system.fault.endswith(" each time")
        return self.system.fault.removesuffix(" each time") if each or self.system.sent == 1 else "none"

    def _apply(self, body: Any, *, again: bool = False) -> Reply:
        reply = self.system.write(self.command, urlsplit(self.path).path, body, dict(self.headers))
        if 200 <= reply[0] < 300 and not again:
            self.system.applied += 1
        return reply

    def _changed(self, reply: Reply | None, fault: str) -> Reply | None:
        """What the sender gets."""
        if "dropped" in fault:
            return None
        if fault == "applied, no answer in time":
            time.sleep(PATIENCE * 3)
            return None
        words = fault.split()
        status = next((int(word) for word in words if word.isdigit()), None)
        if status is None:
            return reply
        return status, {"error": "from the gateway"}, LATER if words[-1] == "later" else {}

    def _answer(self, reply: Reply | None, *, drip: bool = False) -> None:
        self.close_connection = True
        if reply is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, body, headers = reply
        content = b"" if body is None else json.dumps(body).encode()
        if drip:
            with suppress(OSError):
                for byte in b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}":
                    self.wfile.write(bytes([byte]))
                    time.sleep(PATIENCE / 4)
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients give up here."""


@contextmanager
def serving(system: System) -> Iterator[int]:
    """Serve a system; yields its port."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"system": system, "lock": threading.Lock()}))
    thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
