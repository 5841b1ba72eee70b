"""`airflow aihandoff webhooks serve`, as a process of its own, on a real ledger."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx
import psycopg
import pytest

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import Disposition
from airflow_provider_aihandoff.web.bounded_server import HEAD_TIMEOUT, MAX_CONNECTIONS
from tests.airflow_compat import get_parser
from tests.factories import job_spec, submit
from tests.unit.core.webhooks.signing import OTHER_SECRET, SECRET, signed
from tests.waiting import until

BODY = b'{"type": "response.completed", "data": {"id": "resp_of_the_tests"}}'
JSON = {"Content-Type": "application/json"}
#: What `PROGRAM` is, of the Python that runs the tests.
COMMAND = (
    [Path(sys.executable).with_name("airflow"), "aihandoff"]
    if PROGRAM.startswith("airflow")
    else [sys.executable, "-m", "airflow_provider_aihandoff"]
)

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
            [*COMMAND, "webhooks", "serve", "--port", "0", *words],
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
    assert f"{PROGRAM} db upgrade" in refusal(AIRFLOW_CONN_AIHANDOFF_LEDGER=empty)
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


def listens(url: SplitResult) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex((url.hostname, url.port)) == 0


def test_the_receiver_finishes_a_delivery_that_has_begun_before_it_stops(start: Start, ledger: Ledger) -> None:
    process = start()
    url = urlsplit(address(process))
    headers = {**JSON, **signed(BODY), "Host": url.netloc, "Content-Length": str(len(BODY)), "Expect": "100-continue"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    with socket.create_connection((url.hostname, url.port), timeout=60) as connection:
        connection.sendall(f"POST {url.path} HTTP/1.1\r\n{head}\r\n".encode() + BODY[:5])
        assert connection.recv(100).startswith(b"HTTP/1.1 100"), "it reads the body by now"
        process.terminate()
        until(lambda: not listens(url))
        connection.sendall(BODY[5:])
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert process.wait(timeout=60) == 0
    assert ledger.inbox.read("wh_1").deliveries == 1


async def deliver_all(url: str, numbers: Iterable[int], answered: Callable[[int, int], None]) -> None:
    """Deliver webhooks at once; ``answered`` is called with the number and the status of each that is answered."""

    async def send(number: int) -> None:
        event = {"type": "response.completed", "data": {"id": f"resp_{number}"}}
        body = json.dumps(event).encode()
        try:
            answer = await client.post(url, content=body, headers={**JSON, **signed(body, webhook_id=f"wh_{number}")})
        except httpx.TransportError:
            return
        assert answer.status_code != 503 or answer.headers["Retry-After"]
        answered(number, answer.status_code)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as client:
        await asyncio.gather(*(send(number) for number in numbers))


def kill(process: subprocess.Popen[str], conninfo: Mapping[str, Any]) -> None:
    process.kill()


def break_connections(process: subprocess.Popen[str], conninfo: Mapping[str, Any]) -> None:
    with psycopg.connect(**conninfo, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'aihandoff'"
        )


@pytest.mark.timeout(300)  # two receivers start
@pytest.mark.parametrize("strike", [kill, break_connections])
def test_webhooks_that_come_at_once_are_in_the_inbox_if_they_were_answered_and_each_counts_once(
    start: Start, conninfo: dict[str, Any], strike: Callable[[subprocess.Popen[str], Mapping[str, Any]], None]
) -> None:
    many, statuses = 80, dict[int, int]()
    with Ledger(conninfo) as ledger:
        jobs = [submit(ledger, job_spec(job_key=f"note:{n}"), f"resp_{n}").job_id for n in range(many)]
    process = start()

    def answered(number: int, status: int) -> None:
        statuses[number] = status
        if len(statuses) == many // 8:
            strike(process, conninfo)

    asyncio.run(deliver_all(address(process), range(many), answered))
    taken = {f"wh_{number}" for number, status in statuses.items() if status == 200}
    assert set(statuses.values()) <= {200, 503}
    with Ledger(conninfo) as ledger:
        assert taken <= {entry.webhook_id for entry in ledger.inbox.entries(limit=many)}
        process = start()
        again = dict[int, int]()
        asyncio.run(deliver_all(address(process), range(many), again.__setitem__))
        assert again == dict.fromkeys(range(many), 200)
        entries = ledger.inbox.entries(limit=2 * many)
        assert {entry.disposition for entry in entries} == {Disposition.APPLIED}
        assert len(entries) == many
        assert all(entry.deliveries == 2 for entry in entries if entry.webhook_id in taken)
        for job_id in jobs:
            record = ledger.record(job_id)
            assert [line.event for line in record.events].count("response ended") == 1
            assert first_break(record.events, record.job) is None


HEALTH = b"GET /aihandoff/health HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST /aihandoff/webhooks/openai/openai_default HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@contextmanager
def strangers(url: str, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """So many connections, each of which sends this and then nothing."""
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)))
            connection.sendall(sent)
            opened.append(connection)
        yield opened


def deliver(url: str) -> int:
    with httpx.Client(trust_env=False, timeout=60) as client:
        return client.post(url, content=BODY, headers={**JSON, **signed(BODY)}).status_code


def seconds_until_closed(connection: socket.socket, drip: bytes = b"") -> float:
    """How long the server keeps a connection that gets one more byte now and then."""
    began = time.monotonic()
    connection.settimeout(0.2)
    while time.monotonic() - began < 60:
        try:
            if drip:
                connection.sendall(drip)
            if connection.recv(1000) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


@pytest.mark.parametrize(
    "sent",
    [b"", HEAD, HEAD + b"Content-Length: 60000\r\n\r\n{", HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"],
    ids=["nothing", "half a head", "half a body", "a chunk"],
)
def test_connections_that_send_no_whole_request_keep_no_delivery_out(start: Start, ledger: Ledger, sent: bytes) -> None:
    process = start()
    url = address(process)
    with strangers(url, 2 * MAX_CONNECTIONS + 200, sent):
        assert deliver(url) == 200
        with httpx.Client(trust_env=False) as client:
            assert client.get(url.partition("/webhooks")[0] + "/health").status_code == 200
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in said) == (0, False)


@pytest.mark.parametrize("files", [256, 1024])
def test_many_connections_do_not_run_out_of_open_files(start: Start, ledger: Ledger, files: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        process = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    url = address(process)
    with strangers(url, MAX_CONNECTIONS + 200, b""):
        assert deliver(url) == 200
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert "Too many open files" not in said


@pytest.mark.parametrize(
    ("sent", "drip"),
    [(b"", b""), (HEAD, b""), (HEAD, b"X: y\r\n"), (HEALTH + b"G", b"E")],
)
def test_a_connection_that_is_slow_to_send_a_head_is_closed(
    start: Start, ledger: Ledger, sent: bytes, drip: bytes
) -> None:
    url = address(start())
    with strangers(url, 1, sent) as (connection,):
        assert seconds_until_closed(connection, drip) < 2 * HEAD_TIMEOUT + 3


def test_a_connection_that_does_not_begin_its_tls_handshake_is_closed(
    start: Start, ledger: Ledger, tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path)
    url = address(start("--ssl-certfile", str(certificate), "--ssl-keyfile", str(certificate)))
    with strangers(url, 1, b"") as (connection,):
        assert seconds_until_closed(connection) < 10
    with httpx.Client(trust_env=False, verify=False) as client:  # noqa: S501 - it is the certificate of this test
        assert client.post(url, content=BODY, headers={**JSON, **signed(BODY)}).status_code == 200


def test_a_client_that_keeps_its_connection_is_served_again(start: Start, ledger: Ledger) -> None:
    url = address(start())
    with httpx.Client(trust_env=False) as client:
        for _ in range(3):
            assert client.post(url, content=BODY, headers={**JSON, **signed(BODY)}).status_code == 200
            time.sleep(HEAD_TIMEOUT / 2)


def self_signed(folder: Path) -> Path:
    """A file with a key and a certificate for it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now)
    certificate = builder.not_valid_after(now + timedelta(days=1)).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file = folder / "receiver.pem"
    file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + certificate.public_bytes(pem))
    return file
