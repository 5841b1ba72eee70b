"""Writes to a PostgreSQL database, exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_aihandoff.errors import EffectNotNow, EffectRefused
from airflow_provider_aihandoff.operators.side_effect import Applied, SideEffectOperator

if TYPE_CHECKING:
    from airflow_provider_aihandoff.jobview import JobView

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


class PostgresSideEffectOperator(SideEffectOperator):
    """Run one SQL statement, with a marker of the effect key in the same transaction: exactly once.

    An attempt that finds the marker knows that the statement was committed, and reads its external id; so a crash at
    any instruction is resolved by trying again: an effect that broke off at the commit is ``unknown`` only until the
    task's retry has looked for the marker.

    :param postgres_conn_id: connection of the type Postgres: the target database.
    :param sql: one statement, with parameters as ``%(name)s``. It is not templated: text by a model has no business
        in a statement. A first column that it returns (``RETURNING report_id``) is the external record id.
    :param parameters: the values (templated).
    :param marker_table: the table that keeps the markers, made on first use; give the role that creates tables no
        other way, or create it beforehand (``effect_key text primary key, external_id text, applied_at timestamptz``).
    """

    template_fields: Sequence[str] = ("job", "parameters", "undo")
    template_fields_renderers: ClassVar[dict[str, str]] = {"parameters": "json", "undo": "json"}
    kind = "postgres"

    def __init__(
        self,
        *,
        postgres_conn_id: str = "postgres_default",
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        marker_table: str = "aihandoff_marker",
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "idempotent": True})
        self.postgres_conn_id = postgres_conn_id
        self.sql = sql
        self.parameters = parameters
        self.marker_table = marker_table

    def plan(self, job: JobView) -> dict[str, Any]:
        """The statement, its parameters, and the database that it runs in."""
        connection = self._hook().get_connection(self.postgres_conn_id)
        return {
            "connection": self.postgres_conn_id,
            "database": f"{connection.host}:{connection.port or 5432}/{connection.schema}",
            "sql": self.sql.strip(),
            "parameters": dict(self.parameters or {}),
        }

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """Mark and run in one transaction. Whatever fails before the commit is rolled back by the server."""
        import psycopg

        try:
            connection = self._hook().get_conn()
        except psycopg.OperationalError as error:
            raise EffectNotNow(
                f"no connection to the database of the effect {self.effect_name!r}.", remedy="A retry is safe."
            ) from error
        try:
            try:
                applied = self._run(connection.cursor(), plan, key)
            except psycopg.OperationalError as error:
                raise EffectNotNow(
                    f"the database of the effect {self.effect_name!r} broke off before the commit: {error}.",
                    remedy="A retry is safe.",
                ) from error
            except psycopg.Error as error:
                raise EffectRefused(
                    f"the database refused the effect {self.effect_name!r}: {error}.",
                    remedy="Mend the statement or the data in the target; then clear this task.",
                ) from error
            connection.commit()
        finally:
            connection.close()
        return applied

    def _run(self, cursor: Any, plan: dict[str, Any], key: str) -> Applied:
        table = _quoted(self.marker_table)
        self._ensure_marker_table(cursor, table)
        cursor.execute(_MARK.format(table=table), {"key": key})
        if cursor.rowcount == 0:
            cursor.execute(_READ_MARK.format(table=table), {"key": key})
            row = cursor.fetchone()
            self.log.info("The marker of %s is there: the statement was committed before.", key)
            return Applied(row[0], {"marker": "found"})
        cursor.execute(plan["sql"], plan["parameters"])
        rows = cursor.rowcount
        row = cursor.fetchone() if cursor.description else None
        external_id = None if row is None or row[0] is None else str(row[0])
        cursor.execute(_NAME_MARK.format(table=table), {"key": key, "external_id": external_id})
        return Applied(external_id, {"rows": rows})

    @staticmethod
    def _ensure_marker_table(cursor: Any, table: str) -> None:
        cursor.execute(_MARKER_EXISTS, {"table": table})
        if not cursor.fetchone()[0]:
            cursor.execute("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _CREATE_LOCK})
            cursor.execute(_CREATE_MARKER.format(table=table))

    def _hook(self) -> Any:
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        return PostgresHook(postgres_conn_id=self.postgres_conn_id)


def _quoted(table: str) -> str:
    """A table's name, with or without its schema, as SQL takes it."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in table.split("."))
