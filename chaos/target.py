"""The HTTP target of the attempts, which misbehaves by chance, and writes down every change before it answers.

``python -m chaos.target --port 8000 --log target.jsonl`` runs it alone. It may be killed at any time: what it has
written is in its log, from which it goes on. :mod:`chaos.attempts` says what it takes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

#: What it does by chance, or where a request asks for it, and how it is counted:
#:
#: - ``busy``: answers 429 with ``Retry-After: 0``, having written nothing;
#: - ``refuse``: answers 422, having written nothing;
#: - ``drop``: writes, and closes the connection without an answer;
#: - ``error``: writes, and answers 500;
#: - ``slow``: writes, and answers after the client has given up;
#: - ``late``: writes after the client has given up;
#: - ``again``: gets the same request twice, as some proxies send it; only where it can recognise that;
#: - ``hidden``: shows what it has written only after a while.
FAULTS = ("busy", "refuse", "drop", "error", "slow", "late", "again", "hidden")


def _tells(variant: str, method: str) -> bool:
    """Whether the target can recognise that a request is the one before: by its key, or by what it names."""
    return variant == "idempotent" or (variant == "conditional" and method != "POST")


@dataclass(frozen=True)
class Change:
    """One line of the log: a record was created, or taken away.

    :param name: the name of the record: the key of the work.
    :param key: the effect key that the request came with, if any.
    :param at: seconds since the epoch.
    """

    variant: str
    collection: str
    do: Literal["create", "remove"]
    record: str
    name: str
    key: str | None
    at: float


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
                    if fault == "again" and not _tells(variant, method):
                        return None
                    os.write(self._struck, fault.encode() + b"\n")
                    return fault
        return None

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
        variant, collection, *rest = path
        key = headers.get("Idempotency-Key")
        with self._lock:
            if variant == "idempotent" and key and (variant, key) in self._answers:
                return self._answers[variant, key]
            match method, rest:
                case "POST", []:
                    change = self._create(variant, collection, str(body["name"]), key)
                case "PUT", [name]:
                    if headers.get("If-None-Match") == "*" and (variant, collection, name) in self._there:
                        return 412, {"error": "it exists"}
                    change = self._create(variant, collection, name, key)
                case ("DELETE", [record]) | ("POST", [record, "removal"]):
                    made = self._made.get(record)
                    if made is None or (method == "DELETE" and self._there.get(_place(made)) != record):
                        return 404, {"error": "there is none"}
                    change = Change(variant, collection, "remove", record, made.name, key, time.time())
                case _:
                    return 405, {"error": "it takes no such request"}
            if hidden and key:
                self._seen_from[key] = time.monotonic() + self.hidden_for
            os.write(self._descriptor, json.dumps(asdict(change)).encode() + b"\n")
            self.changes.append(change)
            return self._learn(change)

    def writes_with(self, variant: str, key: str) -> list[dict[str, Any]]:
        """What was written with a key, as far as it is shown."""
        with self._lock:
            if self._seen_from.get(key, 0.0) > time.monotonic():
                return []
            return [{"id": record, "key": key} for record in self._with_key.get((variant, key), [])]

    def _create(self, variant: str, collection: str, name: str, key: str | None) -> Change:
        return Change(variant, collection, "create", f"{collection}-{len(self._made) + 1}", name, key, time.time())

    def _learn(self, change: Change) -> tuple[int, dict[str, Any]]:
        """Take a change in, and return how its request is answered."""
        if change.do == "create":
            self._made[change.record] = change
            self._there[_place(change)] = change.record
        elif self._there.get(_place(change)) == change.record:
            del self._there[_place(change)]
        answer = 201 if change.do == "create" else 200, {"id": change.record}
        if change.key:
            self._answers[change.variant, change.key] = answer
            self._with_key.setdefault((change.variant, change.key), []).append(change.record)
        return answer


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
        """Say what was written with a key."""
        url = urlsplit(self.path)
        if url.path.endswith("/writes"):
            (key,) = parse_qs(url.query)["key"]
            self._answer(200, {"writes": self.target.writes_with(url.path.split("/")[1], key)})
        else:
            self._answer(404, {"error": "there is none"})

    def _write(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path.strip("/").split("/")
        body = json.loads(raw) if raw.strip() else {}
        fault = self.target.asked_for(path, body) or self.target.strike(path[0], self.command)
        if fault == "busy":
            self._answer(429, {"error": "not now"}, {"Retry-After": "0"})
            return
        if fault == "refuse":
            self._answer(422, {"error": "no"})
            return
        if fault == "late":
            time.sleep(self.target.patience * 1.5)
        headers = {name.title(): value for name, value in self.headers.items()}
        status, answer = self.target.write(self.command, path, body, headers, hidden=fault == "hidden")
        if fault == "again":
            status, answer = self.target.write(self.command, path, body, headers)
        if fault == "slow":
            time.sleep(self.target.patience * 1.5)
        if fault == "error":
            status, answer = 500, {"error": "something broke"}
        if fault == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._answer(status, answer)

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
