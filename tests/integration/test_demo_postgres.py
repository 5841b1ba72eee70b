"""PostgreSQL without a service: it keeps its data, survives a crash, and ends with the program that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from demo import guardian, postgres
from demo.business.seed import seed_business_database
from demo.postgres import HOSTILE, Postgres, PostgresServer, PostgresUnavailableError, open_postgres
from demo.waiting import PROCESS_SECONDS, wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path / "postgres")
    server.start()
    yield server
    server.destroy()


def write(server: Postgres) -> None:
    with server.connect("postgres") as connection:
        connection.execute("CREATE TABLE kept (line text)")
        connection.execute("INSERT INTO kept VALUES ('here')")


def read(server: Postgres) -> list[tuple[str]]:
    with server.connect("postgres") as connection:
        return connection.execute("SELECT line FROM kept").fetchall()


def test_data_and_address_stay_over_a_restart_and_a_second_start(server: PostgresServer, tmp_path: Path) -> None:
    write(server)
    address = server.url("postgres")
    server.restart()
    assert read(server) == [("here",)]
    server.stop()
    again = PostgresServer(tmp_path / "postgres")
    again.start()
    assert again.url("postgres") == address
    assert read(again) == [("here",)]
    again.stop()


def test_another_process_finds_the_server_that_runs(server: PostgresServer, tmp_path: Path) -> None:
    write(server)
    other = PostgresServer(tmp_path / "postgres")
    other.find()
    assert read(other) == [("here",)]
    with pytest.raises(PostgresUnavailableError, match="There is no server"):
        PostgresServer(tmp_path / "nowhere").find()


def test_postgresql_starts_again_after_a_crash_with_what_was_committed(server: PostgresServer) -> None:
    open_connection = server.connect("postgres")
    write(server)
    server.kill()
    assert server.pid is None
    with pytest.raises(psycopg.OperationalError):
        open_connection.execute("SELECT 1")
    server.start()
    assert read(server) == [("here",)]


def test_a_pid_file_that_names_another_program_does_not_keep_it_from_starting(server: PostgresServer) -> None:
    user = server._user[0] if server._user else None
    server.kill()
    pid_file = server.log.parent / "cluster" / "postmaster.pid"
    with subprocess.Popen(["sleep", "60"], user=user) as other:
        stale_pid, _, rest = pid_file.read_text().partition("\n")
        assert stale_pid.isdigit()
        pid_file.write_text(f"{other.pid}\n{rest}")
        try:
            server.start()
        finally:
            other.kill()
    assert server.pid is not None


def test_a_hostile_password_works_in_each_kind_of_address(server: PostgresServer) -> None:
    assert HOSTILE in server.connection_kwargs("postgres")["password"]
    server.create_database("odd name")
    server.create_database("odd name")
    psycopg.connect(**server.connection_kwargs("odd name")).close()
    psycopg.connect(server.url("odd name")).close()
    # SQLAlchemy 1.4 takes the name of a database as it stands in an address.
    name = "postgres" if sqlalchemy.__version__.startswith("1.") else "odd name"
    engine = sqlalchemy.create_engine(server.airflow_uri(name))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT current_database()").scalar() == name
    engine.dispose()


def test_a_wrong_password_is_refused(server: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**{**server.connection_kwargs("postgres"), "password": "wrong"})


def test_settings_reach_the_server_and_commits_are_durable_by_default(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "postgres", {"work_mem": "7MB"})
    server.start()
    with server.connect("postgres") as connection:
        shown = [connection.execute(f"SHOW {name}").fetchall() for name in ("work_mem", "fsync")]
    server.destroy()
    assert shown == [[("7MB",)], [("on",)]]


def test_a_server_that_is_given_is_used_and_left_alone(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(postgres.URL_VARIABLE, server.url("postgres") + "?application_name=given")
    given = open_postgres(tmp_path / "unused")
    given.start()
    given.create_database("made")
    psycopg.connect(given.url("made")).close()
    with given.connect("made") as connection:
        assert connection.execute("SHOW application_name").fetchone() == ("given",)
    for refused in (given.kill, given.restart):
        with pytest.raises(PostgresUnavailableError, match="not ours"):
            refused()
    given.destroy()
    assert server.pid is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user run the server")
def test_as_root_binaries_and_data_are_where_the_servers_user_can_reach_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = postgres._wheel_package()
    assert package is not None
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for part in (package, package.with_name(f"{package.name}.libs")):
        (closed / part.name).symlink_to(part)
    monkeypatch.setattr(postgres, "_wheel_package", lambda: closed / package.name)
    server = PostgresServer(closed / "postgres")
    server.start()
    write(server)
    folder = (closed / "postgres").resolve()
    assert closed not in folder.parents
    assert closed.stat().st_mode & 0o777 == 0o700
    assert (folder / "binaries").is_dir()
    server.destroy()
    assert not folder.exists()
    assert not (closed / "postgres").is_symlink()


def test_the_server_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from demo.postgres import PostgresServer
server = PostgresServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "postgres")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        members = guardian.descendants(starter.pid)
        assert pid in members
        starter.send_signal(signal.SIGKILL)
    # Starting at once on the same data waits for the old server to be gone.
    server = PostgresServer(tmp_path / "postgres")
    server.start()
    wait_until(lambda: not members & guardian.process_table().keys(), "the end of the old server", PROCESS_SECONDS)
    server.destroy()


def test_the_machines_own_postgres_is_used_where_the_wheel_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_wheel_package", lambda: None)
    try:
        postgres._machine_binaries()
    except PostgresUnavailableError as error:
        pytest.skip(str(error))
    server = PostgresServer(tmp_path / "postgres")
    server.start()
    write(server)
    server.restart()
    assert read(server) == [("here",)]
    server.destroy()


def test_the_business_database_is_seeded_once(server: PostgresServer) -> None:
    server.create_database("business")
    for _ in range(2):
        seed_business_database(server.connection_kwargs("business"))
    with server.connect("business") as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT week) FROM sales").fetchone() == (624, 26)
        assert connection.execute("SELECT count(*) FROM reports").fetchone() == (0,)
