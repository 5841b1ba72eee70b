"""Real PostgreSQL for every test that needs one: one server a session, one database a test."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aihandoff.ledger import Ledger, schema
from demo.postgres import Postgres, open_postgres

_numbers = count(1)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = open_postgres(Path(tmp_path_factory.mktemp("postgres")) / "data")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def conninfo(postgres: Postgres) -> dict[str, Any]:
    """A new, empty database."""
    name = f"test_{next(_numbers)}"
    postgres.create_database(name)
    return dict(postgres.connection_kwargs(name))


@pytest.fixture
def ledger(conninfo: dict[str, Any]) -> Iterator[Ledger]:
    """A new, empty ledger."""
    schema.upgrade(conninfo)
    with Ledger(conninfo, max_size=4) as opened:
        yield opened
