"""What the database may answer just when an outcome is recorded: a lock, a full disk, a standby. Nothing is lost."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.database import connection as connection_module
from airflow_provider_aihandoff.core.database.connection import TRANSACTION_TRIES, Database, LedgerConnection
from airflow_provider_aihandoff.core.errors import LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.limits import Limits
from airflow_provider_aihandoff.core.states import EffectState, ResponseStatus, RevisionState
from demo.postgres import Postgres, PostgresServer
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec
from tests.failing_database import failing

SHORT = Limits(lock=0.3, statement=2.0, patience=0.0)

PASSING = ["40001", "40P01", "53100", "53200", "53300", "55P03", "57014", "25006", "57P03", "58030", "08006"]


@pytest.fixture
def fail(conninfo: dict[str, Any]) -> Iterator[Callable[..., None]]:
    """Make the next updates of a table fail."""
    with ExitStack() as stack:

        def start(table: str, state: str, times: int) -> None:
            stack.enter_context(failing(conninfo, table, state, times=times))

        yield start


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between tries."""
    for name in ("_RETRY_BASE", "_RETRY_CAP", "_PERSIST_BASE", "_PERSIST_CAP"):
        monkeypatch.setattr(connection_module, name, 0.001)


@pytest.fixture
def one(conninfo: dict[str, Any]) -> Iterator[Ledger]:
    """A ledger with short time-outs."""
    with Ledger(conninfo, max_size=2, limits=SHORT) as opened:
        yield opened


def claimed(ledger: Ledger) -> Any:
    job = approve(ledger, ask(ledger, draft(ledger)))
    return ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)


def confirm(ledger: Ledger, claim: Any) -> EffectState:
    return ledger.effects.confirm(claim, external_id="rec-1", result={}, actor=TEST).state


def history_of(ledger: Ledger) -> list[str]:
    return [event.event for event in ledger.record(1).events]


@pytest.mark.usefixtures("quick")
class TestOutcome:
    """More failures than one transaction has tries: recording an outcome goes on."""

    @pytest.mark.parametrize("state", PASSING)
    def test_of_a_write_is_recorded_once_whatever_the_database_answers_first(
        self, one: Ledger, fail: Callable[..., None], state: str
    ) -> None:
        claim = claimed(one)
        fail("effects", state, TRANSACTION_TRIES + 2)
        assert confirm(one, claim) is EffectState.APPLIED
        assert history_of(one).count("effect applied") == 1

    @pytest.mark.parametrize("how", ["release", "refuse", "lose"])
    def test_of_a_write_that_failed_is_recorded_too(self, one: Ledger, fail: Callable[..., None], how: str) -> None:
        claim = claimed(one)
        fail("effects", "53100", TRANSACTION_TRIES + 2)
        effect = getattr(one.effects, how)(claim, error="no", actor=TEST)
        assert effect.state is not EffectState.CLAIMED

    @pytest.mark.parametrize("state", PASSING)
    def test_of_a_submission_is_recorded_once(self, one: Ledger, fail: Callable[..., None], state: str) -> None:
        job = one.submission.open(job_spec()).job
        intent = one.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
        assert intent.token is not None
        fail("revisions", state, TRANSACTION_TRIES + 2)
        revision = one.submission.submitted(
            job.job_id, 1, token=intent.token, response_id="resp_1", status=ResponseStatus.QUEUED, actor=TEST
        )
        assert revision is not None
        assert (revision.state, revision.response_id) == (RevisionState.RUNNING, "resp_1")
        assert history_of(one).count("submitted") == 1

    def test_is_given_up_after_the_documented_time_and_says_what_the_database_said(
        self, one: Ledger, fail: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_module, "PATIENCE", 0.2)
        claim = claimed(one)
        fail("effects", "53100", 10**6)
        with pytest.raises(LedgerUnavailable, match=r"made up \(SQLSTATE 53100\)") as error:
            confirm(one, claim)
        assert "of the content" not in str(error.value)
        assert "disk" in str(error.value)

    def test_is_not_tried_again_where_that_cannot_help(self, one: Ledger, fail: Callable[..., None]) -> None:
        claim, kept = claimed(one), list[int]()
        fail("effects", "42501", 10**6)
        with pytest.raises(LedgerUnavailable, match=r"refuses the step: made up \(SQLSTATE 42501"):
            one._database.persist(
                lambda connection: connection.execute("UPDATE aihandoff.effects SET error = 'x'"),
                keep=lambda: kept.append(1),
            )
        assert kept == [1]
        assert one.effects.read(claim.effect.effect_id).state is EffectState.CLAIMED

    def test_is_kept_elsewhere_at_the_first_failure_and_only_then(self, one: Ledger, fail: Callable[..., None]) -> None:
        kept: list[int] = []
        one._database.persist(lambda connection: connection.execute("SELECT 1"), keep=lambda: kept.append(1))
        assert kept == []
        claimed(one)
        fail("effects", "53100", 3 * TRANSACTION_TRIES)
        one._database.persist(
            lambda connection: connection.execute("UPDATE aihandoff.effects SET error = 'x'"),
            keep=lambda: kept.append(1),
        )
        assert kept == [1]

    def test_is_kept_elsewhere_by_a_process_that_is_ended_meanwhile(self, one: Ledger) -> None:
        kept: list[int] = []

        def work(connection: LedgerConnection) -> None:
            raise SystemExit("SIGTERM")

        with pytest.raises(SystemExit):
            one._database.persist(work, keep=lambda: kept.append(1))
        assert kept == [1]


