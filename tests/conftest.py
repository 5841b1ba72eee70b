"""Real PostgreSQL for every test that needs one: one server a session, one database a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.ledger import Ledger
from demo.postgres import Postgres, PostgresServer, open_postgres

_numbers = count(os.getpid() * 100_000)  # unique on a server that other sessions use as well

# How fast the machine is, is no property of what is tested: it may be busy.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

#: The data need not outlive the machine.
SETTINGS = {"fsync": "off", "full_page_writes": "off"}

#: A test that was ended may have left a connection behind, with locks.
_END_OTHERS = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
#: Every row but the identity of the ledger and its version; ids begin at 1 again. All in one statement, since foreign
#: keys are checked at its end. A TRUNCATE would make new files for each table, and takes several times as long.
EMPTY_LEDGER = """
    DO $$ DECLARE guarded regclass; BEGIN
        FOR guarded IN SELECT DISTINCT tgrelid FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
            WHERE NOT tgisinternal AND relnamespace = 'aihandoff'::regnamespace
        LOOP
            EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', guarded);
        END LOOP;
        EXECUTE (
            SELECT 'WITH ' || string_agg(format('%1$I AS (DELETE FROM aihandoff.%1$I)', tablename), ', ') || ' SELECT'
            FROM pg_tables WHERE schemaname = 'aihandoff' AND tablename NOT IN ('ledger', 'alembic_version'));
        FOR guarded IN SELECT DISTINCT tgrelid FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
            WHERE NOT tgisinternal AND relnamespace = 'aihandoff'::regnamespace
        LOOP
            EXECUTE format('ALTER TABLE %s ENABLE TRIGGER USER', guarded);
        END LOOP;
        PERFORM setval(format('%I.%I', schemaname, sequencename), 1, false) FROM pg_sequences
            WHERE schemaname = 'aihandoff' AND last_value IS NOT NULL;
    END $$"""


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = open_postgres(Path(tmp_path_factory.mktemp("postgres")) / "data", SETTINGS)
    server.start()
    yield server
    if isinstance(server, PostgresServer):
        server.kill()  # the checkpoint of a clean stop is not needed
    server.destroy()


@pytest.fixture
def empty_conninfo(postgres: Postgres) -> dict[str, Any]:
    """A new, empty database."""
    name = f"test_{next(_numbers)}"
    postgres.create_database(name)
    return dict(postgres.connection_kwargs(name))


@pytest.fixture(scope="session")
def ledger_database(postgres: Postgres) -> dict[str, Any]:
    """A database with a ledger that tests share, one after the other."""
    name = f"ledger_{next(_numbers)}"
    postgres.create_database(name)
    schema.upgrade(postgres.connection_kwargs(name))
    return dict(postgres.connection_kwargs(name))


@pytest.fixture
def conninfo(ledger_database: dict[str, Any]) -> dict[str, Any]:
    """A database with an empty ledger."""
    with psycopg.connect(**ledger_database) as connection:
        connection.execute(_END_OTHERS)
        connection.execute(EMPTY_LEDGER)
    return ledger_database


@pytest.fixture
def ledger(conninfo: dict[str, Any]) -> Iterator[Ledger]:
    """An empty ledger."""
    with Ledger(conninfo, max_size=4) as opened:
        yield opened
