"""What the installed Airflow says of a deployment's settings. Run as a program: Airflow is configured once a process.

Takes the name of a question, reads its input as JSON from standard input, and prints the answer as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import sys
import threading
from http.server import HTTPServer
from typing import Any
from unittest.mock import patch


def about(commands: list[list[str]]) -> dict[str, Any]:
    """The options there are, which of the commands are none, and what the health pages answer."""
    from airflow.configuration import conf, retrieve_configuration_description

    options = {
        f"{section}.{name}".lower(): bool(option.get("sensitive"))
        for section, described in retrieve_configuration_description().items()
        for name, option in described["options"].items()
    }
    return {
        "options": options,
        "refused": {" ".join(command): complaint for command in commands if (complaint := _complaint(command))},
        "api_port": conf.getint("api", "port"),
        "scheduler_port": conf.getint("scheduler", "scheduler_health_check_server_port"),
        "api_health": _api_health(),
        "scheduler_health": _scheduler_health(),
    }


def _complaint(command: list[str]) -> str | None:
    from airflow.cli.cli_parser import get_parser

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            get_parser().parse_args(command)
        except SystemExit:
            return said.getvalue()
    return None


def _api_health() -> dict[str, Any]:
    """The body, where the database can be asked and where it cannot."""
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    client = TestClient(create_app(apps="core"))
    path = "/api/v2/monitor/health"
    results: dict[str, dict[str, Any]] = {"healthy": {"return_value": None}, "unhealthy": {"side_effect": OSError}}
    bodies = {}
    for name, result in results.items():
        with patch("airflow.jobs.base_job_runner.BaseJobRunner.most_recent_job", **result):
            answer = client.get(path)
        bodies[name] = {"status": answer.status_code, "body": answer.text}
    return bodies


def _scheduler_health() -> dict[str, int]:
    """The status, by path: there is no scheduler, so 503 is the right one."""
    from airflow.utils.scheduler_health import HealthServer

    server = HTTPServer(("127.0.0.1", 0), HealthServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    statuses = {}
    for path in ("/health", "/else"):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        connection.request("GET", path)
        statuses[path] = connection.getresponse().status
    server.shutdown()
    return statuses


def connections(_: object) -> dict[str, Any]:
    """Who this process is, in Airflow's database, in the ledger's and at OpenAI; after upgrading the ledger."""
    import psycopg
    from airflow import settings
    from airflow.cli.cli_parser import get_parser
    from airflow.providers.openai.hooks.openai import OpenAIHook
    from sqlalchemy import text

    from airflow_provider_aihandoff.hooks.ledger import LedgerHook

    me = "SELECT session_user::text || ' ' || current_database()::text"

    async def metadata_async() -> str:
        assert settings.async_engine is not None
        async with settings.async_engine.connect() as connection:
            name = str((await connection.execute(text(me))).scalar_one())
        await settings.async_engine.dispose()
        return name

    assert settings.engine is not None
    with settings.engine.connect() as connection:
        metadata = str(connection.execute(text(me)).scalar_one())
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for command in ("upgrade", "check"):
            arguments = get_parser().parse_args(["aihandoff", "db", command])
            arguments.func(arguments)
    with psycopg.connect(**LedgerHook().conninfo()) as ledger_connection:
        (ledger,) = ledger_connection.execute(me).fetchone() or ("no user",)
    return {
        "metadata": metadata,
        "metadata_async": asyncio.run(metadata_async()),
        "cli": said.getvalue(),
        "ledger": ledger,
        "openai": OpenAIHook("openai_default").conn.api_key,
    }


if __name__ == "__main__":
    result = {"about": about, "connections": connections}[sys.argv[1]](json.load(sys.stdin))
    sys.stdout.write(f"\n{json.dumps(result)}\n")
