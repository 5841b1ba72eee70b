"""What it costs one API server that 1,000 programs follow a request each, beside as many that poll.

Run it with `.venv/bin/python -m benchmarks.watchers [programs]`, on Linux; it takes some minutes. The server is
Airflow's own, with one process, on a PostgreSQL from the wheel with its durable defaults. Those who follow have a
stream of server-sent events each; those who poll ask every 10 seconds with `If-None-Match`, each at another moment.

How the figures are taken:

- At rest: CPU of the server over 20 s in which nothing changes, the answers that it gave, and the connections to the
  ledger. As many answers as those who poll ask for are 100 a second; fewer mean that the machine cannot give more.
- News: each request ends, 50 a second. The delay is from the commit until its program has the answer; CPU is that of
  the server until all have it.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg

from airflow_provider_aihandoff.core.database.connection import WAKE_CHANNEL
from airflow_provider_aihandoff.core.job_requests.job_request import Wanted
from airflow_provider_aihandoff.core.ledger import Ledger
from benchmarks.waiting import allow_many_files
from benchmarks.waiting_process import cpu
from demo.airflow_stack import LEDGER_DATABASE, AirflowStack
from demo.postgres import Postgres, open_postgres

PROGRAMS = 1_000
POLL_SECONDS = 10.0
REST_SECONDS = 20.0
NEWS_A_SECOND = 50
#: Requests that the programs of one kind have under way while they connect.
AT_ONCE = 50
API = "/aihandoff/api/v1"
LOGIN = "alice"

_STARTED = """
    UPDATE aihandoff.job_requests SET state = 'started', try_at = now() + interval '1 day' WHERE request_id = %s"""
_END = """
    UPDATE aihandoff.job_requests SET state = 'failed', state_reason = 'it is a benchmark', updated_at = now()
    WHERE request_id = %s"""
_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"


@dataclass
class Figures:
    """What the programs of one kind have cost."""

    name: str
    rest_cpu: float = 0.0
    rest_answers: float = 0.0
    connections: int = 0
    news_cpu: float = 0.0
    delays: list[float] = field(default_factory=list)


@dataclass
class Stage:
    """An API server and its ledger."""

    stack: AirflowStack
    postgres: Postgres
    token: str

    def cpu(self) -> float:
        """Seconds of CPU that the server has used."""
        return sum(cpu(pid).used for pid in self.stack.process("api-server").descendants())

    def connections(self) -> int:
        """Connections to the ledger."""
        with self.postgres.connect(LEDGER_DATABASE) as connection:
            row = connection.execute(_CONNECTIONS, [LEDGER_DATABASE]).fetchone()
        assert row is not None
        return int(row[0])

    def requests(self, number: int, kind: str) -> list[UUID]:
        """Make requests whose run is known, and of which nothing is heard by itself."""
        conninfo, made = self.postgres.connection_kwargs(LEDGER_DATABASE), list[UUID]()
        with Ledger(conninfo) as ledger, psycopg.connect(**conninfo, autocommit=True) as connection:
            for each in range(number):
                wanted = Wanted(kind, {"slug": "kettle"}, LOGIN, job_key=f"{kind}-{each}")
                made.append(ledger.job_requests.record(wanted, recorded_by=LOGIN, per_minute=number + 1).request_id)
                connection.execute(_STARTED, [made[-1]])
        return made


Program = Callable[[httpx.AsyncClient, UUID, "Crowd"], Coroutine[Any, Any, None]]


@dataclass
class Crowd:
    """The programs of one kind.

    :param answers: how many answers they got that say how a request stands.
    :param heard: when each of them had heard that its request has ended.
    """

    number: int
    ready: int = 0
    answers: int = 0
    heard: dict[UUID, float] = field(default_factory=dict)
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))


async def follow(client: httpx.AsyncClient, request_id: UUID, crowd: Crowd) -> None:
    """Follow a request until it has ended."""
    await crowd.turn.acquire()
    async with client.stream("GET", f"{API}/requests/{request_id}/stream") as answer:
        answer.raise_for_status()
        crowd.turn.release()
        crowd.ready += 1
        async for line in answer.aiter_lines():
            crowd.answers += line.startswith("data:")
            if '"ended":true' in line:
                crowd.heard[request_id] = time.time()
                return


async def poll(client: httpx.AsyncClient, request_id: UUID, crowd: Crowd) -> None:
    """Ask for a request every so many seconds until it has ended."""
    place, tag = crowd.ready, ""
    crowd.ready += 1
    await asyncio.sleep(POLL_SECONDS * place / crowd.number)
    while True:
        due = time.monotonic() + POLL_SECONDS
        headers = {"If-None-Match": tag} if tag else {}
        async with crowd.turn:
            answer = await client.get(f"{API}/requests/{request_id}", headers=headers)
        if answer.status_code != httpx.codes.NOT_MODIFIED:
            answer.raise_for_status()
        crowd.answers += 1
        tag = answer.headers["etag"]
        if answer.content and answer.json()["ended"]:
            crowd.heard[request_id] = time.time()
            return
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def measure(stage: Stage, name: str, program: Program, number: int) -> Figures:
    """Let programs of one kind be there, and then give each of them its news."""
    figures, crowd = Figures(name), Crowd(number)
    asked = await asyncio.to_thread(stage.requests, number, name)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=AT_ONCE)
    headers = {"Authorization": f"Bearer {stage.token}"}
    async with httpx.AsyncClient(
        base_url=stage.stack.base_url, headers=headers, limits=limits, timeout=120, trust_env=False
    ) as client:
        programs = [asyncio.create_task(program(client, each, crowd)) for each in asked]
        while crowd.ready < number:
            await asyncio.sleep(0.1)
            assert not any(each.done() for each in programs)
        await asyncio.sleep(POLL_SECONDS)  # until those who poll have their first answer
        before, answered, begun = stage.cpu(), crowd.answers, time.monotonic()
        await asyncio.sleep(REST_SECONDS)
        seconds = time.monotonic() - begun
        figures.rest_cpu = (stage.cpu() - before) / seconds
        figures.rest_answers = (crowd.answers - answered) / seconds
        figures.connections = await asyncio.to_thread(stage.connections)
        before = stage.cpu()
        committed = await asyncio.to_thread(give_news, stage, asked)
        await asyncio.gather(*programs)
        figures.news_cpu = stage.cpu() - before
    figures.delays = [crowd.heard[each] - committed[each] for each in asked]
    return figures


def give_news(stage: Stage, asked: list[UUID]) -> dict[UUID, float]:
    """End each request at a steady rate, and notify; return when each was committed."""
    committed: dict[UUID, float] = {}
    with psycopg.connect(**stage.postgres.connection_kwargs(LEDGER_DATABASE), autocommit=True) as connection:
        begun = time.monotonic()
        for place, each in enumerate(asked):
            time.sleep(max(0.0, begun + place / NEWS_A_SECOND - time.monotonic()))
            connection.execute(_END, [each])
            committed[each] = time.time()
            connection.execute(f"NOTIFY {WAKE_CHANNEL}")
    return committed


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """Start PostgreSQL and an API server."""
    postgres = open_postgres(folder / "postgres")
    postgres.start()
    (folder / "dags").mkdir()
    try:
        with AirflowStack(folder / "airflow", postgres, folder / "dags") as stack:
            stack.migrate()
            stack.start("api-server")
            stack.wait_healthy()
            login = {"username": LOGIN, "password": LOGIN}
            answer = httpx.post(f"{stack.base_url}/auth/token", json=login, timeout=60, trust_env=False)
            yield Stage(stack, postgres, str(answer.raise_for_status().json()["access_token"]))
    finally:
        postgres.destroy()


def report(found: list[Figures], number: int) -> None:
    """Print the table, and the ratios that count."""
    print(f"{number:,} programs, one API server        following    polling      ratio")
    following, polling = found

    def line(what: str, first: float, second: float, digits: int = 2) -> None:
        ratio = f"{second / first:10.1f}" if first else f"{'-':>10}"
        print(f"{what:36} {first:10.{digits}f} {second:10.{digits}f} {ratio}")

    line("CPU at rest, cores", following.rest_cpu, polling.rest_cpu)
    line("answers at rest, a second", following.rest_answers, polling.rest_answers, 0)
    line("connections to the ledger at rest", following.connections, polling.connections, 0)
    per_news = 1000 / number
    line("CPU of one news, ms", per_news * following.news_cpu, per_news * polling.news_cpu)
    line("delay of news, median s", statistics.median(following.delays), statistics.median(polling.delays))
    line("delay of news, 99% s", _99(following.delays), _99(polling.delays))


def _99(delays: list[float]) -> float:
    return statistics.quantiles(delays, n=100)[98]


def main() -> None:
    """Measure both kinds, one after the other, and print the table."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else PROGRAMS
    allow_many_files()
    with tempfile.TemporaryDirectory() as folder, staged(Path(folder)) as stage:
        ways: list[tuple[str, Program]] = [("following", follow), ("polling", poll)]
        report([asyncio.run(measure(stage, name, program, number)) for name, program in ways], number)


if __name__ == "__main__":
    main()
