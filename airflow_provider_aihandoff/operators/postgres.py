"""Writes to a PostgreSQL database, exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_aihandoff.operators.side_effect import SideEffectOperator
from airflow_provider_aihandoff.targets.statement_arguments import AT_LEAST_ONE, MARKER_TABLE, rows_of

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.jobs.job_view import JobView
    from airflow_provider_aihandoff.targets.postgres import PostgresTarget


class PostgresSideEffectOperator(SideEffectOperator):
    """Run one SQL statement, with a marker of the effect key in the same transaction: exactly once.

    An attempt that finds the marker knows that the statement was committed, and reads its external id; so a crash at
    any instruction is resolved by trying again: an effect that broke off at the commit is ``unknown`` only until the
    task's retry has read the marker.

    :param postgres_conn_id: connection of the type Postgres: the target database.
    :param sql: one statement, with parameters as ``%(name)s``. It is not templated: text by a model must never be part
        of a statement. A first column that it returns (``RETURNING report_id``) is the external record id. It is
        ended after five minutes.
    :param parameters: the values (templated).
    :param current: one statement that selects what the target has now, with the same parameters: reviewers see what the
        statement would change. It is read when the plan is rendered for them, in a transaction that can write nothing.
    :param rows: how many rows the statement must change: by default at least one. A number, or the least and the most,
        such as ``(0, None)``. Otherwise it is rolled back, and the effect is refused.
    :param marker_table: the table that keeps the markers, of the undo too; made on first use. For a role that may not
        create tables, create it beforehand (``effect_key text primary key, external_id text, applied_at timestamptz not
        null default now()``), and grant ``SELECT``, ``INSERT`` and ``UPDATE`` on it.
    """

    template_fields: Sequence[str] = ("job", "parameters", "undo")
    template_fields_renderers: ClassVar[dict[str, str]] = {"parameters": "json", "undo": "json"}

    def __init__(
        self,
        *,
        postgres_conn_id: str = "postgres_default",
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        current: str | None = None,
        rows: int | Sequence[int | None] = AT_LEAST_ONE,
        marker_table: str = MARKER_TABLE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.postgres_conn_id = postgres_conn_id
        self.sql = sql
        self.parameters = parameters
        self.current = current
        self.rows = rows
        self.marker_table = marker_table

    def plan(self, job: JobView) -> dict[str, Any]:
        """The statement, its parameters, and the database that it runs in."""
        from airflow_provider_aihandoff.targets.postgres import plan_statement

        parameters = self.marked("parameters")
        return self.settled_plan(plan_statement(self.postgres_conn_id, self.sql, parameters, name=self.effect_name))

    def target(self) -> PostgresTarget:
        """The database behind the connection."""
        from airflow_provider_aihandoff.targets.postgres import PostgresTarget

        rows = rows_of(self.rows, self.effect_name)
        return PostgresTarget(self.effect_name, self.marker_table, self.current, rows)
