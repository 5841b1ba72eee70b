"""The HTTP target of the attempts, which misbehaves by chance, and writes down every change before it answers.

``python -m chaos.target --port 8000 --log target.jsonl`` runs it alone. It may be killed at any time: what it has
written is in its log, from which it goes on. :mod:`chaos.effects` says what it takes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

#: What it does by chance, or where a request asks for it, and how it is counted:
#:
#: - ``busy``: answers 429 with ``Retry-After: 0``, having written nothing;
#: - ``outage``: answers 502, 503 or 504, having written nothing;
#: - ``refuse``: answers 422, having written nothing;
#: - ``drop``: writes, and closes the connection without an answer;
#: - ``error``: writes, and answers 500;
#: - ``gateway``: writes, and answers 502, 503 or 504;
#: - ``limited``: writes, and answers 429 with ``Retry-After: 0``;
#: - ``later``: writes, and answers 503 with ``Retry-After: 0``;
#: - ``slow``: writes, and answers after the client has given up;
#: - ``late``: writes after the client has given up;
#: - ``again``: gets the same request twice, as some proxies send it, and answers the second one;
#: - ``hidden``: shows what it has written only after a while.
FAULTS = (
    "busy",
    "outage",
    "refuse",
    "drop",
    "error",
    "gateway",
    "limited",
    "later",
    "slow",
    "late",
    "again",
    "hidden",
)

#: The collection whose records were there before: each name has one.
DRAFTS = "drafts"

_GATEWAY = (502, 503, 504)

#: Answers that say that nothing was written, from a target that has written.
_LIES = ("limited", "later")


def _befalls(fault: str, variant: str, method: str) -> bool:
    """Whether a sender can do anything against a fault.

    A request is sent again after a lie, or by a proxy. That is one write only where the target can recognise it: by its
    key, or by what it names; or, after a lie, where the target can be asked.
    """
    tells = variant == "idempotent" or method in ("PUT", "DELETE")
    if fault == "again":
        return tells
    return fault not in _LIES or tells or variant != "neither"


@dataclass(frozen=True)
class Change:
    """One line of the log: a record was created, or taken away.

    :param name: the name of the record: the key of the work.
    :param key: the effect key that the request came with, if any.
    :param at: seconds since the epoch.
    :param about: the id of another record that it names.
    """

    variant: str
    collection: str
    do: Literal["create", "remove"]
    record: str
    name: str
    key: str | None
    at: float
    about: str | None = None


class Target:
    """Its records, in memory and in the log. Safe to use from any thread.

    :param faults: the chance of each of :data:`FAULTS`, from 0 to 1.
    :param patience: how long clients wait, in seconds.
    :param hidden_for: for how many seconds a hidden write is not shown.
    """

    def __init__(
        self,
        log: Path,
        *,
        faults: Mapping[str, float] | None = None,
        seed: int = 0,
        patience: float = 0.5,
        hidden_for: float = 0.2,
    ) -> None:
        self.faults = dict(faults or {})
        if unknown := self.faults.keys() - set(FAULTS):
            raise ValueError(f"no such faults: {sorted(unknown)}")
        self.patience = patience
        self.hidden_for = hidden_for
        self.changes = list(read_log(log))
        self._random = random.Random(f"{seed} {len(self.changes)}")  # noqa: S311 - chance, not a secret
        self._answers: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {}
        self._made: dict[str, Change] = {}
        self._there: dict[tuple[str, str, str], str] = {}
        self._removed: set[tuple[str, str, str]] = set()
        self._with_key: dict[tuple[str, str], list[str]] = {}
        for change in self.changes:
            self._learn(change)
        self._seen_from: dict[str, float] = {}
        self._asked_for: set[tuple[str, ...]] = set()
        self._lock = threading.Lock()
        _drop_torn_line(log)
        self._descriptor, self._struck = (
            os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) for file in (log, faults_of(log))
        )

    def close(self) -> None:
        """Close the log."""
        os.close(self._descriptor)
        os.close(self._struck)

    def strike(self, variant: str, method: str) -> str | None:
        """Draw a fault for a write, and count it."""
        with self._lock:
            drawn = self._random.random()
            for fault, chance in self.faults.items():
                drawn -= chance
                if drawn < 0:
                    if not _befalls(fault, variant, method):
                        return None
                    os.write(self._struck, fault.encode() + b"\n")
                    return fault
        return None

    def choose(self, statuses: Sequence[int]) -> int:
        """One of these, by chance."""
        with self._lock:
            return self._random.choice(statuses)

    def asked_for(self, path: list[str], body: Mapping[str, Any]) -> str | None:
        """The fault that a request asks for; the first one for each record gets it."""
        record = (*path, str(body.get("name")))
        with self._lock:
            if record in self._asked_for:
                return None
            self._asked_for.add(record)
            return body.get("fault")

    def write(
        self, method: str, path: list[str], body: Mapping[str, Any], headers: Mapping[str, str], *, hidden: bool = False
    ) -> tuple[int, dict[str, Any]]:
        """Change something, or refuse to; return the status and the answer."""
        variant, key = path[0], headers.get("Idempotency-Key")
        with self._lock:
            if variant == "idempotent" and key and (variant, key) in self._answers:
                return self._answers[variant, key]
            change = self._change(method, path, body, headers)
            if not isinstance(change, Change):
                return change
            if hidden and key:
                self._seen_from[key] = self._seen_from[change.record] = time.monotonic() + self.hidden_for
            os.write(self._descriptor, json.dumps(asdict(change)).encode() + b"\n")
            self.changes.append(change)
            return self._learn(change)

    def _change(
        self, method: str, path: list[str], body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Change | tuple[int, dict[str, Any]]:
        """What a request changes; or how it is answered where it changes nothing."""
        variant, collection, *rest = path
        key = headers.get("Idempotency-Key")
        match method, rest:
            case "POST", []:
                return self._create(variant, collection, str(body["name"]), key, body)
            case "PUT", [name]:
                if record := self._record(variant, collection, name):
                    return (412, {"error": "it exists"}) if "If-None-Match" in headers else (200, {"id": record})
                return self._create(variant, collection, name, key, body)
            case "DELETE", [name] if collection == DRAFTS:
                there = self._record(variant, collection, name)
                if there is None:
                    return (412 if "If-Match" in headers else 404), {"error": "there is none"}
                return Change(variant, collection, "remove", there, name, key, time.time())
            case ("DELETE", [record]) | ("POST", [record, "removal"]):
                made = self._made.get(record)
                if made is None or (method == "DELETE" and self._there.get(_place(made)) != record):
                    return 404, {"error": "there is none"}
                return Change(variant, collection, "remove", record, made.name, key, time.time())
            case _:
                return 405, {"error": "it takes no such request"}

    def writes_with(self, variant: str, key: str) -> list[dict[str, Any]]:
        """What was written with a key, as far as it is shown."""
        with self._lock:
            if self._seen_from.get(key, 0.0) > time.monotonic():
                return []
            return [{"id": record, "key": key} for record in self._with_key.get((variant, key), [])]

    def draft(self, variant: str, name: str) -> str | None:
        """The record of a draft, as far as it is shown: each name has one, until it is removed."""
        with self._lock:
            first = _first_draft(name)
            hidden = self._seen_from.get(first, 0.0) > time.monotonic()
            return first if hidden else self._record(variant, DRAFTS, name)

    def _record(self, variant: str, collection: str, name: str) -> str | None:
        """The record of this name that is there now."""
        if collection == DRAFTS and (variant, DRAFTS, name) not in self._removed:
            return _first_draft(name)
        return self._there.get((variant, collection, name))

    def _create(self, variant: str, collection: str, name: str, key: str | None, body: Mapping[str, Any]) -> Change:
        record = f"{collection}-{len(self._made) + 1}"
        return Change(variant, collection, "create", record, name, key, time.time(), body.get("about"))

    def _learn(self, change: Change) -> tuple[int, dict[str, Any]]:
        """Take a change in, and return how its request is answered."""
        if change.do == "create":
            self._made[change.record] = change
            self._there[_place(change)] = change.record
        else:
            self._removed.add(_place(change))
            if self._there.get(_place(change)) == change.record:
                del self._there[_place(change)]
        answer = 201 if change.do == "create" else 200, {"id": change.record}
        if change.key:
            self._answers[change.variant, change.key] = answer
            self._with_key.setdefault((change.variant, change.key), []).append(change.record)
        return answer


def _first_draft(name: str) -> str:
    return f"draft-{name}"


def faults_of(log: Path) -> Path:
    """The file next to a log in which each fault is a line."""
    return log.with_suffix(".faults")


def _place(change: Change) -> tuple[str, str, str]:
    return change.variant, change.collection, change.name


def read_log(log: Path) -> Iterator[Change]:
    """The changes of a log. A line that broke off was never answered, and is none."""
    if log.exists():
        for line in log.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n") and line.strip():
                yield Change(**json.loads(line))


def _drop_torn_line(log: Path) -> None:
    if log.exists() and not (content := log.read_bytes()).endswith(b"\n") and content:
        log.write_bytes(content[: content.rfind(b"\n") + 1])


class _Handler(BaseHTTPRequestHandler):
    target: Target
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Say what was written with a key, or whether a draft is there."""
        url = urlsplit(self.path)
        variant, *rest = url.path.strip("/").split("/")
        if rest == ["writes"]:
            (key,) = parse_qs(url.query)["key"]
            self._answer(200, {"writes": self.target.writes_with(variant, key)})
        elif len(rest) == 2 and rest[0] == DRAFTS and (record := self.target.draft(variant, rest[1])):
            self._answer(200, {"id": record})
        else:
            self._answer(404, {"error": "there is none"})

    def _write(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path.strip("/").split("/")
        body = json.loads(raw) if raw.strip() else {}
        fault = self.target.asked_for(path, body) or self.target.strike(path[0], self.command)
        if fault in ("busy", "outage", "refuse"):
            self._answer(*self._said(fault))
            return
        if fault == "late":
            time.sleep(self.target.patience * 1.5)
        headers = {name.title(): value for name, value in self.headers.items()}
        status, answer = self.target.write(self.command, path, body, headers, hidden=fault == "hidden")
        if fault == "again":
            status, answer = self.target.write(self.command, path, body, headers)
        if fault == "slow":
            time.sleep(self.target.patience * 1.5)
        if fault == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault in ("error", "gateway", *_LIES):
            self._answer(*self._said(fault))
        else:
            self._answer(status, answer)

    def _said(self, fault: str) -> tuple[int, Any, Mapping[str, str]]:
        """What the sender gets in the place of an answer."""
        match fault:
            case "refuse":
                return 422, {"error": "no"}, {}
            case "error":
                return 500, {"error": "something broke"}, {}
            case "outage" | "gateway":
                return self.target.choose(_GATEWAY), {"error": "from the gateway"}, {}
            case _:
                return (503 if fault == "later" else 429), {"error": "not now"}, {"Retry-After": "0"}

    def do_POST(self) -> None:
        """Create or remove."""
        self._write()

    def do_PUT(self) -> None:
        """Create."""
        self._write()

    def do_DELETE(self) -> None:
        """Remove."""
        self._write()

    def _answer(self, status: int, answer: Any, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed here."""


@contextmanager
def serving(target: Target, port: int = 0) -> Iterator[str]:
    """Serve a target in threads of this process; yields its URL."""
    server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"target": target}))
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--faults", type=json.loads, default={}, help='chances as JSON: {"drop": 0.05}')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=0.5)
    options = vars(parser.parse_args())
    port = options.pop("port")
    with serving(Target(options.pop("log"), **options), port):
        threading.Event().wait()


if __name__ == "__main__":
    main()