class TestLocks:
    def test_a_row_that_another_session_keeps_locked_delays_the_outcome_and_loses_nothing(
        self, one: Ledger, conninfo: dict[str, Any]
    ) -> None:
        claim = claimed(one)
        with psycopg.connect(**conninfo) as psql, ThreadPoolExecutor(1) as threads:
            psql.execute("SELECT FROM aihandoff.jobs FOR UPDATE")
            recording = threads.submit(confirm, one, claim)
            time.sleep(3 * SHORT.lock)
            assert not recording.done()
            psql.rollback()
            assert recording.result(20) is EffectState.APPLIED

    def test_a_step_that_waits_for_a_lock_in_vain_says_what_to_do_and_holds_up_no_one_else(
        self, one: Ledger, conninfo: dict[str, Any]
    ) -> None:
        job = ask(one, draft(one))
        with psycopg.connect(**conninfo) as psql, ThreadPoolExecutor(4) as threads:
            psql.execute("SELECT FROM aihandoff.jobs FOR UPDATE")
            began = time.monotonic()
            decisions = [threads.submit(approve, one, job) for _ in range(4)]  # twice the connections of the pool
            for decision in decisions:
                with pytest.raises(LedgerUnavailable, match=r"55P03.*pg_blocking_pids"):
                    decision.result(20)
            assert time.monotonic() - began < 10
            assert one.job(job.job_id).state is job.state

    def test_a_process_with_patience_waits_for_longer_than_one_time_out(self, conninfo: dict[str, Any]) -> None:
        database, failed = Database(conninfo, limits=Limits(lock=0.2, statement=5, patience=20)), threading.Event()
        with psycopg.connect(**conninfo) as psql, ThreadPoolExecutor(1) as threads:
            psql.execute("LOCK TABLE aihandoff.ledger")

            def work(connection: LedgerConnection) -> int:
                try:
                    return connection.execute("SELECT FROM aihandoff.ledger").rowcount
                except psycopg.errors.LockNotAvailable:
                    failed.set()
                    raise

            reading = threads.submit(database.transact, work)
            assert failed.wait(20)
            psql.rollback()
            assert reading.result(20) == 1
        database.close()

    def test_two_steps_that_block_each_other_are_both_done(self, conninfo: dict[str, Any]) -> None:
        database = Database(conninfo, max_size=2)
        with psycopg.connect(**conninfo) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS pair (id int PRIMARY KEY, n int)")
            connection.execute("INSERT INTO pair VALUES (1, 0), (2, 0)")
        meeting, tries = threading.Barrier(2), []

        def work(first: int, second: int) -> Callable[[LedgerConnection], None]:
            def lock(connection: LedgerConnection) -> None:
                tries.append(1)
                connection.execute("UPDATE pair SET n = n + 1 WHERE id = %s", [first])
                if len(tries) <= 2:
                    meeting.wait(20)
                connection.execute("UPDATE pair SET n = n + 1 WHERE id = %s", [second])

            return lock

        with ThreadPoolExecutor(2) as threads:
            for step in [threads.submit(database.transact, work(1, 2)), threads.submit(database.transact, work(2, 1))]:
                step.result(30)
        counts = database.transact(lambda connection: connection.execute("SELECT n FROM pair").fetchall())
        database.close()
        with psycopg.connect(**conninfo) as connection:
            connection.execute("DROP TABLE pair")
        assert [row["n"] for row in counts] == [2, 2]
        assert len(tries) == 3

    def test_a_conflict_that_shows_at_the_commit_runs_the_step_again(self, conninfo: dict[str, Any]) -> None:
        database, tries = Database(conninfo), list[int]()
        with psycopg.connect(**conninfo) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS doctors (name text, on_call bool)")
            connection.execute("INSERT INTO doctors VALUES ('a', true), ('b', true)")

        def leave(connection: Any, name: str) -> None:
            connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            connection.execute("SELECT count(*) FROM doctors WHERE on_call")
            connection.execute("UPDATE doctors SET on_call = false WHERE name = %s", [name])

        def work(connection: LedgerConnection) -> None:
            tries.append(1)
            leave(connection, "a")
            if len(tries) == 1:
                with psycopg.connect(**conninfo) as other:
                    leave(other, "b")

        database.transact(work)
        database.close()
        with psycopg.connect(**conninfo) as connection:
            connection.execute("DROP TABLE doctors")
        assert len(tries) == 2


