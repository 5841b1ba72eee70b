"""Examines the ledger's database from where this runs. It reads; it sends one notification to itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psycopg
from psycopg.rows import dict_row

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.database.connection import CONNECTION_DEFAULTS
from airflow_provider_aihandoff.core.errors import LedgerSchemaError
from airflow_provider_aihandoff.doctor.finding import Finding, Level

#: Seconds by which the clock of this machine may differ from that of the database.
MAX_SKEW = 5.0

#: Seconds for which a notification is waited for.
_NOTIFIED_WITHIN = 5.0

#: The part of the server's connections that may be in use.
_FULL = 0.8

_CHANNEL = "aihandoff_doctor"

#: What the daily work needs, as docs/deployment.md grants it.
_RIGHTS = (
    ("jobs", "SELECT, INSERT, UPDATE"),
    ("revisions", "SELECT, INSERT, UPDATE"),
    ("decisions", "SELECT, INSERT"),
    ("effects", "SELECT, INSERT, UPDATE, DELETE"),
    ("inbox", "SELECT, INSERT, UPDATE, DELETE"),
    ("events", "SELECT, INSERT"),
    ("surplus_responses", "SELECT, INSERT, UPDATE"),
    ("bulk_actions", "SELECT, INSERT"),
    ("bulk_jobs", "SELECT, INSERT, UPDATE"),
    ("polls", "SELECT, INSERT, UPDATE"),
    ("ledger", "SELECT"),
)

_ROLE = """
    SELECT current_user AS role, rolsuper AS is_superuser, pg_is_in_recovery() AS is_standby,
        current_setting('server_version_num')::integer AS version,
        EXISTS (SELECT FROM pg_tables WHERE schemaname = 'aihandoff' AND tableowner = current_user) AS is_owner
    FROM pg_roles WHERE rolname = current_user"""
_CONNECTIONS = """
    SELECT count(*) AS used, current_setting('max_connections')::integer AS allowed FROM pg_stat_activity
    WHERE backend_type = 'client backend'"""

_PROBES = """
    SELECT DISTINCT j.job_type || '/' || e.name AS effect
    FROM aihandoff.effects AS e JOIN aihandoff.jobs AS j USING (job_id)
    WHERE e.probe_note IS NOT NULL AND e.updated_at > clock_timestamp() - interval '7 days' ORDER BY 1 LIMIT 10"""

_OLDEST_VERSION = 140000

_UNREACHABLE = "Tasks fail and pages answer 503 until it can be reached."
_PROBLEM_OF_RIGHTS = "A step that needs this right fails, and its task with it."


def check_ledger(conninfo: Mapping[str, Any]) -> Iterator[Finding]:
    """Everything about the ledger's database. The later checks are left out where an earlier one makes them pointless.

    :param conninfo: libpq's connection parameters by name.
    """
    try:
        connection = psycopg.connect(**{**CONNECTION_DEFAULTS, **conninfo}, row_factory=dict_row, autocommit=True)
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        fix = "Check the ledger's connection, the server, and the network between."
        yield Finding(Level.ERROR, "ledger", f"The database cannot be reached from here: {said}", _UNREACHABLE, fix)
        return
    with connection:
        yield from _check_role(connection)
        found = _check_schema(connection)
        yield found
        if found.level is Level.OK:
            rights = list(_check_rights(connection))
            yield from rights
            if all(right.level is Level.OK for right in rights):
                yield _check_probes(connection)
        yield _check_clock(connection)
        yield _check_room(connection)
        yield _check_notifications(connection, lambda: psycopg.connect(**conninfo, autocommit=True))


def _check_role(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    row = connection.execute(_ROLE).fetchone()
    assert row is not None
    if row["version"] < _OLDEST_VERSION:
        yield Finding(
            Level.ERROR,
            "ledger server",
            f"The server is PostgreSQL {row['version'] // 10000}.",
            "The ledger needs PostgreSQL 14 or newer.",
            "Move the ledger to a newer server.",
        )
    if row["is_standby"]:
        yield Finding(
            Level.ERROR,
            "ledger server",
            "The connection leads to a standby, which takes no writes.",
            "No job can move.",
            'Put "target_session_attrs": "read-write" into the extra of the ledger\'s connection.',
        )
    if row["is_superuser"] or row["is_owner"]:
        rank = "is a superuser" if row["is_superuser"] else "owns the ledger's tables"
        yield Finding(
            Level.WARNING,
            "ledger role",
            f"The role {row['role']!r} {rank}.",
            "A process with this role can change the history, which the daily work never needs to do.",
            "Use two roles, as docs/deployment.md shows: one that upgrades the schema, one for the daily work.",
        )
    else:
        yield Finding(Level.OK, "ledger role", f"The role {row['role']!r} is neither owner nor superuser.")


def _check_schema(connection: psycopg.Connection[Any]) -> Finding:
    try:
        schema.check(connection)
    except LedgerSchemaError as error:
        what = error.what[:1].upper() + error.what[1:]
        return Finding(Level.ERROR, "ledger schema", what, "Nothing runs on another schema.", error.remedy or "")
    return Finding(Level.OK, "ledger schema", f"The schema has the version {schema.head_version()}.")


def _check_rights(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    missing = [
        f"{right} on {table}"
        for table, rights in _RIGHTS
        for right in rights.split(", ")
        if not _may(connection, table, right)
    ]
    if missing:
        fix = "Grant them, as docs/deployment.md shows."
        yield Finding(Level.ERROR, "ledger rights", f"The role lacks: {', '.join(missing)}.", _PROBLEM_OF_RIGHTS, fix)
    else:
        yield Finding(Level.OK, "ledger rights", "The role has every right that the daily work needs.")


def _may(connection: psycopg.Connection[Any], table: str, right: str) -> bool:
    row = connection.execute("SELECT has_table_privilege(%s, %s) AS may", [f"aihandoff.{table}", right]).fetchone()
    assert row is not None
    return bool(row["may"])


def _check_clock(connection: psycopg.Connection[Any]) -> Finding:
    before = time.time()
    row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float AS now").fetchone()
    assert row is not None
    skew = row["now"] - (before + time.time()) / 2
    if abs(skew) <= MAX_SKEW:
        return Finding(Level.OK, "clock", f"This machine's clock is within {MAX_SKEW:g} s of the database's.")
    return Finding(
        Level.WARNING,
        "clock",
        f"This machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the database's.",
        "Webhooks are refused when their time is more than five minutes off, and Airflow itself misjudges heartbeats.",
        "Run a time service (chrony, systemd-timesyncd) on this machine and on the database's.",
    )


def _check_room(connection: psycopg.Connection[Any]) -> Finding:
    row = connection.execute(_CONNECTIONS).fetchone()
    assert row is not None
    what = f"{row['used']} of {row['allowed']} connections of the server are in use."
    if row["used"] < _FULL * row["allowed"]:
        return Finding(Level.OK, "ledger connections", what)
    return Finding(
        Level.WARNING,
        "ledger connections",
        what,
        "A task that gets no connection within ten seconds fails, and is retried.",
        "Raise max_connections, or put a pooler before the server.",
    )


def _check_probes(connection: psycopg.Connection[Any]) -> Finding:
    """Whether probes saw what they should, where they were tried or asked."""
    effects = [row["effect"] for row in connection.execute(_PROBES)]
    if not effects:
        return Finding(Level.OK, "probes", "No probe saw other than it should in the last seven days.")
    return Finding(
        Level.WARNING,
        "probes",
        f"Probes could not tell, or saw other than they should, in the last seven days: {', '.join(effects)}.",
        "A probe that cannot see a write leads to a second one, or leaves each lost answer to a person.",
        "See what each one saw with `airflow aihandoff effects list`, and fix its declaration.",
    )


def _check_notifications(
    connection: psycopg.Connection[Any], connect: Callable[[], psycopg.Connection[Any]]
) -> Finding:
    """Whether a notification that another connection sends arrives: not where a pooler shares out transactions."""
    connection.execute(f"LISTEN {_CHANNEL}")
    with connect() as other:
        other.execute(f"NOTIFY {_CHANNEL}")
    if next(iter(connection.notifies(timeout=_NOTIFIED_WITHIN, stop_after=1)), None) is not None:
        return Finding(Level.OK, "notifications", "A notification of the ledger arrives.")
    return Finding(
        Level.WARNING,
        "notifications",
        f"No notification of the ledger arrived within {_NOTIFIED_WITHIN:g} s.",
        "Tasks that wait are woken by a sweep alone, seconds later ([aihandoff] sweep_interval).",
        "Let the ledger's connection bypass the pooler, or use the pooler in session mode.",
    )
