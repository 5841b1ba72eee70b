"""Writes to a PostgreSQL database, exactly once: a marker of the effect key goes into the same transaction."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from airflow_provider_aihandoff.core.effects.filled import earlier_names
from airflow_provider_aihandoff.core.effects.placeholders import LITERALS, within
from airflow_provider_aihandoff.core.effects.target import Applied, RequestView, Target, take_tables, take_text
from airflow_provider_aihandoff.core.error_text import said
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused, PlanError
from airflow_provider_aihandoff.core.secret_names import without_login
from airflow_provider_aihandoff.core.text import first_problem, unstorable
from airflow_provider_aihandoff.targets.connections import needed
from airflow_provider_aihandoff.targets.postgres_session import open_session
from airflow_provider_aihandoff.targets.statement_arguments import AT_LEAST_ONE, MARKER_TABLE, Rows, rows_of

log = logging.getLogger(__name__)

#: A percent sign in a statement, as the drivers read it.
_PERCENT = re.compile(r"%(?:\((?P<name>[^()]+)\)[sbt]|%|\([^)]*\)?.?|.?)", re.DOTALL)

_MARKER_EXISTS = "SELECT to_regclass(%(table)s) IS NOT NULL"
_CREATE_MARKER = """
    CREATE TABLE IF NOT EXISTS {table} (
        effect_key text PRIMARY KEY,
        external_id text,
        applied_at timestamptz NOT NULL DEFAULT now()
    )"""
_MARK = "INSERT INTO {table} (effect_key) VALUES (%(key)s) ON CONFLICT (effect_key) DO NOTHING"
_READ_MARK = "SELECT external_id FROM {table} WHERE effect_key = %(key)s"
_NAME_MARK = "UPDATE {table} SET external_id = %(external_id)s WHERE effect_key = %(key)s"

#: Any number, as long as it is always the same: two first effects do not create the table at the same time.
_CREATE_LOCK = 0x_A1_4A_4D_0E

#: Ends a statement, in milliseconds.
_STATEMENT_TIMEOUT = 300_000

#: Ends a transaction whose client says nothing more, in milliseconds: otherwise the next attempt waits for its marker.
_IDLE_TIMEOUT = 60_000

#: Ends the connection, in seconds, where the server has stopped and ends no statement.
_CALL_LIMIT = 330.0

#: Ends a statement that reads what is there, in milliseconds.
_READ_TIMEOUT = 10_000


@dataclass(frozen=True)
class PostgresTarget(Target):
    """A database that is written to through an Airflow connection.

    A retry finds out what became of an attempt that ended without a result: one that finds the marker knows that the
    statement was committed. A transaction that is still open is waited for by the server, so that a claim may
    be shorter than the statement.

    :param name: the effect's name, for messages.
    :param marker_table: the table that keeps the markers, made on first use.
    :param current: one statement that selects what the target has now, with the plan's parameters.
    :param rows: how many rows the statement must change, at least and at most; None: without limit. Otherwise it is
        rolled back.
    """

    kind = "postgres"
    undo_fields = frozenset({"connection", "sql", "parameters", "marker_table", "rows"})
    fixed_fields = frozenset({"sql"})

    name: str
    marker_table: str = MARKER_TABLE
    current: str | None = None
    rows: Rows = AT_LEAST_ONE

    idempotent = True
    resends = 10
    call_seconds = 20.0
    grace_seconds = 0.0

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """Mark and run in one transaction. Whatever fails before the commit is rolled back by the server."""
        with needed(plan["connection"], self.name):
            database = database_of(plan["connection"])
        if database != plan["database"]:
            raise EffectRefused(
                f"the plan of the effect {self.name!r} is for {plan['database']}, and its connection leads elsewhere.",
                answered=False,
                remedy="Restore the connection, or ask for a decision on the new database.",
            )
        try:
            opened = open_session(postgres_hook(plan["connection"]), _CALL_LIMIT)
        except Exception as error:
            if not _is(error, "OperationalError"):
                raise
            raise EffectNotNow(
                f"no connection to the database of the effect {self.name!r}.", answered=False, remedy="A retry is safe."
            ) from error
        with opened as connection:
            try:
                applied = self._run(connection.cursor(), plan, key)
            except Exception as error:
                if _is(error, "OperationalError"):
                    raise EffectNotNow(
                        f"the connection to the database of the effect {self.name!r} broke before the commit: "
                        f"{said(error)}.",
                        remedy="A retry is safe.",
                    ) from error
                if not _is(error, "Error"):
                    raise
                raise EffectRefused(
                    f"the database refused the effect {self.name!r}: {said(error)}.",
                    remedy="Fix the statement or the data in the target; then clear this task.",
                ) from error
            connection.commit()
        return applied

    @property
    def can_read(self) -> bool:
        """Its author says how."""
        return self.current is not None

    def read(self, plan: dict[str, Any]) -> dict[str, Any] | None:
        """The first row of the author's statement, by the names of its columns; None without one.

        It runs in a transaction that can write nothing.
        """
        if names := earlier_names(plan["parameters"], within(plan.get(LITERALS, ()), "parameters")):
            raise ValueError(f"{' and '.join(sorted(names))} is not known yet")
        with open_session(postgres_hook(plan["connection"]), 2 * _READ_TIMEOUT / 1000) as connection:
            cursor = connection.cursor()
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute(f"SET LOCAL statement_timeout = {_READ_TIMEOUT}")
            cursor.execute(self.current, plan["parameters"])
            row = cursor.fetchone() if cursor.description else None
            return None if row is None else _by_columns(cursor, row)

    def undo_defaults(self, plan: dict[str, Any]) -> Mapping[str, Any]:
        """The effect's own connection and marker table."""
        return {"connection": plan["connection"], "marker_table": self.marker_table}

    @classmethod
    def plan_undo(cls, declared: Mapping[str, Any], *, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The statement; beside it, the table that keeps its marker."""
        plan = plan_statement(declared["connection"], str(declared["sql"]), declared.get("parameters"), name=name)
        rows = {"rows": list(rows_of(declared["rows"], name))} if "rows" in declared else {}
        return plan, {"marker_table": str(declared.get("marker_table", MARKER_TABLE)), **rows}

    @classmethod
    def from_undo(cls, name: str, plan: Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        """With the marker table of the undo; one that an earlier release kept has the default."""
        # What is gone is what was wanted: an undo may change no row, unless its author says otherwise.
        rows = rows_of(options.get("rows", [0, None]), name)
        return cls(name, str(options.get("marker_table", MARKER_TABLE)), rows=rows)

    @classmethod
    def refuses(cls, field: str, value: str) -> str | None:
        """What PostgreSQL cannot store."""
        found = unstorable(value)
        return found and f"has {found}, which PostgreSQL cannot store"

    @classmethod
    def describe(cls, plan: Mapping[str, Any]) -> RequestView:
        """The database, the statement and its parameters."""
        rest = dict(plan)
        code = take_text(rest, "sql")
        return RequestView(
            action="SQL",
            address=take_text(rest, "database"),
            code=code or None,
            tables=take_tables(rest, "parameters"),
            rest=rest,
            writes=plan.get("parameters"),
        )

    def _run(self, cursor: Any, plan: dict[str, Any], key: str) -> Applied:
        table = _quoted(self.marker_table)
        cursor.execute(f"SET LOCAL statement_timeout = {_STATEMENT_TIMEOUT}")
        cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = {_IDLE_TIMEOUT}")
        self._ensure_marker_table(cursor, table)
        cursor.execute(_MARK.format(table=table), {"key": key})
        if cursor.rowcount == 0:
            cursor.execute(_READ_MARK.format(table=table), {"key": key})
            row = cursor.fetchone()
            log.info("The marker of %s is there: the statement was committed before.", key)
            return Applied(row[0], {"marker": "found"})
        cursor.execute(plan["sql"], plan["parameters"])
        rows = cursor.rowcount
        self._check_rows(rows)
        row = cursor.fetchone() if cursor.description else None
        answer = None if row is None else _by_columns(cursor, map(_plain, row))
        external_id = None if row is None or row[0] is None else str(row[0])
        cursor.execute(_NAME_MARK.format(table=table), {"key": key, "external_id": external_id})
        return Applied(external_id, {"rows": rows}, answer=answer)

    def _check_rows(self, rows: int) -> None:
        """Refuse what did not change as many rows as it should. The number is negative where there is none to tell.

        :raises EffectRefused: the whole transaction is rolled back.
        """
        least, most = self.rows
        if 0 <= rows < least or (most is not None and rows > most):
            wanted = f"at least {least}" if most is None else str(least) if least == most else f"{least} to {most}"
            raise EffectRefused(
                f"the statement of the effect {self.name!r} would change {rows} rows, and must change {wanted}. It was "
                "rolled back.",
                remedy="Check its condition and its parameters; or say with `rows` how many it may change.",
            )

    @staticmethod
    def _ensure_marker_table(cursor: Any, table: str) -> None:
        """Make the table where there is none: a role that may not create tables can use one that is there."""
        cursor.execute(_MARKER_EXISTS, {"table": table})
        if not cursor.fetchone()[0]:
            cursor.execute("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _CREATE_LOCK})
            cursor.execute(_CREATE_MARKER.format(table=table))


def plan_statement(
    conn_id: str, sql: str, parameters: Mapping[str, Any] | None, *, name: str = "store"
) -> dict[str, Any]:
    """The exact statement, its parameters, and the database that it runs in. Reads the connection; opens nothing.

    :param name: the effect's name, for messages.
    :raises PlanError: the statement and its parameters do not fit, or a parameter cannot be sent.
    """
    _check_statement(sql, parameters or {}, name)
    if found := first_problem({"sql": sql, "parameters": parameters or {}}, unstorable):
        raise PlanError(
            f"the statement of the effect {name!r} has {found}, which PostgreSQL cannot store.",
            remedy="Remove it where the parameter is filled in, or edit the output; then clear this task.",
        )
    return {
        "connection": conn_id,
        "database": database_of(conn_id),
        "sql": sql.strip(),
        "parameters": dict(parameters or {}),
    }


def _check_statement(sql: str, parameters: Mapping[str, Any], name: str) -> None:
    """Find out before anyone approves it whether the driver can take a statement with its parameters.

    :raises PlanError: it cannot.
    """

    def refuse(what: str, remedy: str) -> PlanError:
        return PlanError(f"the statement of the effect {name!r} {what}.", remedy=remedy)

    named = set()
    for match in _PERCENT.finditer(sql):
        if match["name"] is not None:
            named.add(match["name"])
        elif match[0] != "%%":
            raise refuse(f"has {match[0]!r}", "Write a parameter as %(name)s, and a percent sign as %%.")
    if missing := sorted(named - parameters.keys()):
        raise refuse(f"names parameters that it does not have: {', '.join(missing)}", "Add them to `parameters`.")


def _is(error: Exception, name: str) -> bool:
    """Whether an error is of this class of the DB-API (PEP 249), in whichever driver Airflow gives."""
    return any(each.__name__ == name and each.__module__.startswith("psycopg") for each in type(error).__mro__)


def postgres_hook(conn_id: str) -> Any:
    """Airflow's own way to a PostgreSQL database."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    return PostgresHook(postgres_conn_id=conn_id)


def database_of(conn_id: str) -> str:
    """The database that a connection leads to. Opens nothing."""
    connection = postgres_hook(conn_id).get_connection(conn_id)
    return f"{without_login(connection.host or '')}:{connection.port or 5432}/{connection.schema}"


def _by_columns(cursor: Any, row: Iterable[Any]) -> dict[str, Any]:
    """A row by the names of its columns."""
    return {column.name: value for column, value in zip(cursor.description, row, strict=True)}


def _plain(value: Any) -> Any:
    """A value of a column as JSON has it, or as text."""
    return value if value is None or isinstance(value, (str, int, float, dict, list)) else str(value)


def _quoted(table: str) -> str:
    """A table's name, with or without its schema, as SQL takes it."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in table.split("."))
