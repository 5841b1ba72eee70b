"""Whatever a password, a network or a restart does: no transaction is lost silently, and none runs twice."""

from __future__ import annotations

import secrets
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from airflow.sdk import Connection
from psycopg import sql

from airflow_provider_aihandoff.core import limits
from airflow_provider_aihandoff.core.database import connection as connection_module
from airflow_provider_aihandoff.core.database.connection import TRANSACTION_TRIES, Database, LedgerConnection
from airflow_provider_aihandoff.core.errors import HandoffError, JobCancelled, LedgerUnavailable
from airflow_provider_aihandoff.hooks.ledger import libpq_parameters
from demo.postgres import Postgres, PostgresServer

ADD = "INSERT INTO tries DEFAULT VALUES"


@pytest.fixture
def database(empty_conninfo: dict[str, Any]) -> Iterator[Database]:
    with psycopg.connect(**empty_conninfo) as connection:
        connection.execute("CREATE TABLE tries (id int GENERATED ALWAYS AS IDENTITY, note text)")
    opened = Database(empty_conninfo, max_size=2)
    yield opened
    opened.close()


@pytest.fixture
def several(empty_conninfo: dict[str, Any]) -> Iterator[Database]:
    """A pool of eight connections."""
    opened = Database(empty_conninfo, max_size=8)
    yield opened
    opened.close()


def count(database: Database) -> int:
    row = database.transact(lambda connection: connection.execute("SELECT count(*) AS n FROM tries").fetchone())
    assert row is not None
    return int(row["n"])


