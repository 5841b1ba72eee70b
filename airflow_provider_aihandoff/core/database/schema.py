"""Creates, upgrades and checks the ledger's schema. Alembic does the work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg.errors
from psycopg.rows import tuple_row

from airflow_provider_aihandoff.core.database.connection import through_pooler
from airflow_provider_aihandoff.core.errors import LedgerSchemaError

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

VERSION_TABLE = "alembic_version"
VERSION_TABLE_SCHEMA = "aihandoff"

UPGRADE_COMMAND = "airflow aihandoff db upgrade"

#: Any number, as long as it is always the same: two upgrades at once wait for each other.
_UPGRADE_LOCK = 0x_A1_4A_4D_0F


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


@cache
def head_version() -> str:
    """The schema version that this package was written for."""
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


_READ_VERSION = f"SELECT version_num FROM {VERSION_TABLE_SCHEMA}.{VERSION_TABLE}"

_NO_LEDGER = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)


def current_version(connection: psycopg.Connection[Any]) -> str | None:
    """The schema version of the ledger on the other end, or None where there is no ledger."""
    try:
        with connection.transaction():
            row = connection.cursor(row_factory=tuple_row).execute(_READ_VERSION).fetchone()
    except _NO_LEDGER:
        return None
    return None if row is None else str(row[0])


def check(connection: psycopg.Connection[Any]) -> None:
    """Return when the ledger has the schema that this package needs.

    :raises LedgerSchemaError: it has not; the message says what is missing and the command to run.
    """
    _check_version(current_version(connection))


async def check_async(connection: psycopg.AsyncConnection[Any]) -> None:
    """:func:`check`, on a connection in autocommit mode."""
    try:
        cursor = await connection.cursor(row_factory=tuple_row).execute(_READ_VERSION)
        row = await cursor.fetchone()
    except _NO_LEDGER:
        row = None
    # In a thread: the version that is needed is read from files, the first time.
    await asyncio.to_thread(_check_version, None if row is None else str(row[0]))


def _check_version(current: str | None) -> None:
    head = head_version()
    if current == head:
        return
    if current is None:
        raise LedgerSchemaError("the database has no AI Handoff ledger.", remedy=f"Create it with `{UPGRADE_COMMAND}`.")
    _check_known(current)
    raise LedgerSchemaError(
        f"the ledger's schema is at version {current}, this package needs {head}.",
        remedy=f"Upgrade it with `{UPGRADE_COMMAND}`.",
    )


def _check_known(version: str) -> None:
    if version not in _known_versions():
        raise LedgerSchemaError(
            f"the ledger's schema is at version {version}, which this package (version {head_version()}) does not "
            "know.",
            remedy="A newer airflow-provider-aihandoff has upgraded it: install that release here too.",
        )


def _known_versions() -> frozenset[str]:
    from alembic.script import ScriptDirectory

    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def upgrade(conninfo: Mapping[str, Any], *, from_migrations: bool = False) -> tuple[str | None, str]:
    """Bring the ledger to the version of this package. Safe to run again, and by two at once.

    :param conninfo: libpq's connection parameters.
    :param from_migrations: reach a fresh ledger through every migration, and not from ``schema.sql``; for the test
        that compares the two.
    :return: the version before (None: there was no ledger) and the version after.
    :raises LedgerSchemaError: the ledger is ahead of this package, or the connection leads through a pooler.
    """
    from alembic import command

    with _sqlalchemy_connection(conninfo) as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        if through_pooler(raw):
            raise LedgerSchemaError(
                "the connection leads through a pooler, where the lock of this upgrade could stay behind.",
                remedy=f"Run `{UPGRADE_COMMAND}` over a connection that leads to the server itself.",
            )
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_UPGRADE_LOCK})")
        before = current_version(raw)
        if before is not None:
            _check_known(before)
        config = _config()
        config.attributes["connection"] = connection
        # Not IF NOT EXISTS, which needs the right to create schemas even where there is nothing to create.
        if connection.exec_driver_sql(f"SELECT to_regnamespace('{VERSION_TABLE_SCHEMA}')").scalar() is None:
            connection.exec_driver_sql(f"CREATE SCHEMA {VERSION_TABLE_SCHEMA}")
        if before is None and not from_migrations:
            connection.exec_driver_sql(
                resources.files(__package__).joinpath("schema.sql").read_text("utf-8").replace("%", "%%")
            )
            command.stamp(config, "head")
        else:
            command.upgrade(config, "head")
        connection.commit()
    return before, head_version()


@contextmanager
def _sqlalchemy_connection(conninfo: Mapping[str, Any]) -> Iterator[Connection]:
    """Connect as Alembic needs it; the parameters go to libpq as they are, so no password has to be quoted."""
    from sqlalchemy import __version__, create_engine
    from sqlalchemy.dialects import registry
    from sqlalchemy.pool import NullPool

    if __version__.startswith("1."):
        registry.register("postgresql.psycopg", f"{__package__}.psycopg_dialect", "PsycopgDialect")
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(**conninfo), poolclass=NullPool, future=True
    )
    with engine.connect() as connection:
        yield connection
    engine.dispose()