class TestTimeOuts:
    def test_they_hold_for_every_transaction_on_the_server_itself(self, conninfo: dict[str, Any]) -> None:
        database = Database(conninfo, limits=Limits(lock=1.5, statement=2.5, patience=0))
        names = ["lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"]
        query = "SELECT name, setting::int AS ms FROM pg_settings WHERE name = ANY(%s)"
        for _ in range(3):
            rows = database.transact(lambda connection: connection.execute(query, [names]).fetchall())
            assert {row["name"]: row["ms"] for row in rows} == dict(zip(names, [1500, 2500, 10000], strict=True))
        database.close()

    def test_they_leave_nothing_behind_in_a_session_that_a_pooler_gives_to_others(
        self, conninfo: dict[str, Any]
    ) -> None:
        database, values = Database(conninfo), []
        database.transact(lambda connection: connection.execute("SELECT 1"))
        with database._pool.connection() as connection:
            values.append(connection.execute("SHOW lock_timeout").fetchone())
        database.close()
        assert values == [{"lock_timeout": "0"}]

    @pytest.mark.usefixtures("quick")
    def test_a_statement_that_takes_too_long_is_ended_and_said(self, conninfo: dict[str, Any]) -> None:
        database = Database(conninfo, limits=SHORT)
        with pytest.raises(LedgerUnavailable, match=r"once within \d+ s: .*statement timeout \(SQLSTATE 57014\)"):
            database.transact(lambda connection: connection.execute("SELECT pg_sleep(30)"))
        database.close()


@pytest.fixture
def standby(postgres: Postgres, tmp_path: Path) -> Iterator[PostgresServer]:
    """A real standby of the server of the session."""
    if not isinstance(postgres, PostgresServer):
        pytest.skip("the server that was given is not ours to copy")
    server = PostgresServer(tmp_path / "standby")
    folder = server._prepare_folder()
    login = postgres.connection_kwargs("postgres")
    (folder / "password").write_text(login["password"])
    command = [str(server._binaries(folder) / "pg_basebackup"), "-D", str(folder / "cluster"), "-R", "-c", "fast"]
    where = ["-h", login["host"], "-p", str(login["port"]), "-U", login["user"]]
    user: dict[str, Any] = {}
    if server._user is not None:
        user = {"user": server._user[0], "group": server._user[1], "extra_groups": []}
    environment = {"PGPASSWORD": login["password"]}
    subprocess.run([*command, *where], check=True, env=environment, cwd=folder, capture_output=True, **user)
    server.start()
    yield server
    server.kill()
    server.destroy()


class TestReadOnly:
    def test_a_standby_is_refused_in_words(
        self, standby: PostgresServer, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT", 0.5)
        database = Database({**conninfo, **standby.connection_kwargs(conninfo["dbname"])})
        with pytest.raises(LedgerUnavailable, match="read-only"):
            database.transact(lambda connection: connection.execute("SELECT 1"))
        database.close()

    def test_of_several_hosts_the_one_that_takes_writes_is_used(
        self, standby: PostgresServer, conninfo: dict[str, Any]
    ) -> None:
        hosts = {"host": "127.0.0.1,127.0.0.1", "port": f"{standby.connection_kwargs('')['port']},{conninfo['port']}"}
        database = Database({**conninfo, **hosts})
        row = database.transact(lambda connection: connection.execute("SELECT pg_is_in_recovery() AS is_it").fetchone())
        database.close()
        assert row == {"is_it": False}

    @pytest.mark.usefixtures("quick")
    def test_a_connection_to_a_server_that_takes_no_writes_any_more_is_dropped(
        self, one: Ledger, postgres: Postgres
    ) -> None:
        claim, pids = claimed(one), list[int]()
        one._database.transact(lambda connection: pids.append(connection.info.backend_pid))
        set_read_only(postgres, "on")
        try:
            with ThreadPoolExecutor(1) as threads:
                recording = threads.submit(confirm, one, claim)
                time.sleep(0.5)
                assert not recording.done()
                set_read_only(postgres, "off")
                assert recording.result(30) is EffectState.APPLIED
        finally:
            set_read_only(postgres, "off")
        one._database.transact(lambda connection: pids.append(connection.info.backend_pid))
        assert pids[0] != pids[1]


def set_read_only(postgres: Postgres, value: str) -> None:
    with postgres.connect("postgres") as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
        connection.execute("SELECT pg_reload_conf()")
    time.sleep(0.2)
