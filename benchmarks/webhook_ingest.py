"""How many webhooks a second are verified, recorded and correlated, over HTTP, in a small ledger and in a large one.

Run it with `.venv/bin/python -m benchmarks.webhook_ingest [jobs in the small ledger] [jobs in the large one]`. The
server is `airflow aihandoff webhooks serve`, in two processes, since Python uses one core for each; PostgreSQL is the
one from the wheel, with its durable defaults. The load comes from this process: webhooks that arrive at once, over many
connections, each of which sends the next one when one is answered; and then webhooks that arrive at a steady rate.
Beside it, in the same run: the same servers without a ledger, and the same rows written without a server, over as many
connections as the servers have to the ledger.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
from standardwebhooks.webhooks import Webhook

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.webhooks.intake import AT_ONCE
from benchmarks.ledger_rows import fill
from demo.airflow_stack import postgres_connection
from demo.guardian import descendants
from demo.ports import free_port
from demo.postgres import Postgres, open_postgres
from demo.processes import ProcessSpec, Supervisor, environment, python
from demo.waiting import wait_until

CONNECTIONS = 400
RECEIVERS = 2
WEBHOOKS = 10_000
WARM_UP = 1_000

#: Webhooks a second at the steady rate, how many of them, and the connections that they come over.
PACE = 500
PACED = 5_000
PACED_CONNECTIONS = 64

SECRET = f"whsec_{b64encode(os.urandom(32)).decode()}"
PATH = "/aihandoff/webhooks/openai/openai_default"


@dataclass(frozen=True)
class Result:
    """What one run of the load brought.

    :param cpu: seconds of CPU by who used them.
    """

    name: str
    seconds: float
    latencies: list[float]
    cpu: dict[str, float]

    @property
    def rate(self) -> float:
        """Webhooks a second."""
        return len(self.latencies) / self.seconds

    @property
    def line(self) -> str:
        """One line of the table."""
        p50, p99 = statistics.median(self.latencies), statistics.quantiles(self.latencies, n=100)[98]
        cpu = ", ".join(f"{who} {1000 * seconds / len(self.latencies):.2f}" for who, seconds in self.cpu.items())
        return f"{self.name:38} {self.rate:8.0f} {1000 * p50:8.1f} {1000 * p99:8.1f}   {cpu}"


def main() -> None:
    """Measure, and print rates, latencies, and where the CPU went."""
    sizes = [int(argument) for argument in sys.argv[1:3]] or [1_000, 1_000_000]
    with tempfile.TemporaryDirectory() as folder:
        postgres = open_postgres(Path(folder) / "postgres")
        postgres.start()
        try:
            results = [bare_answers(Path(folder))]
            for size in sizes:
                name = f"ledger_{size}"
                postgres.create_database(name)
                schema.upgrade(postgres.connection_kwargs(name))
                with postgres.connect(name) as connection:
                    fill(connection, size, running=WEBHOOKS, prefixes=("bare", "warm", "run", "paced"))
                results += [bare_rows(postgres, name, size), *ingest(Path(folder), postgres, name, size)]
        finally:
            postgres.destroy()
    report(results)


def report(results: list[Result]) -> None:
    """Print the table, and the ratios that count."""
    head = f"{WEBHOOKS} webhooks, {CONNECTIONS} connections"
    print(f"{head:38} {'a second':>8} {'p50 ms':>8} {'p99 ms':>8}   CPU ms a webhook")
    for result in results:
        print(result.line)
    answers, rows_small, small, _, rows_large, large, _ = results
    print(f"large ledger / small ledger, time a webhook    {small.rate / large.rate:5.2f}")
    for name, rate, rows in (("small", small.rate, rows_small.rate), ("large", large.rate, rows_large.rate)):
        print(f"{name} ledger / same servers without a ledger    {rate / answers.rate:5.0%}")
        print(f"{name} ledger / same rows without servers        {rate / rows:5.0%}")


def bare_answers(folder: Path) -> Result:
    """The same server, which verifies and answers, and records nothing."""
    command = python("-m", "benchmarks.receiver_without_ledger")
    with receivers(folder, command, {}) as (ports, cpu):
        load("warm up", ports, "warm", dict, number=WARM_UP)
        return load("same servers, no ledger", ports, "none", cpu)


def ingest(folder: Path, postgres: Postgres, database: str, size: int) -> list[Result]:
    """The real thing: webhooks that arrive at once, and at the steady rate."""
    ledger = {"AIRFLOW_CONN_AIHANDOFF_LEDGER": json.dumps(postgres_connection(postgres, database))}
    command = python("-m", "airflow", "aihandoff", "webhooks", "serve")
    with receivers(folder, command, ledger) as (ports, cpu):
        load("warm up", ports, "warm", dict, number=WARM_UP)
        used = lambda: {**cpu(), "postgres": postgres_cpu()}  # noqa: E731
        results = [
            load(f"webhooks, {size:,} jobs", ports, "run", used),
            load(f"{PACE} a second, {size:,} jobs", ports, "paced", used, number=PACED, pace=PACE),
        ]
    with postgres.connect(database) as connection:
        row = connection.execute("SELECT count(*) FROM aihandoff.inbox WHERE disposition = 'applied'").fetchone()
    assert row is not None
    assert row[0] == WARM_UP + WEBHOOKS + PACED, f"only {row[0]} webhooks were applied"
    return results


def bare_rows(postgres: Postgres, database: str, size: int) -> Result:
    """The rows that a webhook writes, over as many connections as the server has, in transactions of their own."""
    return asyncio.run(_write_rows(postgres, database, size))


async def _write_rows(postgres: Postgres, database: str, size: int) -> Result:
    numbers = iter(range(WEBHOOKS))
    latencies: list[float] = []

    async def write() -> None:
        connection = await psycopg.AsyncConnection.connect(**postgres.connection_kwargs(database))
        async with connection:
            for number in numbers:
                begun = time.perf_counter()
                async with connection.pipeline():
                    for statement in _ROWS:
                        await connection.execute(statement, {"n": number})
                await connection.commit()
                latencies.append(time.perf_counter() - begun)

    before, begun = _own_cpu(), time.perf_counter()
    await asyncio.gather(*(write() for _ in range(RECEIVERS * AT_ONCE)))
    seconds = time.perf_counter() - begun
    cpu = {"writer": _own_cpu() - before}
    return Result(f"same rows, no servers, {size:,} jobs", seconds, latencies, cpu)


_ROWS = (
    """INSERT INTO aihandoff.inbox
        (webhook_id, conn_id, event_type, response_id, body, disposition, received_at, updated_at)
    VALUES ('bare' || %(n)s, 'bare', 'response.completed', 'resp_bare_' || %(n)s, '{"object": "event"}', 'ignored',
        now(), now())""",
    """INSERT INTO aihandoff.events
        (job_id, seq, at, actor, actor_kind, actor_name, event, to_state, detail, previous_hash, hash)
    SELECT job_id, event_seq + 1000, now(), 'bare', 'other', 'bare', 'bare', 'running', '{}', repeat('0', 64),
        repeat('0', 64)
    FROM aihandoff.jobs WHERE job_type = 'running' AND job_key = 'bare:' || %(n)s""",
    "UPDATE aihandoff.jobs SET updated_at = now() WHERE job_type = 'running' AND job_key = 'bare:' || %(n)s",
    "UPDATE aihandoff.revisions SET response_status = 'running' WHERE response_id = 'resp_bare_' || %(n)s",
)


@contextmanager
def receivers(
    folder: Path, command: tuple[str, ...], extra: Mapping[str, str]
) -> Iterator[tuple[list[int], Callable[[], dict[str, float]]]]:
    """Servers on free ports, and how much CPU they have used."""
    openai = {"conn_type": "openai", "password": "none", "extra": {"webhook_secrets": [SECRET]}}
    settings = {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_OPENAI_DEFAULT": json.dumps(openai),
        **extra,
    }
    ports = [free_port() for _ in range(RECEIVERS)]
    with Supervisor() as services:
        env = environment(settings, drop_prefix="AIRFLOW_")
        for port in ports:
            log = folder / f"receiver-{port}.log"
            services.add(ProcessSpec(str(port), (*command, f"--port={port}"), log, env=env))
            services.start(str(port))
        for port in ports:
            wait_until(lambda port=port: _is_up(services, port), "the receiver", 60)  # type: ignore[misc]
        processes = [services.process(str(port)) for port in ports]
        yield ports, lambda: {"servers": sum(_cpu_of(pid) for each in processes for pid in each.descendants())}


def _is_up(services: Supervisor, port: int) -> bool:
    services.check_alive()
    try:
        return httpx.get(f"http://127.0.0.1:{port}/aihandoff/health", timeout=2, trust_env=False).is_success
    except httpx.TransportError:
        return False


def load(
    name: str,
    ports: list[int],
    kind: str,
    cpu: Callable[[], dict[str, float]],
    number: int = WEBHOOKS,
    pace: float | None = None,
) -> Result:
    """Send webhooks over connections that are kept open.

    :param pace: how many a second; by default, as fast as they are answered. A latency counts from the moment at which
        its webhook was due, also where no connection was free.
    """
    requests = iter([signed(kind, index) for index in range(number)])
    latencies: list[float] = []
    before = {**cpu(), "load": _own_cpu()}
    begun = time.perf_counter()
    asyncio.run(_send_all(ports, requests, latencies, pace))
    seconds = time.perf_counter() - begun
    after = {**cpu(), "load": _own_cpu()}
    return Result(name, seconds, latencies, {who: after[who] - before[who] for who in after})


async def _send_all(ports: list[int], requests: Iterator[bytes], latencies: list[float], pace: float | None) -> None:
    started, numbers = time.perf_counter(), itertools.count()

    async def due() -> float:
        """Wait until the next request is due; when that was."""
        if pace is None:
            return time.perf_counter()
        at = started + next(numbers) / pace
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        return at

    async def send(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in requests:
            begun = await due()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - begun)
        writer.close()

    connections = CONNECTIONS if pace is None else PACED_CONNECTIONS
    await asyncio.gather(*(send(ports[number % len(ports)]) for number in range(connections)))


def signed(kind: str, number: int) -> bytes:
    """One request, as OpenAI would send it."""
    webhook_id, now = f"wh_{kind}_{number}", datetime.now(UTC)
    data = {"id": f"resp_{kind}_{number}"}
    event = {"object": "event", "id": f"evt_{number}", "type": "response.completed", "created_at": 0, "data": data}
    body = json.dumps(event)
    head = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": len(body),
        "webhook-id": webhook_id,
        "webhook-timestamp": int(now.timestamp()),
        "webhook-signature": Webhook(SECRET).sign(webhook_id, now, body),
    }
    lines = [f"POST {PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", body]
    return "\r\n".join(lines).encode()


def _own_cpu() -> float:
    times = os.times()
    return times.user + times.system


def _cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def postgres_cpu() -> float:
    """Seconds of CPU of all servers of PostgreSQL that this process has started."""
    return sum(_cpu_of(pid) for pid in descendants(os.getpid()) if _name(pid) == "postgres")


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
