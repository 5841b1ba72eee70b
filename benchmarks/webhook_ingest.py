"""How many webhooks a second are verified, recorded and correlated, over HTTP, in a small ledger and in a large one.

Run it with `.venv/bin/python -m benchmarks.webhook_ingest [jobs in the small ledger] [jobs in the large one]`. The
server is `airflow aihandoff webhooks serve`, in two processes, since Python uses one core for each; PostgreSQL is the
one from the wheel, with its durable defaults. The load comes from this process: webhooks that arrive at once, over many
connections, each of which sends the next one when one is answered; and then webhooks that arrive at a steady rate.
Beside it: the same servers without a ledger, and the same rows inserted one by one without a server, over as many
connections as the servers have to the ledger. All of them take turns, so that each meets the same machine.
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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
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

CONNECTIONS = 256
RECEIVERS = 2
WEBHOOKS = 10_000
TURNS = 5
WARM_UP = 1_000

#: Webhooks a second at the steady rate, how many of them, and the connections that they come over.
PACE = 500
PACED = 5_000
PACED_CONNECTIONS = 64

SECRET = f"whsec_{b64encode(os.urandom(32)).decode()}"
PATH = "/aihandoff/webhooks/openai/openai_default"


#: Who has used how many seconds of CPU.
Cpu = Callable[[], dict[str, float]]


@dataclass
class Result:
    """What the turns of one load brought.

    :param cpu: seconds of CPU by who used them.
    """

    name: str
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    cpu: Counter[str] = field(default_factory=Counter)

    def add(self, seconds: float, latencies: list[float], cpu: Mapping[str, float]) -> None:
        """Add a turn."""
        self.seconds += seconds
        self.latencies += latencies
        self.cpu.update(cpu)

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
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        postgres = open_postgres(folder / "postgres")
        stack.callback(postgres.destroy)
        postgres.start()
        answers = _Servers("same servers, no ledger", *stack.enter_context(_without_ledger(folder)))
        ledgers = [_Measured(stack, folder, postgres, size) for size in sizes]
        for turn in range(TURNS):
            answers.take_turn(turn)
            for ledger in ledgers:
                ledger.take_turn(turn)
        for ledger in ledgers:
            ledger.take_pace()
        report(answers.result, ledgers)


def report(answers: Result, ledgers: list[_Measured]) -> None:
    """Print the table, and the ratios that count."""
    head = f"{WEBHOOKS} webhooks, {CONNECTIONS} connections"
    print(f"{head:38} {'a second':>8} {'p50 ms':>8} {'p99 ms':>8}   CPU ms a webhook")
    print(answers.line)
    for ledger in ledgers:
        for result in (ledger.rows, ledger.servers.result, ledger.paced):
            print(result.line)
    for ledger in ledgers:
        rate = ledger.servers.result.rate
        print(f"{ledger.size:9,} jobs / same servers, no ledger     {rate / answers.rate:5.0%}")
        print(f"{ledger.size:9,} jobs / same rows, no servers       {rate / ledger.rows.rate:5.0%}")
    small, large = (ledger.servers.result.rate for ledger in ledgers)
    print(f"large ledger / small ledger, time a webhook     {small / large:5.2f}")


class _Servers:
    """Receivers that wait for their turns."""

    def __init__(self, name: str, ports: list[int], cpu: Cpu) -> None:
        self.ports, self.cpu, self.result = ports, cpu, Result(name)
        load(Result("warm up"), ports, signed_all("warm", range(WARM_UP)), dict)

    def take_turn(self, turn: int) -> None:
        """Send them their share of the webhooks, as fast as they answer."""
        load(self.result, self.ports, signed_all("run", _share(turn)), self.cpu)


class _Measured:
    """One ledger, the receivers in front of it, and the rows that are written without them."""

    def __init__(self, stack: ExitStack, folder: Path, postgres: Postgres, size: int) -> None:
        self.size, self._postgres, self._database = size, postgres, f"ledger_{size}"
        postgres.create_database(self._database)
        schema.upgrade(postgres.connection_kwargs(self._database))
        with postgres.connect(self._database) as connection:
            fill(connection, size, running=WEBHOOKS, prefixes=("bare", "warm", "run", "paced"))
        self.rows = Result(f"same rows, no servers, {size:,} jobs")
        self.paced = Result(f"{PACE} a second, {size:,} jobs")
        started = stack.enter_context(_with_ledger(folder, postgres, self._database))
        self.servers = _Servers(f"webhooks, {size:,} jobs", *started)

    def take_turn(self, turn: int) -> None:
        """Write a share of the rows, and send a share of the webhooks."""
        asyncio.run(self._write_rows(_share(turn)))
        self.servers.take_turn(turn)

    def take_pace(self) -> None:
        """Send webhooks at the steady rate, and see that all of them, and of the turns, were applied."""
        load(self.paced, self.servers.ports, signed_all("paced", range(PACED)), self.servers.cpu, pace=PACE)
        with self._postgres.connect(self._database) as connection:
            row = connection.execute("SELECT count(*) FROM aihandoff.inbox WHERE disposition = 'applied'").fetchone()
        assert row is not None
        assert row[0] == WARM_UP + WEBHOOKS + PACED, f"only {row[0]} webhooks were applied"

    async def _write_rows(self, share: range) -> None:
        """The rows that a webhook writes, in transactions of their own."""
        numbers = iter(share)
        latencies: list[float] = []

        async def write() -> None:
            connection = await psycopg.AsyncConnection.connect(**self._postgres.connection_kwargs(self._database))
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
        self.rows.add(time.perf_counter() - begun, latencies, {"writer": _own_cpu() - before})


def _share(turn: int) -> range:
    """The numbers of the webhooks of a turn."""
    share = WEBHOOKS // TURNS
    return range(turn * share, (turn + 1) * share)


def _without_ledger(folder: Path) -> AbstractContextManager[tuple[list[int], Cpu]]:
    """The same servers, which verify and answer, and record nothing."""
    return receivers(folder, python("-m", "benchmarks.receiver_without_ledger"), {})


@contextmanager
def _with_ledger(folder: Path, postgres: Postgres, database: str) -> Iterator[tuple[list[int], Cpu]]:
    """The real thing."""
    ledger = {"AIRFLOW_CONN_AIHANDOFF_LEDGER": json.dumps(postgres_connection(postgres, database))}
    command = python("-m", "airflow_provider_aihandoff", "webhooks", "serve")
    with receivers(folder, command, ledger) as (ports, cpu):
        yield ports, lambda: {**cpu(), "postgres": postgres_cpu()}


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
def receivers(folder: Path, command: tuple[str, ...], extra: Mapping[str, str]) -> Iterator[tuple[list[int], Cpu]]:
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


def load(result: Result, ports: list[int], requests: list[bytes], cpu: Cpu, *, pace: float | None = None) -> None:
    """Send webhooks over connections that are kept open, and add what came of it to a result.

    :param pace: how many a second; by default, as fast as they are answered. A latency counts from the moment at which
        its webhook was due, also where no connection was free.
    """
    latencies: list[float] = []
    before = {**cpu(), "load": _own_cpu()}
    begun = time.perf_counter()
    asyncio.run(_send_all(ports, iter(requests), latencies, pace))
    seconds = time.perf_counter() - begun
    after = {**cpu(), "load": _own_cpu()}
    result.add(seconds, latencies, {who: after[who] - before[who] for who in after})


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
        connection = await asyncio.open_connection("127.0.0.1", port)
        for request in requests:
            begun = await due()
            while not await _answered(*connection, request):
                connection = await asyncio.open_connection("127.0.0.1", port)
            latencies.append(time.perf_counter() - begun)
        connection[1].close()

    connections = CONNECTIONS if pace is None else PACED_CONNECTIONS
    await asyncio.gather(*(send(ports[number % len(ports)]) for number in range(connections)))


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
    """Deliver once; False where the connection broke, so that it has to be delivered again."""
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    except (ConnectionError, asyncio.IncompleteReadError):
        return False
    assert head.startswith(b"HTTP/1.1 200 "), head
    return True


def signed_all(kind: str, numbers: Iterable[int]) -> list[bytes]:
    """The requests with these numbers."""
    return [signed(kind, number) for number in numbers]


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
