"""Statements: what is checked before anyone approves them, how many rows they change, and both drivers of Airflow."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import psycopg
import pytest
import sqlalchemy
from airflow.providers.postgres.hooks import postgres as hook_module

from airflow_provider_aihandoff.core.effects.target import Applied
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused, HandoffError, PlanError
from airflow_provider_aihandoff.targets import postgres as target_module
from airflow_provider_aihandoff.targets import postgres_session
from airflow_provider_aihandoff.targets.postgres import PostgresTarget, plan_statement, postgres_hook, rows_of
from tests.talking import listening, silent, stalling

Sales = psycopg.Connection[Any]

KEY = "aih-1-r1-0123456789abcdef"
INSERT = "INSERT INTO reports (title) VALUES (%(title)s) RETURNING report_id"
UPDATE = "UPDATE reports SET title = title || '!' WHERE title LIKE %(title)s"


#: With SQLAlchemy 1.4, Airflow's hook knows psycopg 2 alone.
DRIVERS = ["psycopg 2"] if sqlalchemy.__version__.startswith("1.") else ["psycopg 3", "psycopg 2"]


@pytest.fixture(params=DRIVERS, autouse=True)
def _driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver that Airflow gives."""
    monkeypatch.setattr(hook_module, "USE_PSYCOPG3", request.param == "psycopg 3")


def run(sql: str, title: str = "Kettle", **options: Any) -> Applied:
    return PostgresTarget("store", **options).apply(plan_statement("sales_db", sql, {"title": title}), KEY)


def titles(sales: Sales) -> list[str]:
    return [row[0] for row in sales.execute("SELECT title FROM reports ORDER BY report_id").fetchall()]


class TestRows:
    def test_a_statement_that_changes_no_row_is_refused_and_leaves_no_marker(self, sales: Sales) -> None:
        with pytest.raises(EffectRefused, match="would change 0 rows, and must change at least 1"):
            run(UPDATE)
        run(INSERT)
        assert titles(sales) == ["Kettle"]

    @pytest.mark.parametrize(("rows", "right"), [(1, False), (2, True), ((0, 1), False), ((1, None), True), (0, False)])
    def test_a_statement_changes_as_many_rows_as_its_author_expects_or_none(
        self, sales: Sales, rows: Any, right: bool
    ) -> None:
        sales.execute("INSERT INTO reports (title) VALUES ('Kettle 1'), ('Kettle 2')")
        if right:
            assert run(UPDATE, "Kettle%", rows=rows_of(rows, "store")).result == {"rows": 2}
        else:
            with pytest.raises(EffectRefused, match="would change 2 rows"):
                run(UPDATE, "Kettle%", rows=rows_of(rows, "store"))
        assert titles(sales) == [f"Kettle {number}{'!' * right}" for number in (1, 2)]

    def test_a_statement_that_tells_no_number_of_rows_is_applied(self, sales: Sales) -> None:
        assert run("CREATE TEMPORARY TABLE t (a int)").result == {"rows": -1}

    @pytest.mark.parametrize("rows", [-1, True, "many", (2, 1), (1,), None, (0, -1), 1.5])
    def test_what_is_no_number_of_rows_is_refused(self, rows: Any) -> None:
        with pytest.raises(PlanError, match="`rows` of the effect 'store'"):
            rows_of(rows, "store")

    def test_an_undo_may_find_that_nothing_is_left_unless_its_author_says_otherwise(self, sales: Sales) -> None:
        declared = {"connection": "sales_db", "sql": "DELETE FROM reports WHERE title = 'Kettle'"}
        plan, options = PostgresTarget.plan_undo(declared, name="store")
        assert PostgresTarget.from_undo("undo:store", plan, options).apply(plan, KEY) == Applied(None, {"rows": 0})
        plan, options = PostgresTarget.plan_undo({**declared, "rows": 1}, name="store")
        with pytest.raises(EffectRefused, match="must change 1"):
            PostgresTarget.from_undo("undo:store", plan, options).apply(plan, KEY + "2")


class TestPlan:
    @pytest.mark.parametrize(
        ("sql", "what"),
        [
            ("SELECT %(title)s, %(other)s", "names parameters that it does not have: other"),
            ("SELECT '100%'", "has"),
            ("SELECT 1 % 2", "has '% '"),
            ("SELECT %s", "has '%s'"),
            ("SELECT %(title)d", r"has '%\(title\)d'"),
        ],
    )
    def test_a_statement_that_no_driver_takes_is_refused_before_anyone_approves_it(self, sql: str, what: str) -> None:
        with pytest.raises(PlanError, match=f"the statement of the effect 'store' {what}"):
            plan_statement("sales_db", sql, {"title": "x"})

    @pytest.mark.parametrize("text", ["a\x00b", "half \ud83d of one", ["\ud83d"], {"a": "\x00"}])
    def test_a_parameter_that_the_database_cannot_store_is_refused_before_anyone_approves_it(self, text: Any) -> None:
        with pytest.raises(PlanError, match=r"the statement of the effect 'store' has .* in parameters\.title"):
            plan_statement("sales_db", INSERT, {"title": text})

    def test_a_doubled_percent_sign_and_every_other_text_are_taken(self, sales: Sales) -> None:
        run("INSERT INTO reports (title) VALUES (%(title)s || '%%')", "100 % 'ü' ☕ %s %(x)s")
        assert titles(sales) == ["100 % 'ü' ☕ %s %(x)s%"]


