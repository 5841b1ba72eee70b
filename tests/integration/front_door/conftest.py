"""Airflow's API server and its Dags in this process, with ledger and metadata on a real PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from airflow import settings
from airflow.api_fastapi import app as airflow_app
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.sdk import DAG
from airflow.utils import db
from fastapi import FastAPI
from pydantic import BaseModel, Field

from airflow_provider_aihandoff.job_types import JobType
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.web.front_door import declared
from demo.postgres import Postgres
from tests import airflow_compat
from tests.integration.operators import conftest as of_operators
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import Note, publish
from tests.integration.web import conftest as of_web
from tests.integration.web.conftest import ROLES

grant, login, stranger, use_ledger = of_web.grant, of_web.login, of_web.stranger, of_web.use_ledger
connections, model, sales, stand_in, target = (
    of_operators.connections,
    of_operators.model,
    of_operators.sales,
    of_operators.stand_in,
    of_operators.target,
)
_sales, _served, _target = of_operators._sales, of_operators._served, of_operators._target


class Line(BaseModel):
    text: str


class NoteRequest(BaseModel):
    """What the notes of these tests take."""

    slug: str = Field(min_length=3, max_length=40)
    words: int = Field(100, ge=1)
    lines: list[Line] = []


NOTE_TYPE = JobType("note", NoteRequest, description="A product note.", users=("bob", "carol", "shop"))


@pytest.fixture(scope="package")
def airflow(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """The API server as it runs in production."""
    folder = Path(tmp_path_factory.mktemp("airflow"))
    (folder / "dags").mkdir()
    postgres.create_database("front_door")
    users = {**ROLES, "shop": "viewer"}
    variables = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.airflow_uri("front_door"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in users.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__API_AUTH__JWT_SECRET": "of-these-tests-" * 5,
        "AIRFLOW__AIHANDOFF__MIN_DEFERRAL": "0",
        "AIRFLOW__AIHANDOFF__INLINE_WAIT": "5",
        "AIRFLOW__AIHANDOFF__POLL_INTERVAL": "0.05",
        "AIRFLOW__AIHANDOFF__SERVICE_ACCOUNTS": "shop",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        _use_database_of_environment()
        db.initdb()
        DagBundlesManager().sync_bundles_to_db()
        airflow_app.purge_cached_app()
        yield airflow_app.create_app(apps="core")
        airflow_app.purge_cached_app()
    _use_database_of_environment()


def _use_database_of_environment() -> None:
    settings.dispose_orm()
    settings.configure_vars()
    settings.configure_orm()


@pytest.fixture
def dags(airflow: FastAPI, connections: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dags]:
    """Dags, of which none is there when the test begins, nor any run."""
    airflow_compat.name_exceptions(monkeypatch)
    monkeypatch.setattr(declared, "_read", {})
    yield Dags()
    with of_session() as session:
        for table in ("dag_run", "dag_tag", "serialized_dag", "dag_version", "dag"):
            session.execute(f"DELETE FROM {table}")  # noqa: S608  a name of ours


@contextmanager
def of_session() -> Iterator[Any]:
    """A connection to Airflow's own database."""
    assert settings.engine is not None
    with settings.engine.begin() as connection:

        class Plain:
            @staticmethod
            def execute(statement: str) -> Any:
                return connection.exec_driver_sql(statement)

        yield Plain


def runs() -> list[tuple[str, str, Any]]:
    """The Dag runs that Airflow has: the Dag, the id, and who has triggered it."""
    with of_session() as session:
        rows = session.execute("SELECT dag_id, run_id, triggering_user_name FROM dag_run ORDER BY id").fetchall()
    return [tuple(row) for row in rows]


def draft_note() -> OpenAIBackgroundResponseOperator:
    """The task that makes the note that was asked for."""
    return OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_type=NOTE_TYPE,
        model="gpt-5.2",
        input="Write about {{ params.job_request.input.slug }}.",
        output_type=Note,
    )


def published_note() -> None:
    """The same, decided by a person, and published."""
    draft = draft_note()
    approve = ApprovalSensor(task_id="approve", job=draft)
    draft >> approve >> publish(draft, endpoint="/posts/{{ params.job_request.input.slug }}")


@pytest.fixture
def notes(dags: Dags) -> DAG:
    """A Dag that makes notes for those who ask. They wait for a decision that no task asks for."""
    return dags.make(draft_note, dag_id="notes", params=NOTE_TYPE.params, tags=NOTE_TYPE.tags)


Serve = Callable[[], str]


@pytest.fixture
def serve(airflow: FastAPI) -> Iterator[Serve]:
    """Servers of the app, each with a life of its own, as processes of an API server have; their addresses."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def begin() -> str:
        server = uvicorn.Server(uvicorn.Config(airflow, port=0, log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield begin
    for server, thread in servers:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
