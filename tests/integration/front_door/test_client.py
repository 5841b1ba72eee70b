"""The client of the package, over HTTP to an API server in a process of its own, which is killed and comes back."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from airflow.sdk import DAG

from airflow_provider_aihandoff.client import ApiError, Client, JobRequest, WaitTimeout
from airflow_provider_aihandoff.core.ledger import Ledger
from tests.factories import TEST, draft, job_spec
from tests.integration.front_door.conftest import Serve, runs
from tests.integration.web.conftest import Login
from tests.waiting import until

pytestmark = pytest.mark.timeout(900)

PAGE = Path(__file__).parents[3] / "docs" / "client.md"
KETTLE = {"slug": "kettle"}
#: Seconds for an API server to start, on a machine that is busy.
STARTED = 120.0
HEALTH = "/aihandoff/static/icon.svg"

#: Serves Airflow; and where a point is named, dies the first time that it is reached.
SERVE = """
import os, signal, sys
import uvicorn
from airflow.api_fastapi.app import create_app
from airflow_provider_aihandoff.core import crashpoints

port, dies_at = int(sys.argv[1]), sys.argv[2]
crashpoints.arm(lambda point: os.kill(os.getpid(), signal.SIGKILL) if point == dies_at else None)
uvicorn.run(create_app(apps="core"), host="127.0.0.1", port=port, log_level="warning")
"""


class Server:
    """Airflow's API server, always at the same address."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, dies_at: str = "") -> None:
        with self._log.open("ab") as sink:
            command = [sys.executable, "-c", SERVE, str(self._port), dies_at]
            self._process = subprocess.Popen(command, stdout=sink, stderr=sink, env=dict(os.environ))
        until(self._answers, STARTED)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    @property
    def is_dead(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _answers(self) -> bool:
        assert not self.is_dead, self._log.read_text()[-3_000:]
        with suppress(httpx.TransportError):
            return httpx.get(self.address + HEALTH, timeout=10).is_success
        return False


@pytest.fixture
def server(notes: DAG, login: Login, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "api-server.log")
    yield server
    server.kill()


def token_of(login: Login, name: str) -> str:
    return login(name, bearer=True).headers["Authorization"].removeprefix("Bearer ")


Connect = Callable[..., Client]


@pytest.fixture
def connect(login: Login) -> Iterator[Connect]:
    opened: list[Client] = []

    def open_client(address: str, name: str = "bob", **options: Any) -> Client:
        opened.append(Client(address, token=token_of(login, name), trust_env=False, **options))
        return opened[-1]

    yield open_client
    for each in opened:
        each.close()


class InThread(threading.Thread):
    """A call that blocks, and what came of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001  raised again where the result is asked for
            self._error = error

    def result(self) -> Any:
        self.join(STARTED)
        assert not self.is_alive()
        if self._error is not None:
            raise self._error
        return self._result


def test_a_server_that_dies_twice_in_the_middle_of_a_request_makes_one_job(
    server: Server, connect: Connect, ledger: Ledger
) -> None:
    server.start(dies_at="request.record: before commit")
    client = connect(server.address, patience=2 * STARTED)
    asked = InThread(lambda: client.submit("note", KETTLE, idempotency_key="click"))
    until(lambda: server.is_dead, STARTED)
    server.start(dies_at="request.record: after commit")
    until(lambda: server.is_dead, STARTED)
    server.start()
    request = asked.result()
    assert client.submit("note", KETTLE, idempotency_key="click").request_id == request.request_id
    assert runs() == [("notes", f"request__{request.request_id}", "bob")]


def test_waiting_and_following_go_on_over_the_death_of_the_server(
    server: Server, connect: Connect, ledger: Ledger
) -> None:
    server.start()
    client = connect(server.address, patience=2 * STARTED)
    request = client.submit("note", KETTLE, key="kettle")
    with pytest.raises(WaitTimeout):
        client.wait(request, 1)
    states: list[str] = []

    def follow() -> None:
        states.extend(event.request.state for event in client.follow(request) if event.request is not None)

    waiting, following = InThread(lambda: client.wait(request, 600)), InThread(follow)
    until(lambda: states == ["queued"])
    server.kill()
    job = draft(ledger, job_spec(job_type="note", job_key="kettle"))
    server.start()
    until(lambda: states[-1] == "in review")
    ledger.cancels.cancel(job.job_id, actor=TEST, reason="it is a test")
    assert (waiting.result().state, waiting.result().job_id) == ("stopped", job.job_id)
    following.result()
    assert states == ["queued", "in review", "stopped"]
    assert [event.request.state for event in client.follow(request) if event.request] == ["stopped"]


def test_each_call_is_that_of_the_api(serve: Serve, notes: DAG, connect: Connect, ledger: Ledger) -> None:
    address = serve()
    bob, shop = connect(address), connect(address, "shop")
    (declared,) = bob.job_types()
    assert (declared.type, declared.dag_id, declared.input_schema["type"]) == ("note", "notes", "object")
    request = shop.submit("note", KETTLE, key="kettle", permissions={"cms": "write"}, requested_for="eve")
    assert (request.requested_by, request.sent_by, request.may_cancel) == ("eve", "shop", True)
    assert shop.get(request.request_id) == shop.get(str(request.request_id)) == shop.get(request)
    assert shop.cancel(request).state == shop.cancel(request).state == "stopped"
    wrongs: dict[str, Callable[[], object]] = {
        "key-used": lambda: shop.submit("note", {"slug": "pot"}, key="kettle"),
        "invalid-request": lambda: bob.submit("note", {"slug": 1}, key="pot"),
        "request-not-found": lambda: bob.get(uuid4()),
    }
    for problem, wrong in wrongs.items():
        with pytest.raises(ApiError) as caught:
            wrong()
        assert caught.value.type == problem
        assert caught.value.detail


def test_the_example_of_the_page_runs(serve: Serve, notes: DAG, login: Login, ledger: Ledger) -> None:
    address = serve()
    example = re.findall(r"```python\n(from airflow_provider_aihandoff.client .*?)```", PAGE.read_text(), re.DOTALL)[0]
    ended: list[JobRequest] = []
    token = token_of(login, "bob")
    program = example.replace('"product-note"', '"note"').replace("https://airflow.example.com", address)
    assert program != example

    def run() -> None:
        scope: dict[str, Any] = {"token": token, "print": lambda said: None}
        exec(program, scope)  # noqa: S102  our own page
        ended.append(scope["request"])

    running = InThread(run)
    until(lambda: len(runs()) == 1, STARTED)
    job = draft(ledger, job_spec(job_type="note", job_key="kettle"))
    ledger.cancels.cancel(job.job_id, actor=TEST, reason="it is a test")
    running.result()
    assert ended[0].key == "kettle"
