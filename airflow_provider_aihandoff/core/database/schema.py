"""Creates, upgrades and checks the ledger's schema. Alembic does the work.

**Two releases on one ledger.** A migration expands: what an older package reads and writes is still there, and means
the same. So a package also works on a ledger that a newer one has upgraded, and components are replaced one by one. A
migration that contracts (it removes or narrows something) says with `serves_from` which packages can still use the
ledger after it; what a later release is going to contract, a migration says with `contracted_later`. The comment on the
version table keeps the oldest package that is served, for packages that do not know the newer migrations.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
    from alembic.script import Script
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


#: The packages of this schema version were the first that work on a ledger which a newer one has upgraded.
ROLLING_SINCE = "0026"

_READ_VERSION = f"""
    SELECT version_num, obj_description('{VERSION_TABLE_SCHEMA}.{VERSION_TABLE}'::regclass, 'pg_class')
    FROM {VERSION_TABLE_SCHEMA}.{VERSION_TABLE}"""
#: What the comment on the version table says.
_SERVES = "Serves packages that need schema version {} or newer."
_SERVED = re.compile(_SERVES.format(r"(\d{4})"))

_NO_LEDGER = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)


@dataclass(frozen=True)
class LedgerVersion:
    """What a ledger says of its schema.

    :param current: its version.
    :param serves_from: the oldest version whose packages can use it; None where only those of its own can.
    """

    current: str
    serves_from: str | None = None


def current_version(connection: psycopg.Connection[Any]) -> str | None:
    """The schema version of the ledger on the other end, or None where there is no ledger."""
    found = read_version(connection)
    return None if found is None else found.current


def read_version(connection: psycopg.Connection[Any]) -> LedgerVersion | None:
    """What the ledger on the other end says of its schema, or None where there is no ledger."""
    try:
        with connection.transaction():
            return _version_of(connection.cursor(row_factory=tuple_row).execute(_READ_VERSION).fetchone())
    except _NO_LEDGER:
        return None


def _version_of(row: tuple[Any, ...] | None) -> LedgerVersion | None:
    if row is None:
        return None
    served = _SERVED.fullmatch(row[1] or "")
    return LedgerVersion(str(row[0]), served[1] if served else None)


def check(connection: psycopg.Connection[Any]) -> None:
    """Return when this package can use the ledger: it has the schema that it needs, or a newer one that serves it.

    :raises LedgerSchemaError: it has not; the message says what is missing and the command to run.
    """
    check_version(read_version(connection))


async def check_async(connection: psycopg.AsyncConnection[Any]) -> None:
    """:func:`check`, on a connection in autocommit mode."""
    try:
        cursor = await connection.cursor(row_factory=tuple_row).execute(_READ_VERSION)
        row = await cursor.fetchone()
    except _NO_LEDGER:
        row = None
    # In a thread: the version that is needed is read from files, the first time.
    await asyncio.to_thread(check_version, _version_of(row))


def check_version(ledger: LedgerVersion | None) -> None:
    """:func:`check`, of what a ledger says.

    :param ledger: None where there is no ledger.
    :raises LedgerSchemaError: this package cannot use it.
    """
    head = head_version()
    if ledger is None:
        raise LedgerSchemaError("the database has no AI Handoff ledger.", remedy=f"Create it with `{UPGRADE_COMMAND}`.")
    if ledger.current == head or _is_newer_and_serves(ledger):
        return
    raise LedgerSchemaError(
        f"the ledger's schema is at version {ledger.current}, this package needs {head}.",
        remedy=f"Upgrade it with `{UPGRADE_COMMAND}`.",
    )


def _is_newer_and_serves(ledger: LedgerVersion) -> bool:
    """Whether a newer package has upgraded the ledger, and this one can still use it.

    :raises LedgerSchemaError: a newer package has upgraded it, and this one cannot use it.
    """
    if ledger.current in {script.revision for script in _migrations()}:
        return False
    if ledger.serves_from is not None and ledger.serves_from <= head_version():
        return True
    raise LedgerSchemaError(
        f"the ledger's schema is at version {ledger.current}, which this package (version {head_version()}) does not "
        "know.",
        remedy="A newer airflow-provider-aihandoff has upgraded it: install that release here too.",
    )


@cache
def _migrations() -> tuple[Script, ...]:
    """All of them, the newest first."""
    from alembic.script import ScriptDirectory

    return tuple(ScriptDirectory.from_config(_config()).walk_revisions())


def serves_from() -> str:
    """The oldest schema version whose packages can use a ledger that this package has upgraded."""
    return max(ROLLING_SINCE, *(getattr(script.module, "serves_from", ROLLING_SINCE) for script in _migrations()))


def contracted_later() -> list[str]:
    """What a later release is going to remove or to narrow, as the migrations say it."""
    return [said for script in reversed(_migrations()) if (said := getattr(script.module, "contracted_later", None))]


def upgrade(conninfo: Mapping[str, Any], *, from_migrations: bool = False) -> tuple[str | None, str]:
    """Bring the ledger to the version of this package. Safe to run again, and by two at once.

    :param conninfo: libpq's connection parameters.
    :param from_migrations: reach a fresh ledger through every migration, and not from ``schema.sql``; for the test
        that compares the two.
    :return: the version before (None: there was no ledger) and the version after. A ledger that is newer than this
        package, and serves it, stays as it is.
    :raises LedgerSchemaError: the ledger is ahead of this package and does not serve it, or the connection leads
        through a pooler.
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
        ledger = read_version(raw)
        before = None if ledger is None else ledger.current
        if ledger is not None and _is_newer_and_serves(ledger):
            return before, ledger.current
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
        _say_whom_it_serves(connection, raw)  # in the transaction of the migrations
        connection.commit()
    return before, head_version()


def _say_whom_it_serves(connection: Connection, raw: psycopg.Connection[Any]) -> None:
    """Keep it with the version, unless it is there: only the owner of the table can change it."""
    ledger = read_version(raw)
    if ledger is None or ledger.serves_from == serves_from():
        return
    said = _SERVES.format(serves_from())
    connection.exec_driver_sql(f"COMMENT ON TABLE {VERSION_TABLE_SCHEMA}.{VERSION_TABLE} IS '{said}'")


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
