"""Real PostgreSQL for every test that needs one: one server a session, one database a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from airflow_provider_aihandoff.ledger import Ledger, schema
from demo.postgres import Postgres, open_postgres

_numbers = count(os.getpid() * 100_000)  # unique on a server that other sessions use as well

#: The data need not outlive the machine.
SETTINGS = {"fsync": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = open_postgres(Path(tmp_path_factory.mktemp("postgres")) / "data", SETTINGS)
    server.start()
    yield server
    server.destroy()


@pytest.fixture
def empty_conninfo(postgres: Postgres) -> dict[str, Any]:
    """A new, empty database."""
    name = f"test_{next(_numbers)}"
    postgres.create_database(name)
    return dict(postgres.connection_kwargs(name))


@pytest.fixture(scope="session")
def ledger_template(postgres: Postgres) -> str:
    """A database with an empty ledger, to copy: that is faster than making one."""
    name = f"template_{next(_numbers)}"
    postgres.create_database(name)
    schema.upgrade(postgres.connection_kwargs(name))
    return name


@pytest.fixture
def conninfo(postgres: Postgres, ledger_template: str) -> dict[str, Any]:
    """A new database with an empty ledger."""
    name = f"ledger_{next(_numbers)}"
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(ledger_template))
    with postgres.connect("postgres") as connection:
        connection.execute(copy)
    return dict(postgres.connection_kwargs(name))


@pytest.fixture
def ledger(conninfo: dict[str, Any]) -> Iterator[Ledger]:
    """A new, empty ledger."""
    with Ledger(conninfo, max_size=4) as opened:
        yield opened
