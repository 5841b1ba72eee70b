"""A PostgreSQL, an Airflow of which only the triggerer runs, and an OpenAI that counts: all in one folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psycopg

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.ledger import Ledger
from benchmarks.waiting_rows import CONN_ID, DAG_ID, LEDGER_CONN_ID, RUN_ID, TASK_ID, write_dag
from demo.airflow_stack import LEDGER_DATABASE, METADATA_DATABASE, AirflowStack
from demo.ports import free_port
from demo.postgres import open_postgres
from demo.processes import ProcessSpec, Supervisor, python, run_to_end
from demo.waiting import wait_until

FILLED_DATABASE = "waiting_ledger_filled"
OWN_NAME = "benchmark"
"""Tells this program's connections to the ledger from the triggerer's."""
SETUP_SECONDS = 240
START_SECONDS = 90
PROJECT = Path(__file__).parent.parent

_FILL_LEDGER = """
    INSERT INTO aihandoff.jobs (job_id, job_type, job_key, state, input, input_digest, requested_by, permissions,
        approval, max_revisions, revision, dag_id, run_id, task_id, map_index, ti_id, try_number, event_seq,
        event_hash, created_at, updated_at)
    OVERRIDING SYSTEM VALUE
    SELECT n + 1, 'waiting', n, 'running', '{}', repeat('0', 64), 'benchmark', '{}', 'required', 1, 1, %(dag_id)s,
        %(run_id)s, %(task_id)s, n, 'ti-' || n, 1, 0, repeat('0', 64), now(), now()
    FROM generate_series(0, %(jobs)s) AS n;
    INSERT INTO aihandoff.revisions (job_id, number, author, author_kind, state, conn_id, request, request_digest,
        deadline, submissions, response_id, response_status, created_at, submitted_at)
    SELECT n + 1, 1, 'model', 'model', 'running', %(conn_id)s, '{}', repeat('0', 64), now() + interval '1 day', 1,
        'resp_' || n, 'running', now(), now()
    FROM generate_series(0, %(jobs)s) AS n"""

#: Each set has as many jobs.
_FILL_SETS = """
    INSERT INTO aihandoff.sets (set_id, set_type, set_key, requested_by, dag_id, run_id, task_id, map_index, deadline,
        items, left_out, created_at, updated_at)
    OVERRIDING SYSTEM VALUE
    SELECT n, 'waiting', n, 'benchmark', %(dag_id)s, %(run_id)s, %(task_id)s, n - 1, now() + interval '1 day',
        %(of_each)s, '{"counts": {}, "first": []}', now(), now()
    FROM generate_series(1, %(sets)s) AS n;
    UPDATE aihandoff.jobs SET set_id = (job_id - 1) / %(of_each)s + 1"""

#: What happens in Airflow's database is noted where it happens, with the time of the statement.
_NOTE = """
    CREATE TABLE waiting_resumed (map_index integer, at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE waiting_heartbeats (at timestamptz DEFAULT clock_timestamp());
    CREATE FUNCTION waiting_note_resumed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO waiting_resumed (map_index) VALUES (NEW.map_index); RETURN NULL; END $$;
    CREATE FUNCTION waiting_note_heartbeat() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO waiting_heartbeats DEFAULT VALUES; RETURN NULL; END $$;
    CREATE TRIGGER waiting_resumed AFTER UPDATE OF state ON task_instance FOR EACH ROW
        WHEN (OLD.state = 'deferred' AND NEW.state = 'scheduled') EXECUTE FUNCTION waiting_note_resumed();
    CREATE TRIGGER waiting_heartbeats AFTER UPDATE OF latest_heartbeat ON job FOR EACH ROW
        WHEN (NEW.job_type = 'TriggererJob') EXECUTE FUNCTION waiting_note_heartbeat()"""

#: Defers the first tasks of the run. The triggerer takes up the first one; the others stand in a queue that it does
#: not serve, until they are released.
_DEFER = """
    UPDATE task_instance SET trigger_id = NULL, state = NULL;
    DELETE FROM trigger;
    TRUNCATE waiting_resumed, waiting_heartbeats;
    INSERT INTO trigger (id, classpath, kwargs, created_date, queue)
    SELECT map_index + 1, classpath, kwargs, now() + map_index * interval '1 microsecond',
        CASE WHEN map_index > 0 THEN 'held' END
    FROM waiting_triggers WHERE pattern = %(pattern)s AND map_index <= %(jobs)s;
    UPDATE task_instance SET state = 'deferred', trigger_id = map_index + 1, try_number = 1,
        next_method = 'execute_complete', start_date = now()
    WHERE map_index <= %(jobs)s"""
_RELEASE = "UPDATE trigger SET queue = NULL"
_LONGEST_SILENCE = """
    SELECT extract(epoch FROM max(at - before))::float8 FROM (
        SELECT at, lag(at) OVER (ORDER BY at) AS before
        FROM (SELECT at FROM waiting_heartbeats UNION ALL SELECT clock_timestamp()) AS heartbeats) AS pairs"""
_LEDGER_CONNECTIONS = """
    SELECT query_start FROM pg_stat_activity
    WHERE datname = %s AND application_name <> %s AND backend_type = 'client backend'"""

_FIRED_EVENT = "Trigger fired event"
_FIRED = re.compile(rf"^(\S+) \[.*?\] {_FIRED_EVENT} .*?\bmap_index=(\d+)", re.MULTILINE)


class WaitingStack:
    """Everything around the triggerer, and the triggerer itself; to be used as a context.

    :param tasks: the most that will wait at the same time.
    :param of_each: how many jobs each of them waits for, as those of a set; by default one, which is in no set.
    """

    def __init__(self, folder: Path, tasks: int, of_each: int | None = None) -> None:
        self._folder = folder
        self._jobs = tasks
        self._of_each = of_each
        self._services = Supervisor()
        self.postgres = open_postgres(folder / "postgres")
        self._openai_port = free_port()
        self.openai = httpx.Client(base_url=f"http://127.0.0.1:{self._openai_port}", trust_env=False, timeout=30)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as started:
            started.callback(self.postgres.destroy)
            self.postgres.start()
            started.enter_context(self._services)
            self._start_openai()
            self.airflow = started.enter_context(self._airflow())
            self._fill_ledger()
            self.airflow.migrate()
            self._write_rows()
            self.metadata = started.enter_context(self.postgres.connect(METADATA_DATABASE))
            self.metadata.execute(_NOTE)
            self._started = started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.openai.close()
        self._started.close()

    @contextlib.contextmanager
    def triggerer(self, pattern: str, jobs: int) -> Iterator[None]:
        """Run a new triggerer in which one task waits, with more to be released, on a ledger as it was at first."""
        with self.postgres.connect("postgres") as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {LEDGER_DATABASE}")
            connection.execute(f"CREATE DATABASE {LEDGER_DATABASE} TEMPLATE {FILLED_DATABASE}")
        with self.metadata.transaction():
            cursor = psycopg.ClientCursor(self.metadata)  # several statements at once, with parameters
            cursor.execute(_DEFER, {"pattern": pattern, "jobs": jobs})
        shutil.rmtree(self.airflow.home / "task-logs", ignore_errors=True)
        self._services.restart("openai")
        wait_until(self._openai_answers, "the counting OpenAI", 30)
        self.airflow.log("triggerer").unlink(missing_ok=True)
        self.airflow.start("triggerer")
        try:
            yield
        finally:
            self.airflow.kill("triggerer")  # at once: an orderly end of Airflow's supervisor takes 10 s now and then

    def release(self) -> None:
        """Give the triggerer all the others that wait."""
        self.metadata.execute(_RELEASE)

    def runner_pid(self) -> int:
        """The process of the triggerer in which its event loop runs: its standard input is a socket."""
        process = self.airflow.process("triggerer")

        def find() -> int | None:
            self.airflow.check_alive()
            for pid in process.descendants() - {process.pid}:
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/0").startswith("socket:"):  # noqa: PTH115 - not a path
                        return pid
            return None

        return wait_until(find, "the triggerer's event loop", START_SECONDS)

    def started(self) -> int:
        """How many triggers have begun to run: each has a log of its own."""
        folder = self._task_logs()
        return len(os.listdir(folder)) if folder.exists() else 0  # noqa: PTH208 - counts only

    def fired_at(self, indexes: Sequence[int]) -> dict[int, float]:
        """When these tasks' triggers yielded their event, in seconds of the epoch, by Airflow's own logs.

        That is the log of each trigger, or the triggerer's, where a line came after the trigger's log was closed.
        """
        found = {int(index): _epoch(at) for at, index in _FIRED.findall(self._triggerer_log())}
        for index in indexes:
            for log in self._task_logs().glob(f"map_index={index}/*.trigger.*"):
                for line in map(json.loads, log.read_text().splitlines()):
                    if line["event"] == _FIRED_EVENT:
                        found[index] = _epoch(line["timestamp"])
        return found

    def resumed_at(self) -> dict[int, float]:
        """When the triggerer had recorded the event of each task in Airflow's database, and made it ready to run."""
        query = "SELECT map_index, extract(epoch FROM at)::float8 FROM waiting_resumed"
        return dict(self.metadata.execute(query).fetchall())

    def longest_silence(self) -> float:
        """The longest time between two heartbeats of the triggerer, in seconds, up to now."""
        row = self.metadata.execute(_LONGEST_SILENCE).fetchone()
        return float(row[0] or 0) if row else 0.0

    def blocked(self) -> list[float]:
        """For how many seconds the event loop was blocked, each time that Airflow noticed it (above 0.2 s)."""
        return [float(found) for found in re.findall(r"blocked for ([\d.]+) seconds", self._triggerer_log())]

    def webhooks_arrive(self) -> bool:
        """Whether webhooks arrive, as far as the hub has found."""
        log = self._triggerer_log()
        return log.rfind("Webhooks arrive") > log.rfind("Webhooks have fallen silent")

    def ledger_queries(self) -> list[datetime]:
        """For each connection of the triggerer to the ledger, when its last statement began."""
        return [row[0] for row in self.metadata.execute(_LEDGER_CONNECTIONS, [LEDGER_DATABASE, OWN_NAME]).fetchall()]

    def ledger(self) -> Ledger:
        """Open the ledger, for this program itself."""
        return Ledger({**self.postgres.connection_kwargs(LEDGER_DATABASE), "application_name": OWN_NAME})

    def openai_counts(self) -> dict[str, int]:
        """What OpenAI has been asked so far."""
        return dict(self.openai.get("/counts").json())

    def _triggerer_log(self) -> str:
        return self.airflow.log("triggerer").read_text(errors="replace")

    def _task_logs(self) -> Path:
        parts = (f"dag_id={DAG_ID}", f"run_id={RUN_ID}", f"task_id={TASK_ID}")
        return self.airflow.home.joinpath("task-logs", *parts)

    def _start_openai(self) -> None:
        command = python("-m", "benchmarks.waiting_openai", str(self._openai_port))
        self._services.add(ProcessSpec("openai", command, self._folder / "openai.log", cwd=PROJECT))
        self._services.start("openai")

    def _openai_answers(self) -> bool:
        self._services.check_alive()
        try:
            return self.openai.get("/counts").is_success
        except httpx.TransportError:
            return False

    def _airflow(self) -> AirflowStack:
        connections: dict[str, dict[str, Any]] = {
            CONN_ID: {"conn_type": "openai", "password": "none", "host": f"http://127.0.0.1:{self._openai_port}/v1"}
        }
        settings = {
            "AIRFLOW__CORE__MAX_MAP_LENGTH": self._jobs + 1,
            "AIRFLOW__TRIGGERER__CAPACITY": self._jobs + 1,
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": 5,  # Airflow's default; the demo's is shorter
            "PYTHONPATH": PROJECT,
        }
        write_dag(self._folder / "dags", self._jobs + 1)
        return AirflowStack(
            self._folder / "airflow",
            self.postgres,
            self._folder / "dags",
            connections=connections,
            extra_env={name: str(value) for name, value in settings.items()},
            port=0,
        )

    def _fill_ledger(self) -> None:
        """Create a ledger in which all jobs wait, to copy from, and the empty one that Airflow's connection names."""
        parameters = {
            "dag_id": DAG_ID,
            "run_id": RUN_ID,
            "task_id": TASK_ID,
            "conn_id": CONN_ID,
            "jobs": self._jobs if self._of_each is None else (self._jobs + 1) * self._of_each - 1,
        }
        for name in (FILLED_DATABASE, LEDGER_DATABASE):
            self.postgres.create_database(name)
            schema.upgrade(self.postgres.connection_kwargs(name))
        with self.postgres.connect(FILLED_DATABASE) as connection:
            psycopg.ClientCursor(connection).execute(_FILL_LEDGER, parameters)
            if self._of_each is not None:
                sets = {**parameters, "sets": self._jobs + 1, "of_each": self._of_each}
                psycopg.ClientCursor(connection).execute(_FILL_SETS, sets)
            connection.execute("ANALYZE")

    def _write_rows(self) -> None:
        command = (sys.executable, "-m", "benchmarks.waiting_rows", str(self._jobs + 1))
        spec = ProcessSpec("rows", command, self._folder / "rows.log", env=self.airflow.env, cwd=PROJECT)
        run_to_end(spec, SETUP_SECONDS)


def _epoch(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


assert LEDGER_CONN_ID == "aihandoff_ledger", "the name that AirflowStack gives the ledger's connection"
