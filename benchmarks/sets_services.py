"""What the benchmark of sets runs on: PostgreSQL, the stand-in for OpenAI, a target, and Airflow's settings."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from airflow_provider_aihandoff.core.database import schema
from demo.airflow_stack import postgres_connection
from demo.ports import free_port
from demo.postgres import Postgres, open_postgres
from demo.processes import ProcessSpec, Supervisor, environment, python
from demo.waiting import wait_until

#: The ticket of an item; as long as a short one.
_TEXT = "Ticket {number}: I was charged twice for the invoice of March, and would like to have one of them back. " * 4


@dataclass(frozen=True)
class Services:
    """Where everything is.

    :param env: of a process that has the connections and an Airflow of its own.
    """

    folder: Path
    postgres: Postgres
    openai: str
    target: str
    env: Mapping[str, str]

    def run(self, module: str, *arguments: object, ledger: str | None = None) -> dict[str, Any]:
        """Run a module of the benchmark in a process of its own, and return what its last line says.

        :param ledger: the database of its ledger, which is made.
        :raises RuntimeError: it failed.
        """
        env = dict(self.env)
        if ledger is not None:
            self.postgres.create_database(ledger)
            schema.upgrade(self.postgres.connection_kwargs(ledger))
            env["AIRFLOW_CONN_AIHANDOFF_LEDGER"] = json.dumps(postgres_connection(self.postgres, ledger))
        command = python("-m", module, *map(str, arguments))
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        (self.folder / f"{module}.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            raise RuntimeError(f"{module} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def items(self, number: int) -> Path:
        """A file with so many items, one a line."""
        file = self.folder / f"items-{number}.jsonl"
        with file.open("w") as lines:
            for index in range(number):
                lines.write(json.dumps({"id": f"t{index}", "text": _TEXT.format(number=index)}) + "\n")
        return file


@contextmanager
def services(folder: Path, seconds: float) -> Iterator[Services]:
    """Start everything, and stop it at the end.

    :param seconds: how long the model takes for an answer.
    """
    with ExitStack() as stack:
        postgres = open_postgres(folder / "postgres")
        stack.callback(postgres.destroy)
        postgres.start()
        started = stack.enter_context(Supervisor())
        openai, business = free_port(), free_port()
        stand_in = ("airflow_provider_aihandoff.testing", f"--port={openai}", f"--delay-seconds={seconds}")
        target = ("demo.business", f"--port={business}", f"--log-file={folder / 'witness.jsonl'}")
        for name, (module, *arguments) in {"openai": stand_in, "business": target}.items():
            started.add(ProcessSpec(name, python("-m", module, *arguments), folder / f"{name}.log"))
            started.start(name)
        for url in (f"http://127.0.0.1:{openai}/standin/health", f"http://127.0.0.1:{business}/witness"):
            wait_until(lambda url=url: _answers(url), url, 60)  # type: ignore[misc]
        yield Services(
            folder,
            postgres,
            f"http://127.0.0.1:{openai}/v1",
            f"http://127.0.0.1:{business}",
            environment(_settings(folder, openai, business), drop_prefix="AIRFLOW_"),
        )


def _settings(folder: Path, openai: int, business: int) -> dict[str, str]:
    """The product's defaults, with an Airflow of its own, in SQLite: one process uses it."""
    home = folder / "airflow"
    (home / "dags").mkdir(parents=True)
    connections = {
        "openai_default": {"conn_type": "openai", "password": "any", "host": f"http://127.0.0.1:{openai}/v1"},
        "channel": {"conn_type": "http", "host": "127.0.0.1", "port": business, "schema": "http"},
    }
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()},
    }


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.ConnectionError:
        return False
