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
    ("decisions", "SELECT, INSERT, UPDATE"),
    ("effects", "SELECT, INSERT, UPDATE, DELETE"),
    ("inbox", "SELECT, INSERT, UPDATE, DELETE"),
    ("events", "SELECT, INSERT"),
    ("surplus_responses", "SELECT, INSERT, UPDATE"),
    ("bulk_actions", "SELECT, INSERT"),
    ("bulk_jobs", "SELECT, INSERT, UPDATE"),
    ("polls", "SELECT, INSERT, UPDATE"),
    ("signs", "SELECT, INSERT, UPDATE"),
    ("notices", "SELECT, INSERT, UPDATE, DELETE"),
    ("pauses", "SELECT, INSERT, UPDATE"),
    ("spending_limits", "SELECT, INSERT, UPDATE, DELETE"),
    ("budgets", "SELECT, INSERT, UPDATE"),
    ("budget_windows", "SELECT, INSERT, UPDATE"),
    ("budget_stripes", "SELECT, INSERT, UPDATE"),
    ("budget_reservations", "SELECT, INSERT, UPDATE"),
    ("budget_events", "SELECT, INSERT"),
    ("bill_days", "SELECT, INSERT, UPDATE"),
    ("rate_limits", "SELECT, INSERT, UPDATE"),
    ("rate_limit_changes", "SELECT, INSERT"),
    ("rate_waits", "SELECT, INSERT, UPDATE, DELETE"),
    ("sets", "SELECT, INSERT, UPDATE"),
    ("batches", "SELECT, INSERT, UPDATE"),
    ("job_requests", "SELECT, INSERT, UPDATE"),
    ("decision_links", "SELECT, INSERT, UPDATE"),
    ("parked_tasks", "SELECT, INSERT, UPDATE, DELETE"),
    ("event_subscriptions", "SELECT, INSERT, UPDATE"),
    ("event_subscription_changes", "SELECT, INSERT"),
    ("event_deliveries", "SELECT, INSERT, UPDATE, DELETE"),
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

#: By job type and effect, what trials of probes have shown; of the newest effects alone, which the primary key finds.
_PROBES = """
    SELECT j.job_type || '/' || split_part(e.name, '[', 1) AS effect, count(*) AS effects,
        count(*) FILTER (WHERE NOT e.find_counts) AS seen_before,
        count(*) FILTER (WHERE e.find_counts AND e.probe_note IS NOT NULL) AS not_seen
    FROM (
        SELECT job_id, name, find_counts, probe_note, updated_at FROM aihandoff.effects
        ORDER BY effect_id DESC LIMIT %(newest)s) AS e
    JOIN aihandoff.jobs AS j USING (job_id)
    WHERE e.updated_at > clock_timestamp() - %(days)s * interval '1 day'
    GROUP BY 1 HAVING count(e.probe_note) > 0 OR NOT bool_and(e.find_counts)
    ORDER BY 1 LIMIT %(findings)s"""

#: Of how many days, of how many effects at most, and how many findings.
_PROBE_DAYS, _PROBED_EFFECTS, _PROBE_FINDINGS = 7, 100_000, 10

_UNASKED = """
    SELECT dag_id, count(*) AS jobs FROM aihandoff.jobs
    WHERE state = 'review' AND review_digest IS NULL AND updated_at < clock_timestamp() - interval '1 hour'
    GROUP BY dag_id ORDER BY 2 DESC, 1 LIMIT 10"""

#: Due events of each subscription that no one has begun to send for so long; and what else keeps them from arriving.
_UNSENT = """
    SELECT s.name, s.state, s.state_reason, s.failures,
        (SELECT count(*) FROM aihandoff.event_deliveries AS d WHERE d.subscription_id = s.subscription_id
            AND d.state = 'dead') AS dead,
        (SELECT count(*) FROM aihandoff.event_deliveries AS d WHERE d.subscription_id = s.subscription_id
            AND d.state = 'waiting' AND d.try_at < clock_timestamp() - %(minutes)s * interval '1 minute'
            AND (s.lease_until IS NULL OR s.lease_until < clock_timestamp() - %(minutes)s * interval '1 minute')
            AND NOT EXISTS (SELECT FROM aihandoff.event_deliveries AS e
                WHERE e.subscription_id = d.subscription_id AND e.job_id = d.job_id AND e.seq < d.seq
                    AND e.state = 'waiting')) AS unsent
    FROM aihandoff.event_subscriptions AS s WHERE s.state <> 'ended' ORDER BY s.name"""