def cut(conninfo: dict[str, Any], connection: LedgerConnection) -> None:
    """End a connection's server process, as a restart would; return when it is gone."""
    pid = connection.info.backend_pid
    with psycopg.connect(**conninfo, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


class TestErrors:
    def test_an_error_of_a_statement_says_what_was_wrong_and_quotes_no_row(self, database: Database) -> None:
        def work(connection: LedgerConnection) -> None:
            connection.execute("ALTER TABLE tries ADD CHECK (note <> 'of a row')")
            connection.execute("INSERT INTO tries (note) VALUES ('of a row')")

        with pytest.raises(
            psycopg.errors.CheckViolation, match=r"violates check constraint .* \(SQLSTATE 23514\)"
        ) as seen:
            database.transact(work)
        assert "DETAIL" not in "".join(traceback.format_exception(seen.value))


class TestCredentials:
    def test_the_password_of_every_test_is_a_hostile_one(self, conninfo: dict[str, Any], postgres: Postgres) -> None:
        if isinstance(postgres, PostgresServer):
            assert set(""" '"%@:/\\#?&=$""") <= set(conninfo["password"])

    @pytest.mark.parametrize(
        "password",
        [
            'it\'s "quoted"',
            "100%s %(x)s %",
            "user@host:5432/db?x=y&z#f",
            "\\",
            "' OR 1=1 --",
            "pä😀",
            " lead",
            "{}${HOME}",
        ],
    )
    def test_any_password_opens_the_ledger_through_an_airflow_connection(
        self, conninfo: dict[str, Any], password: str
    ) -> None:
        role = f"role_{secrets.token_hex(4)}"
        with psycopg.connect(**conninfo) as admin:
            admin.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
            )
        airflow = Connection(
            conn_id="aihandoff_ledger",
            conn_type="postgres",
            host=conninfo["host"],
            port=conninfo["port"],
            login=role,
            password=password,
            schema=conninfo["dbname"],
        )
        # As Airflow keeps it in an environment variable or a secrets backend.
        database = Database(libpq_parameters(Connection.from_uri(airflow.get_uri(), conn_id="aihandoff_ledger")))
        row = database.transact(lambda connection: connection.execute("SELECT current_user AS me").fetchone())
        database.close()
        assert row == {"me": role}

    def test_a_wrong_password_is_said_and_never_shown(
        self, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT", 0.5)
        database = Database({**conninfo, "password": "wr0ng"})
        with pytest.raises(LedgerUnavailable, match="password authentication failed") as error:
            count(database)
        database.close()
        assert "wr0ng" not in str(error.value)


class TestParameters:
    def airflow_connection(self, **changes: Any) -> Connection:
        return Connection(**{"conn_id": "l", "conn_type": "postgres", "host": "db", "schema": "ledger", **changes})

    def test_tls_settings_and_other_parameters_of_libpq_are_handed_over(self) -> None:
        extra = '{"sslmode": "verify-full", "sslrootcert": "/ca.pem", "options": "-c statement_timeout=5s"}'
        assert libpq_parameters(self.airflow_connection(extra=extra)) == {
            "host": "db",
            "dbname": "ledger",
            "sslmode": "verify-full",
            "sslrootcert": "/ca.pem",
            "options": "-c statement_timeout=5s",
        }

    def test_a_connection_field_that_libpq_does_not_know_is_left_out(self) -> None:
        extra = '{"cursor": "dictcursor", "iam": false, "sqlalchemy_scheme": "postgresql+psycopg2"}'
        assert libpq_parameters(self.airflow_connection(extra=extra)) == {"host": "db", "dbname": "ledger"}

    def test_the_fields_of_the_connection_win_over_its_extra(self) -> None:
        assert libpq_parameters(self.airflow_connection(extra='{"host": "other"}'))["host"] == "db"

    def test_a_connection_of_another_type_is_refused(self) -> None:
        with pytest.raises(ValueError, match="must be 'postgres'"):
            libpq_parameters(self.airflow_connection(conn_type="mysql"))

    def test_tls_that_is_required_is_not_given_up(
        self, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT", 0.5)
        database = Database({**conninfo, "sslmode": "require"})
        with pytest.raises(LedgerUnavailable, match="does not support SSL"):
            count(database)
        database.close()

    def test_parameters_of_the_connection_win_over_the_defaults(self) -> None:
        database = Database({"application_name": "mine", "connect_timeout": 1})
        database.close()
        assert (database.conninfo["application_name"], database.conninfo["connect_timeout"]) == ("mine", 1)


class TestBrokenConnections:
    def test_a_transaction_that_was_cut_off_before_its_commit_runs_again_and_counts_once(
        self, conninfo: dict[str, Any], database: Database
    ) -> None:
        runs: list[int] = []

        def work(connection: LedgerConnection) -> str:
            runs.append(1)
            connection.execute(ADD)
            if len(runs) == 1:
                cut(conninfo, connection)
            connection.execute(ADD)
            return "done"

        assert database.transact(work) == "done"
        assert (len(runs), count(database)) == (2, 2)

    def test_a_transaction_that_was_cut_off_at_its_commit_does_not_run_again(
        self, conninfo: dict[str, Any], database: Database
    ) -> None:
        runs: list[int] = []

        def work(connection: LedgerConnection) -> None:
            runs.append(1)
            connection.execute(ADD)
            cut(conninfo, connection)

        with pytest.raises(LedgerUnavailable, match="not known whether the step was recorded"):
            database.transact(work)
        assert len(runs) == 1

    @pytest.mark.parametrize("before_commit", [False, True])
    def test_an_idle_transaction_blocks_no_one_and_runs_again(
        self, empty_conninfo: dict[str, Any], database: Database, monkeypatch: pytest.MonkeyPatch, before_commit: bool
    ) -> None:
        monkeypatch.setattr(limits, "IDLE_LIMIT", 0.2)
        paused, go_on = threading.Event(), threading.Event()
        others = Database(empty_conninfo)
        runs = []

        def pause(*_: Any) -> None:
            paused.set()
            assert go_on.wait(30)

        def lock_and_add(connection: LedgerConnection) -> None:
            runs.append(1)
            connection.execute("LOCK TABLE tries")
            if len(runs) == 1 and not before_commit:
                pause()
            connection.execute(ADD)

        def pause_before_commit(_: object, moment: str) -> None:
            if moment == "before commit" and not paused.is_set():
                pause()

        if before_commit:
            monkeypatch.setattr(
                connection_module,
                "reached",
                pause_before_commit,
            )
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(database.transact, lock_and_add)
            assert paused.wait(30)
            try:
                others.transact(lambda connection: connection.execute(ADD))
            finally:
                go_on.set()
                others.close()
            stopped.result(30)

        assert (len(runs), count(database)) == (2, 2)

    def test_a_repeatable_transaction_that_was_cut_off_at_its_commit_runs_again(
        self, conninfo: dict[str, Any], database: Database
    ) -> None:
        runs: list[int] = []

        def work(connection: LedgerConnection) -> int:
            runs.append(1)
            if len(runs) == 1:
                cut(conninfo, connection)
            return len(runs)

        def cut_after_writing(connection: LedgerConnection) -> int:
            connection.execute(ADD)
            return work(connection)

        assert database.transact(cut_after_writing, repeatable=True) == 2

    def test_a_connection_that_breaks_every_time_is_given_up_after_some_tries(
        self, conninfo: dict[str, Any], database: Database
    ) -> None:
        runs: list[int] = []

        def work(connection: LedgerConnection) -> None:
            runs.append(1)
            connection.execute(ADD)
            cut(conninfo, connection)
            connection.execute(ADD)

        with pytest.raises(LedgerUnavailable, match=f"broke the connection {TRANSACTION_TRIES} times"):
            database.transact(work)
        assert (len(runs), count(database)) == (TRANSACTION_TRIES, 0)

    def test_an_error_of_the_work_itself_rolls_back_and_is_raised_as_it_is(self, database: Database) -> None:
        def work(connection: LedgerConnection) -> None:
            connection.execute(ADD)
            raise KeyError("of the caller")

        with pytest.raises(KeyError):
            database.transact(work)
        assert count(database) == 0

    @pytest.mark.parametrize("how", ["transact", "persist"])
    def test_an_error_that_the_work_returns_is_raised_after_the_commit(self, database: Database, how: str) -> None:
        runs: list[int] = []

        def work(connection: LedgerConnection) -> int | HandoffError:
            runs.append(1)
            connection.execute(ADD)
            return JobCancelled("it was cancelled.")

        with pytest.raises(JobCancelled, match="it was cancelled"):
            getattr(database, how)(work)
        assert (len(runs), count(database)) == (1, 1)

    def test_a_statement_that_the_server_refuses_is_not_run_again(self, database: Database) -> None:
        runs: list[int] = []

        def work(connection: LedgerConnection) -> None:
            runs.append(1)
            connection.execute("SELECT 1 / 0")

        with pytest.raises(psycopg.errors.DivisionByZero):
            database.transact(work)
        assert len(runs) == 1

    def test_an_idle_connection_that_was_cut_off_is_replaced_unnoticed(
        self, conninfo: dict[str, Any], database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_module, "_TRUSTED", 0)
        pids: list[int] = []
        database.transact(lambda connection: pids.append(connection.info.backend_pid))
        with psycopg.connect(**conninfo, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", pids)
        runs: list[int] = []

        def work(connection: LedgerConnection) -> None:
            runs.append(1)
            connection.execute(ADD)

        database.transact(work)
        assert (len(runs), count(database)) == (1, 1)

    def test_after_one_connection_broke_the_others_are_replaced_too(
        self, conninfo: dict[str, Any], several: Database
    ) -> None:
        barrier = threading.Barrier(8)

        def work(connection: LedgerConnection) -> int:
            barrier.wait()
            return connection.info.backend_pid

        with ThreadPoolExecutor(8) as threads:
            pids = list(threads.map(lambda _: several.transact(work), range(8)))
        with psycopg.connect(**conninfo, autocommit=True) as other:
            for pid in pids:
                other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
        runs: list[int] = []

        def count_runs(connection: LedgerConnection) -> None:
            runs.append(1)
            connection.execute("SELECT 1")

        several.transact(count_runs)  # more connections are dead than it has tries
        assert len(set(pids)) == 8
        assert len(runs) == 1

    def test_a_pool_whose_connections_are_all_busy_says_so(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database._pool.timeout = 0.2
        busy, go_on = threading.Barrier(3), threading.Event()

        def work(connection: LedgerConnection) -> None:
            busy.wait(10)
            go_on.wait(10)

        threads = [threading.Thread(target=database.transact, args=[work]) for _ in range(2)]
        for thread in threads:
            thread.start()
        busy.wait(10)
        try:
            with pytest.raises(LedgerUnavailable, match="each of its connections is in use"):
                count(database)
        finally:
            go_on.set()
            for thread in threads:
                thread.join()
        assert count(database) == 0


@pytest.fixture
def own_server(postgres: Postgres, conninfo: dict[str, Any]) -> PostgresServer:
    """The server of the session, to be restarted: other tests have no connection open meanwhile."""
    if not isinstance(postgres, PostgresServer):
        pytest.skip("the server that was given is not ours to restart")
    return postgres


class TestRestart:
    def test_a_restart_between_two_transactions_is_not_noticed(
        self, own_server: PostgresServer, database: Database
    ) -> None:
        database.transact(lambda connection: connection.execute(ADD))
        own_server.restart()
        assert count(database) == 1

    def test_a_restart_within_a_transaction_runs_it_again(self, own_server: PostgresServer, database: Database) -> None:
        runs: list[int] = []

        def work(connection: LedgerConnection) -> None:
            runs.append(1)
            connection.execute(ADD)
            if len(runs) == 1:
                own_server.restart()
            connection.execute(ADD)

        database.transact(work)
        assert (len(runs), count(database)) == (2, 2)

    def test_a_server_that_was_unavailable_for_long_is_found_again_as_soon_as_it_is_back(
        self, own_server: PostgresServer, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        database._pool.timeout = 0.3
        assert count(database) == 0
        own_server.stop()
        try:
            with pytest.raises(LedgerUnavailable, match=r"refused|closed"):
                count(database)
        finally:
            own_server.start()
        database._pool.timeout = 10
        assert count(database) == 0

    def test_a_step_that_must_not_be_lost_waits_for_an_unavailable_server(
        self, own_server: PostgresServer, database: Database
    ) -> None:
        database._pool.timeout = 0.3
        own_server.stop()
        failures = threading.Event()
        database_why, results = database._why_not, []

        def note_failure() -> str:
            failures.set()
            return database_why()

        database._why_not = note_failure  # type: ignore[method-assign]
        recorder = threading.Thread(
            target=lambda: results.append(database.persist(lambda connection: connection.execute(ADD).rowcount))
        )
        recorder.start()
        try:
            assert failures.wait(20)
        finally:
            own_server.start()
            recorder.join(60)
        assert results == [1]

    def test_a_step_that_must_not_be_lost_is_given_up_in_the_end(
        self, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT", 0.2)
        monkeypatch.setattr(connection_module, "PATIENCE", 0.5)
        database = Database({**conninfo, "port": 1})
        with pytest.raises(LedgerUnavailable):
            database.persist(lambda connection: None)
        database.close()

    def test_the_backoff_of_the_pool_stays_below_what_a_task_waits(self, database: Database) -> None:
        assert database._pool.reconnect_timeout <= connection_module.CONNECT_TIMEOUT
