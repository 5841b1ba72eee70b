"""Writes to PostgreSQL: the rows and the marker in one transaction, so exactly once."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from airflow.providers.postgres.hooks.postgres import PostgresHook

from airflow_provider_aihandoff.core.effects.effect_store import Effects
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.targets.postgres import PostgresTarget, database_of
from tests.factories import draft, job_spec
from tests.integration.operators.conftest import RunDag, postgres_connection
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import NOTE, store

pytestmark = pytest.mark.usefixtures("accepted")

Record = Callable[[], JobRecord]
Sales = psycopg.Connection[Any]


def reports(sales: Sales) -> list[Any]:
    return sales.execute("SELECT report_id, title FROM reports ORDER BY report_id").fetchall()


def markers(sales: Sales, table: str = "aihandoff_marker") -> list[Any]:
    row = sales.execute("SELECT to_regclass(%s)", [table]).fetchone()
    assert row is not None
    return [] if row[0] is None else sales.execute(f"SELECT effect_key, external_id FROM {table}").fetchall()  # noqa: S608


def test_the_row_and_the_marker_are_written_and_the_first_returned_column_is_the_external_id(
    run: RunDag, record: Record, sales: Sales
) -> None:
    done = run(store)

    (effect,) = record().current_effects
    assert reports(sales) == [(1, NOTE["body"])]
    assert markers(sales) == [(effect.effect_key, "1")]
    assert (effect.state, effect.external_id, effect.result) == (EffectState.APPLIED, "1", {"rows": 1})
    assert done.xcoms["store"]["external_id"] == "1"
    assert record().job.state is JobState.COMPLETED


@pytest.mark.parametrize("text", ["'); DROP TABLE reports; --", "\"a\" 100% %s %(title)s \\ '' {{ 1 }} ü"])
def test_text_by_the_model_is_data_and_never_sql(run: RunDag, sales: Sales, ledger: Ledger, text: str) -> None:
    spec = job_spec(job_key="of a text", approval="not required", approval_reason="it is a test")
    job = draft(ledger, spec, {"body": text}, "resp_2")
    run(lambda: store(job.job_id))
    assert reports(sales) == [(1, text)]


def test_a_text_that_postgresql_cannot_store_is_refused_when_it_is_planned_and_named(
    run: RunDag, sales: Sales, ledger: Ledger
) -> None:
    spec = job_spec(job_key="of a text", approval="not required", approval_reason="it is a test")
    job = draft(ledger, spec, {"body": "nul \x00"}, "resp_2")
    done = run(lambda: store(job.job_id))
    assert (done.states, done.tries) == ({"store": "failed"}, {"store": 1})
    assert "the effect 'store' has a NUL character in parameters.title, which PostgreSQL cannot" in done.error("store")
    assert (reports(sales), ledger.record(job.job_id).effects) == ([], [])


def test_the_plan_names_the_statement_its_parameters_and_the_database(
    run: RunDag, record: Record, sales: Sales
) -> None:
    run(lambda: store(sql="  INSERT INTO reports (title) VALUES (%(title)s) "))

    assert record().current_effects[0].plan == {
        "connection": "sales_db",
        "database": f"{sales.info.host}:{sales.info.port}/{sales.info.dbname}",
        "sql": "INSERT INTO reports (title) VALUES (%(title)s)",
        "parameters": {"title": NOTE["body"]},
    }
    assert record().current_effects[0].external_id is None


def test_a_cleared_run_writes_nothing_more(dags: Dags, sales: Sales) -> None:
    dag = dags.make(store)
    first = dags.run(dag)
    again = dags.run(dag, again=first)
    assert again.xcoms["store"] == first.xcoms["store"]
    assert len(reports(sales)) == 1


@pytest.mark.usefixtures("dags")
def test_the_same_key_again_runs_nothing_and_gives_back_what_the_first_one_returned(sales: Sales) -> None:
    plan = {
        "connection": "sales_db",
        "database": database_of("sales_db"),
        "sql": "INSERT INTO reports DEFAULT VALUES RETURNING report_id",
        "parameters": {},
    }
    first, again = (PostgresTarget("store").apply(plan, "one key") for _ in range(2))
    other = PostgresTarget("store").apply(plan, "another key")

    assert (first.external_id, again.external_id, again.result) == ("1", "1", {"marker": "found"})
    assert (other.external_id, len(reports(sales))) == ("2", 2)


@pytest.mark.usefixtures("short_claims")
def test_a_crash_between_the_commit_and_the_confirmation_is_found_by_the_marker(
    run: RunDag, record: Record, sales: Sales, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm, attempts = Effects.confirm, []

    def crash(self: Effects, *args: Any, **kwargs: Any) -> Any:
        attempts.append(args)
        if len(attempts) == 1:
            raise RuntimeError("killed")
        return confirm(self, *args, **kwargs)

    monkeypatch.setattr(Effects, "confirm", crash)

    done = run(store)

    (effect,) = record().current_effects
    assert (done.states["store"], done.tries["store"]) == ("success", 2)
    assert (effect.state, effect.external_id, effect.result) == (EffectState.APPLIED, "1", {"marker": "found"})
    assert len(reports(sales)) == len(markers(sales)) == 1


def test_a_connection_that_breaks_at_the_commit_is_resolved_by_the_retry(
    run: RunDag, record: Record, sales: Sales, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run, attempts = PostgresTarget._run, []

    def break_off(self: PostgresTarget, cursor: Any, *args: Any) -> Any:
        applied = _run(self, cursor, *args)
        attempts.append(1)
        if len(attempts) == 1:
            row = cursor.execute("SELECT pg_backend_pid()").fetchone()
            sales.execute("SELECT pg_terminate_backend(%s, 5000)", [row[0]])
        return applied

    monkeypatch.setattr(PostgresTarget, "_run", break_off)

    done = run(store)

    assert (done.states["store"], done.tries["store"]) == ("success", 2)
    assert record().current_effects[0].state is EffectState.APPLIED
    assert len(reports(sales)) == len(markers(sales)) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO nowhere VALUES (%(title)s)",
        "INSERT INTO reports (title) VALUES (%(title)s), (%(title)s)",
        "INSERT INTO reports (report_id) VALUES (%(title)s)",
    ],
    ids=["no table", "not unique", "wrong type"],
)
def test_a_statement_that_the_database_refuses_writes_nothing(
    run: RunDag, record: Record, sales: Sales, sql: str
) -> None:
    done = run(lambda: store(sql=sql))

    assert (done.states["store"], done.tries["store"]) == ("failed", 1)
    assert "refused the effect 'store'" in done.error("store")
    assert record().current_effects[0].state is EffectState.REFUSED
    assert (reports(sales), markers(sales)) == ([], [])


def test_a_database_that_accepts_no_connection_is_tried_again(
    run: RunDag, record: Record, sales: Sales, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_conn, attempts = PostgresHook.get_conn, []

    def connect(hook: PostgresHook) -> Any:
        attempts.append(1)
        with pytest.MonkeyPatch.context() as patch:
            if len(attempts) == 1:
                patch.setenv(
                    "AIRFLOW_CONN_SALES_DB", json.dumps({"conn_type": "postgres", "host": "127.0.0.1", "port": 1})
                )
            return get_conn(PostgresHook(postgres_conn_id="sales_db"))

    monkeypatch.setattr(PostgresHook, "get_conn", connect)

    done = run(store)

    assert (done.states["store"], done.tries["store"]) == ("success", 2)
    assert "no connection to the database" in done.error("store")
    assert (len(reports(sales)), record().current_effects[0].attempt) == (1, 2)


def test_a_marker_table_may_have_a_schema_and_an_odd_name(run: RunDag, record: Record, sales: Sales) -> None:
    sales.execute('CREATE SCHEMA IF NOT EXISTS "of us"')
    run(lambda: store(marker_table="of us.Sent"))
    try:
        assert len(markers(sales, '"of us"."Sent"')) == 1
    finally:
        sales.execute('DROP SCHEMA "of us" CASCADE')


class TestRoleThatMayNotCreateTables:
    """It uses the marker table that was made for it, for the effect and for its undo."""

    @pytest.fixture
    def writer(self, connections: None, sales: Sales, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        sales.execute("CREATE ROLE writer LOGIN PASSWORD 'of these tests'")
        sales.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        sales.execute("GRANT SELECT, INSERT, DELETE ON reports TO writer")
        sales.execute("CREATE SCHEMA bookkeeping")
        sales.execute(
            """CREATE TABLE bookkeeping.sent (
                effect_key text PRIMARY KEY, external_id text, applied_at timestamptz NOT NULL DEFAULT now())"""
        )
        sales.execute("GRANT USAGE ON SCHEMA bookkeeping TO writer")
        sales.execute("GRANT SELECT, INSERT, UPDATE ON bookkeeping.sent TO writer")
        conninfo = {"host": sales.info.host, "port": sales.info.port, "dbname": sales.info.dbname}
        fields: dict[str, Any] = {**conninfo, "user": "writer", "password": "of these tests"}
        monkeypatch.setenv("AIRFLOW_CONN_SALES_DB", postgres_connection(fields))
        with psycopg.connect(**fields) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE mine ()")
        yield
        sales.execute("DROP SCHEMA bookkeeping CASCADE")
        sales.execute("DROP OWNED BY writer")
        sales.execute("DROP ROLE writer")

    @pytest.mark.usefixtures("writer")
    def test_a_role_that_may_not_create_tables_keeps_both_markers_in_the_same_table(
        self, run: RunDag, record: Record, sales: Sales, ledger: Ledger
    ) -> None:
        remove = {"sql": "DELETE FROM reports WHERE report_id = %(id)s", "parameters": {"id": "{external_id}"}}
        assert run(lambda: store(undo=remove, marker_table="bookkeeping.sent")).states["store"] == "success"
        assert len(reports(sales)) == 1

        done = run(lambda: RollbackOperator(task_id="roll_back", job=1, reason="it was wrong"))

        assert done.states["roll_back"] == "success"
        assert (reports(sales), markers(sales)) == ([], [])
        keys = {effect.effect_key for effect in ledger.record(1).effects}
        assert len(keys) == 2
        assert {key for key, _ in markers(sales, "bookkeeping.sent")} == keys

    @pytest.mark.usefixtures("writer")
    def test_a_role_that_may_not_create_tables_writes_nothing_without_a_marker_table(
        self, run: RunDag, record: Record, sales: Sales
    ) -> None:
        done = run(store)
        assert "permission denied for schema public" in done.error("store")
        assert record().current_effects[0].state is EffectState.REFUSED
        assert reports(sales) == []


def test_an_undo_may_name_another_marker_table(run: RunDag, record: Record, sales: Sales) -> None:
    remove = {"sql": "DELETE FROM reports", "marker_table": "sent"}
    run(lambda: store(undo=remove))
    undo = record().current_effects[0].undo
    assert undo is not None
    assert undo["marker_table"] == "sent"


def test_what_a_database_quotes_of_rows_and_statements_is_in_no_error_and_in_no_ledger(
    run: RunDag, record: Record, sales: Sales
) -> None:
    sales.execute("INSERT INTO reports (title) VALUES (%s)", [NOTE["body"]])

    done = run(store)

    (effect,) = record().current_effects
    assert 'duplicate key value violates unique constraint "reports_title_key" (SQLSTATE 23505)' in str(effect.error)
    printed = "".join(line for error in done.errors["store"] for line in traceback.format_exception(error))
    for text in (printed, json.dumps([event.detail for event in record().events]), str(record())):
        assert "Key (title)" not in text
        assert "DETAIL" not in text
