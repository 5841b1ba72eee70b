"""`airflow aihandoff webhooks serve`, as a process of its own, on a real ledger."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from airflow.cli.cli_parser import get_parser

from airflow_provider_aihandoff.core.ledger import Ledger
from tests.unit.core.webhooks.signing import OTHER_SECRET, SECRET, signed

BODY = b'{"type": "response.completed", "data": {"id": "resp_of_the_tests"}}'
JSON = {"Content-Type": "application/json"}
AIRFLOW = Path(sys.executable).with_name("airflow")

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def environment(conninfo: dict[str, Any], tmp_path: Path) -> dict[str, str]:
    ledger = {
        "conn_type": "postgres",
        "host": conninfo["host"],
        "port": conninfo["port"],
        "login": conninfo["user"],
        "password": conninfo.get("password", ""),
        "schema": conninfo["dbname"],
    }
    return {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW_CONN_AIHANDOFF_LEDGER": json.dumps(ledger),
        **openai([SECRET]),
    }


def openai(secrets: Any) -> dict[str, str]:
    connection = {"conn_type": "openai", "password": "sk-of-the-tests", "extra": {"webhook_secrets": secrets}}
    return {"AIRFLOW_CONN_OPENAI_DEFAULT": json.dumps(connection)}


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Starts the command. What it logs goes to the same place as what it prints."""
    running: list[subprocess.Popen[str]] = []

    def run(*words: str, **changes: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [AIRFLOW, "aihandoff", "webhooks", "serve", "--port", "0", *words],
            env={**environment, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    """Where it says that it listens."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Listening for webhooks on "):
            return line.split()[-1]
    raise AssertionError("it did not start")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_receiver_serves_at_the_path_of_the_api_server_logs_and_stops_cleanly(
    start: Start, ledger: Ledger, number: signal.Signals
) -> None:
    process = start()
    url = address(process)
    assert url.endswith("/aihandoff/webhooks/openai/openai_default")
    with httpx.Client(trust_env=False) as client:
        answer = client.post(url, content=BODY, headers={**JSON, **signed(BODY)})
        assert (answer.status_code, answer.json()) == (200, {"disposition": "quarantined"})
        for _ in range(3):
            forged = client.post(url, content=BODY, headers={**JSON, **signed(BODY, OTHER_SECRET)})
            assert forged.status_code == 400
        health = client.get(url.partition("/webhooks")[0] + "/health")
        assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert ledger.inbox.read("wh_1").deliveries == 1
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert said.count("Answered a webhook for openai_default with 400") == 1
    assert "Traceback" not in said
    for secret in (SECRET.removeprefix("whsec_"), signed(BODY)["webhook-signature"], "resp_of_the_tests"):
        assert secret not in said


def test_a_connection_that_is_given_replaces_the_configured_ones(start: Start, ledger: Ledger) -> None:
    connection = openai([OTHER_SECRET])["AIRFLOW_CONN_OPENAI_DEFAULT"]
    process = start("--openai-conn-id", "openai_eu", AIRFLOW_CONN_OPENAI_EU=connection)
    url = address(process)
    assert url.endswith("/openai_eu")
    with httpx.Client(trust_env=False) as client:
        assert client.post(url, content=BODY, headers={**JSON, **signed(BODY, OTHER_SECRET)}).status_code == 200
        other = url.replace("openai_eu", "openai_default")
        assert client.post(other, content=BODY, headers={**JSON, **signed(BODY)}).status_code == 404


@pytest.fixture
def refusal(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Starts the command in this process, and returns why it does not start."""

    def run(*words: str, **changes: str) -> str:
        for name, value in {**environment, "_AIRFLOW_PROCESS_CONTEXT": "", **changes}.items():
            monkeypatch.setenv(name, value)
        args = get_parser().parse_args(["aihandoff", "webhooks", "serve", "--port", "0", *words])
        with pytest.raises(SystemExit) as caught:
            args.func(args)
        return str(caught.value)

    return run


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"AIRFLOW_CONN_OPENAI_DEFAULT": ""}, "'openai_default' does not exist"),
        (openai([]), "'openai_default', webhook_secrets in its extra: there is no webhook secret"),
        (openai([SECRET, "whsec_!!!!"]), "webhook secret 2 of 2 is not base64"),
        ({"AIRFLOW_CONN_AIHANDOFF_LEDGER": ""}, "the connection of the ledger cannot be used"),
        ({"AIRFLOW__AIHANDOFF__WEBHOOK_CONN_IDS": " "}, "webhook_conn_ids"),
    ],
)
def test_the_receiver_does_not_start_where_it_could_not_receive(
    refusal: Callable[..., str], changes: dict[str, str], said: str
) -> None:
    why = refusal(**changes)
    assert said in why
    assert "\n" not in why
    assert "!!!!" not in why


def test_the_receiver_does_not_start_where_one_of_several_connections_could_not_receive(
    refusal: Callable[..., str],
) -> None:
    assert "'missing' does not exist" in refusal("--openai-conn-id", "openai_default", "--openai-conn-id", "missing")


def test_the_receiver_does_not_start_without_the_schema_of_the_ledger(
    refusal: Callable[..., str], environment: dict[str, str], empty_conninfo: dict[str, Any]
) -> None:
    connection = json.loads(environment["AIRFLOW_CONN_AIHANDOFF_LEDGER"])
    empty = json.dumps({**connection, "schema": empty_conninfo["dbname"]})
    assert "airflow aihandoff db upgrade" in refusal(AIRFLOW_CONN_AIHANDOFF_LEDGER=empty)
    away = json.dumps({**connection, "port": 1})
    assert "the ledger's database gave no connection" in refusal(AIRFLOW_CONN_AIHANDOFF_LEDGER=away)


def test_the_receiver_does_not_start_where_it_cannot_listen(refusal: Callable[..., str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Address already in use" in refusal("--port", str(taken.getsockname()[1]))
    assert "No such file" in refusal("--ssl-certfile", str(tmp_path / "missing.pem"))


def test_a_receiver_that_does_not_start_says_why_in_one_line_and_exits_with_1(start: Start) -> None:
    process = start(**openai(["whsec_!!!!"]))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len([line for line in out.splitlines() if line.startswith("aihandoff:")]) == 1
    assert "Traceback" not in out


def test_the_receiver_finishes_a_delivery_that_has_begun_before_it_stops(start: Start, ledger: Ledger) -> None:
    process = start()
    url = address(process)

    def slowly() -> Iterator[bytes]:
        yield BODY[:5]
        process.terminate()
        time.sleep(0.5)
        yield BODY[5:]

    with httpx.Client(trust_env=False) as client:
        answer = client.post(url, content=slowly(), headers={**JSON, **signed(BODY)})
    assert answer.status_code == 200
    assert process.wait(timeout=60) == 0
    assert ledger.inbox.read("wh_1").deliveries == 1