class TestErrors:
    def test_a_refusal_of_the_database_is_one_whichever_driver_says_it(self, sales: Sales) -> None:
        run(INSERT)
        with pytest.raises(EffectRefused, match="duplicate key"):
            PostgresTarget("store").apply(plan_statement("sales_db", INSERT, {"title": "Kettle"}), "another key")
        assert titles(sales) == ["Kettle"]

    def test_the_same_key_again_finds_the_marker(self, sales: Sales) -> None:
        first = run(INSERT)
        assert run(INSERT) == Applied(first.external_id, {"marker": "found"})

    def test_a_server_that_ends_the_connection_before_the_commit_is_not_now(self, sales: Sales) -> None:
        with pytest.raises(EffectNotNow, match="broke before the commit"):
            run("SELECT pg_terminate_backend(pg_backend_pid()), %(title)s")

    def test_no_server_is_not_now_and_nothing_was_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_SALES_DB", "postgres://a:b@127.0.0.1:1/c")
        with pytest.raises(EffectNotNow, match="no connection to the database") as never:
            run(INSERT)
        assert not never.value.answered


class TestBounds:
    """A server or a network that says nothing more does not hold a worker."""

    @pytest.fixture(autouse=True)
    def _hurried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(postgres_session, "CONNECTION_DEFAULTS", {"connect_timeout": 2})
        monkeypatch.setattr(target_module, "_CALL_LIMIT", 1.0)

    @pytest.fixture
    def server(self) -> tuple[str, int]:
        """Where the database is."""
        named = json.loads(os.environ["AIRFLOW_CONN_SALES_DB"])
        return named["host"], int(named["port"])

    def lead_to(self, monkeypatch: pytest.MonkeyPatch, port: int) -> None:
        named = json.loads(os.environ["AIRFLOW_CONN_SALES_DB"])
        there = {"host": "127.0.0.1", "port": port, "extra": {"sslmode": "disable", "gssencmode": "disable"}}
        monkeypatch.setenv("AIRFLOW_CONN_SALES_DB", json.dumps({**named, **there}))

    def test_a_server_that_accepts_and_never_answers_is_not_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with listening(silent) as port:
            self.lead_to(monkeypatch, port)
            began = time.monotonic()
            with pytest.raises(EffectNotNow, match="no connection to the database"):
                run(INSERT)
            assert time.monotonic() - began < 6

    @pytest.mark.parametrize("deliver", [False, True], ids=["the network stops", "the server's answers stop"])
    def test_a_server_that_stops_in_the_middle_is_not_now_and_a_retry_writes_once(
        self, sales: Sales, server: tuple[str, int], monkeypatch: pytest.MonkeyPatch, deliver: bool
    ) -> None:
        with stalling(server, b"INSERT INTO reports", deliver=deliver) as port:
            self.lead_to(monkeypatch, port)
            planned = plan_statement("sales_db", INSERT, {"title": "Kettle"})
            began = time.monotonic()
            with pytest.raises(EffectNotNow, match="broke before the commit"):
                PostgresTarget("store").apply(planned, KEY)
            assert time.monotonic() - began < 5
        assert titles(sales) == []
        self.lead_to(monkeypatch, server[1])
        run(INSERT)
        assert titles(sales) == ["Kettle"]

    def test_a_server_that_stops_at_the_commit_leaves_it_unknown_and_the_marker_tells(
        self, sales: Sales, server: tuple[str, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with stalling(server, b"COMMIT", deliver=True) as port:
            self.lead_to(monkeypatch, port)
            began = time.monotonic()
            with pytest.raises(Exception, match="connection") as unknown:
                PostgresTarget("store").apply(plan_statement("sales_db", INSERT, {"title": "Kettle"}), KEY)
            assert not isinstance(unknown.value, HandoffError)
            assert time.monotonic() - began < 5
        assert titles(sales) == ["Kettle"]
        self.lead_to(monkeypatch, server[1])
        assert run(INSERT).result == {"marker": "found"}

    def test_an_attempt_that_died_in_its_transaction_does_not_hold_the_next_one(
        self, sales: Sales, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(target_module, "_IDLE_TIMEOUT", 300)
        target, planned = PostgresTarget("store"), plan_statement("sales_db", INSERT, {"title": "Kettle"})
        dead = postgres_hook("sales_db").get_conn()
        try:
            target._run(dead.cursor(), planned, KEY)
            monkeypatch.setattr(target_module, "_CALL_LIMIT", 10.0)
            assert target.apply(planned, KEY).result == {"rows": 1}
            with pytest.raises(Exception, match=r"terminat|closed"):
                dead.commit()
        finally:
            dead.close()
        assert titles(sales) == ["Kettle"]


def test_a_dead_network_is_noticed_unless_the_connection_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    named = json.loads(os.environ["AIRFLOW_CONN_SALES_DB"])
    monkeypatch.setenv("AIRFLOW_CONN_SALES_DB", json.dumps({**named, "extra": {"keepalives_idle": 7}}))
    with postgres_session.open_session(postgres_hook("sales_db"), 10) as connection:
        info = connection.info
        found = info.get_parameters() if hasattr(info, "get_parameters") else info.dsn_parameters
    assert (found["keepalives_idle"], found["tcp_user_timeout"]) == ("7", "60000")