_UNSENT_MINUTES = 10

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
                yield from _check_probes(connection)
                yield _check_unasked(connection)
                yield from _check_events(connection)
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
    current, needed = schema.current_version(connection), schema.head_version()
    newer = "" if current == needed else f" It is of a newer release, and serves this one, which needs {needed}."
    return Finding(Level.OK, "ledger schema", f"The schema has the version {current}.{newer}")


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


def _check_probes(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Which probes prove nothing, or did not see exactly the one write, where they were tried or asked."""
    limits = {"days": _PROBE_DAYS, "newest": _PROBED_EFFECTS, "findings": _PROBE_FINDINGS}
    rows = connection.execute(_PROBES, limits).fetchall()
    if not rows:
        what = f"No probe saw other than it should in the last {_PROBE_DAYS} days."
        yield Finding(Level.OK, "probes", what)
    for row in rows:
        yield from probe_findings(row["effect"], row["effects"], row["seen_before"], row["not_seen"])


def probe_findings(effect: str, effects: int, seen_before: int, not_seen: int) -> Iterator[Finding]:
    """What the trials of one effect's probe mean.

    :param effect: the job type and the name of the effect.
    :param effects: how many of them there were.
    :param seen_before: for how many of them the probe saw what it is to find before anything was sent.
    :param not_seen: for how many others it could not tell, or did not see exactly one record.
    """
    subject = f"probe of {effect}"
    of_all = f"of {effects} effects in the last {_PROBE_DAYS} days"
    if seen_before:
        yield Finding(
            Level.WARNING,
            subject,
            f"It proves nothing for {seen_before} {of_all}: it saw what it is to find before anything was sent.",
            "A lost answer waits for a person.",
            "Let its conditions (`found`) name a value that only this write sets, such as the effect key.",
        )
    if not_seen:
        yield Finding(
            Level.WARNING,
            subject,
            f"It could not tell, or did not see exactly one record, for {not_seen} {of_all}.",
            "A probe that cannot see a write leads to a second one, or leaves each lost answer to a person.",
            "See what it saw with `airflow aihandoff effects list`, and fix its declaration.",
        )


def _check_unasked(connection: psycopg.Connection[Any]) -> Finding:
    """Whether each job that needs an approval has a task that asks for it."""
    dags = [f"{row['dag_id']} ({row['jobs']})" for row in connection.execute(_UNASKED)]
    if not dags:
        return Finding(Level.OK, "approvals", "Each job in review was asked about within an hour.")
    return Finding(
        Level.WARNING,
        "approvals",
        f"Jobs have waited for an hour, and no task has asked for their approval: {', '.join(dags)}.",
        "No one can decide on them, and their effects are never sent.",
        "Give the Dag an ApprovalSensor, or clear the one that has failed. `--dags FOLDER` examines the Dags.",
    )


def _check_events(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Whether what is due to subscribers is being sent, and taken."""
    for row in connection.execute(_UNSENT, {"minutes": _UNSENT_MINUTES}).fetchall():
        counts = {name: row[name] for name in ("unsent", "dead", "failures")}
        yield event_finding(row["name"], row["state"], row["state_reason"], **counts)


def event_finding(name: str, state: str, why: str | None, *, unsent: int, dead: int, failures: int = 0) -> Finding:
    """How the events of a subscription stand.

    :param state: of the subscription, and ``why``: why it is in it.
    :param unsent: how many are due for :data:`_UNSENT_MINUTES` minutes.
    :param dead: how many were given up.
    :param failures: rounds in a row in which everything has failed.
    """
    subject = f"events for {name}"
    if state == "disabled":
        fix = f"When it is ready again: `airflow aihandoff events subscribe {name}` with its URL, types and states."
        return Finding(
            Level.WARNING, subject, f"The subscription is disabled: {why}.", "Its receiver gets no events.", fix
        )
    if unsent:
        return Finding(
            Level.ERROR,
            subject,
            f"{unsent} events have been due for {_UNSENT_MINUTES} minutes, and no one sends them.",
            "Its receiver does not hear of changes.",
            "Run `airflow aihandoff events deliver`, or the Dag aihandoff_events and a triggerer.",
        )
    if failures:
        return Finding(
            Level.WARNING,
            subject,
            f"Its receiver has taken nothing in {failures} rounds.",
            "What it did not take is sent again, for three days.",
            "Repair the receiver; the log of what delivers says how it answers.",
        )
    if dead:
        return Finding(
            Level.WARNING,
            subject,
            f"{dead} events were given up.",
            "Its receiver has never taken them.",
            f"See why with `airflow aihandoff events dead {name}`, then replay them: `airflow aihandoff events "
            f"replay {name} --reason REASON`.",
        )
    return Finding(Level.OK, subject, "What is due is sent.")


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
