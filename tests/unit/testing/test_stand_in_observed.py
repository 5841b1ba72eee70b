"""What a test sees of the stand-in: its routes for that, its state file, its process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from openai import APIStatusError, NotFoundError, OpenAI
from openai.types.responses import Response

import airflow_provider_aihandoff.testing as public
from airflow_provider_aihandoff.testing import OpenAIStandIn, RunningServer

from .conftest import Clock, ask

Create = Callable[..., Response]


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The stand-in as a process of its own, and its base URL."""
    command = [sys.executable, "-m", "airflow_provider_aihandoff.testing", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            yield started, started.stdout.readline().split()[-1]
        finally:
            started.kill()


def test_the_package_exports_what_it_says() -> None:
    assert [name for name in public.__all__ if not hasattr(public, name)] == []


def test_every_answer_says_that_this_is_not_openai(server: RunningServer) -> None:
    for path in ("/v1/responses/resp_1", "/standin/health", "/nowhere"):
        headers = ask(server, "GET", path).headers
        assert "not OpenAI" in headers["x-stand-in"]
        assert headers["x-request-id"].startswith("req_")


def test_health_says_that_this_is_not_openai(server: RunningServer) -> None:
    answer = ask(server, "GET", "/standin/health")
    assert (answer.status, answer.json["status"]) == (200, "ok")
    assert "not OpenAI" in answer.json["notice"]


def test_responses_are_listed_with_the_requests_for_them(create: Create, client: OpenAI, server: RunningServer) -> None:
    first, second = create(metadata={"job": "1"}), create()
    for _ in range(3):
        client.responses.retrieve(first.id)
    client.responses.cancel(second.id)
    with pytest.raises(APIStatusError):
        create("[[standin: create=500]]")

    listed = ask(server, "GET", "/standin/responses", key=None).json

    assert (listed["creates"], listed["retrieves"], listed["cancels"]) == (3, 3, 1)
    assert [(r["response"]["id"], r["retrieves"], r["cancels"]) for r in listed["responses"]] == [
        (first.id, 3, 0),
        (second.id, 0, 1),
    ]
    assert listed["responses"][0]["response"]["metadata"] == {"job": "1"}
    assert listed["responses"][1]["response"]["status"] == "cancelled"


def test_the_report_of_responses_does_not_count_as_a_retrieve(
    create: Create, server: RunningServer, stand_in: OpenAIStandIn
) -> None:
    create("[[standin: retrieve=404]]")
    ask(server, "GET", "/standin/responses")
    assert stand_in.responses().retrieves == 0


def test_requests_are_listed_in_order(
    create: Create, client: OpenAI, server: RunningServer, stand_in: OpenAIStandIn
) -> None:
    response_id = create().id
    client.responses.retrieve(response_id)
    client.responses.cancel(response_id)
    client.responses.delete(response_id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(response_id)
    ask(server, "POST", "/v1/responses", {})

    path = f"/v1/responses/{response_id}"
    listed = ask(server, "GET", "/standin/requests", key=None).json
    assert [(r["method"], r["path"], r["status"], r["response_id"]) for r in listed] == [
        ("POST", "/v1/responses", 200, response_id),
        ("GET", path, 200, response_id),
        ("POST", f"{path}/cancel", 200, response_id),
        ("DELETE", path, 200, response_id),
        ("GET", path, 404, response_id),
        ("POST", "/v1/responses", 400, None),
    ]
    assert [request.model_dump() for request in stand_in.requests()] == listed


def test_a_request_is_in_the_list_before_its_answer_leaves(create: Create, stand_in: OpenAIStandIn) -> None:
    for number in range(1, 50):
        create()
        assert len(stand_in.requests()) == number


def test_reset_forgets_everything(create: Create, client: OpenAI, server: RunningServer) -> None:
    with pytest.raises(APIStatusError):
        create("[[standin: create=500]]")
    response_id = create().id
    assert ask(server, "POST", "/standin/reset", key=None).status == 200
    assert ask(server, "GET", "/standin/responses").json == {
        "creates": 0,
        "retrieves": 0,
        "cancels": 0,
        "responses": [],
    }
    with pytest.raises(NotFoundError):
        client.responses.retrieve(response_id)
    with pytest.raises(APIStatusError):
        create("[[standin: create=500]]")


def test_many_clients_at_once_each_get_their_own_response(server: RunningServer, stand_in: OpenAIStandIn) -> None:
    def create(number: int) -> str:
        body = {"model": "m", "input": f"[[standin: create=500 id=shared times=20]] {number}", "background": True}
        answer = ask(server, "POST", "/v1/responses", body)
        return str(answer.json["id"]) if answer.status == 200 else ""

    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(create, range(100)))
    assert ids.count("") == 20
    assert len(set(ids)) == 81
    assert len(stand_in.requests()) == 100


class TestStateFile:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "state.jsonl"

    def test_responses_and_requests_are_there_after_a_restart(self, path: Path, clock: Clock) -> None:
        before = OpenAIStandIn(state_file=path, clock=clock)
        with before.serve() as server, OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
            kept = client.responses.create(model="m", input="[[standin: retrieve=500]]", background=True)
            with pytest.raises(APIStatusError):
                client.responses.retrieve(kept.id)
            cancelled = client.responses.create(model="m", input="b", background=True)
            client.responses.cancel(cancelled.id)
            deleted = client.responses.create(model="m", input="c", background=True)
            client.responses.delete(deleted.id)

        after = OpenAIStandIn(state_file=path, clock=clock)
        assert after.responses() == before.responses()
        assert after.requests() == before.requests()
        clock.advance(2)
        with after.serve() as server, OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
            assert client.responses.retrieve(kept.id).output_text
            assert client.responses.retrieve(cancelled.id).status == "cancelled"
            with pytest.raises(NotFoundError):
                client.responses.retrieve(deleted.id)

    def test_a_reset_outlives_a_restart(self, path: Path) -> None:
        before = OpenAIStandIn(state_file=path)
        with before.serve() as server:
            ask(server, "POST", "/v1/responses", {"model": "m", "input": "i"})
        before.reset()
        assert OpenAIStandIn(state_file=path).responses().responses == []

    def test_a_line_that_a_kill_cut_short_is_dropped(self, path: Path) -> None:
        with OpenAIStandIn(state_file=path).serve() as server:
            ask(server, "POST", "/v1/responses", {"model": "m", "input": "i"})
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"event": "acce')
        assert len(OpenAIStandIn(state_file=path).responses().responses) == 1
        assert path.read_bytes() == whole

    def test_a_file_of_something_else_is_refused(self, path: Path) -> None:
        path.write_text(json.dumps({"event": "unheard of"}) + "\n")
        with pytest.raises(ValueError, match="Not an event"):
            OpenAIStandIn(state_file=path)


class TestServing:
    def test_the_stand_in_can_be_served_again_on_the_same_port(self, clock: Clock) -> None:
        stand_in = OpenAIStandIn(clock=clock, delay_seconds=0)
        with stand_in.serve() as server:
            created = ask(server, "POST", "/v1/responses", {"model": "m", "input": "i", "background": True}).json
        with stand_in.serve(port=server.port) as again:
            assert again == server
            assert ask(again, "GET", f"/v1/responses/{created['id']}").json["status"] == "completed"

    def test_the_port_of_the_stand_in_is_closed_after_it_was_served(self) -> None:
        with OpenAIStandIn().serve() as server:
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, server.port), timeout=5)

    @pytest.mark.timeout(20)
    def test_a_request_without_an_answer_does_not_delay_the_stop(self) -> None:
        body = json.dumps({"model": "m", "input": "[[standin: create=timeout_after_accept]]"})
        head = f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: {len(body)}"
        with socket.socket() as hanging, OpenAIStandIn().serve() as server:
            hanging.connect((server.host, server.port))
            hanging.sendall(f"{head}\r\n\r\n{body}".encode())
            while not ask(server, "GET", "/standin/requests").json:
                pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, server.port), timeout=5)


class TestProcess:
    def test_a_stand_in_that_was_killed_and_started_again_has_its_responses(self, tmp_path: Path) -> None:
        state = ("--state-file", str(tmp_path / "state.jsonl"), "--delay-seconds", "0")
        with process("--port", "0", *state) as (first, base_url):
            with OpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
                created = client.responses.create(model="m", input="Say hello.", background=True)
            first.send_signal(signal.SIGKILL)
            first.wait()
        port = base_url.rpartition(":")[2].removesuffix("/v1")
        with process("--port", port, *state) as (_, same_url):
            assert same_url == base_url
            with OpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
                assert client.responses.retrieve(created.id).output_text

    def test_the_stand_in_stops_on_sigterm(self) -> None:
        with process("--port", "0") as (started, base_url):
            with OpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
                client.responses.create(model="m", input="i")
            started.terminate()
            assert started.wait(20) in {0, -signal.SIGTERM}

    def test_help_says_that_this_is_not_openai_and_lists_the_faults(self) -> None:
        command = [sys.executable, "-m", "airflow_provider_aihandoff.testing", "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "120"})
        assert "This is NOT OpenAI" in shown.stdout
        assert "complete_after_cancel" in shown.stdout
        for flag in (
            "--host",
            "--port",
            "--delay-seconds",
            "--cancel-finished-status",
            "--state-file",
            "--webhook-url",
            "--webhook-secret",
            "--log-level",
        ):
            assert flag in shown.stdout

    def test_a_delay_that_is_not_a_time_is_refused(self) -> None:
        command = [sys.executable, "-m", "airflow_provider_aihandoff.testing", "--delay-seconds", "-1"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 2
