"""Dags that run in this process through `dag.test()`, on a real ledger, with real HTTP to the model and to targets.

Airflow's own metadata is on PostgreSQL, as in production: what is refused there fails here. What Airflow does with the
operators is real: states, retries, XComs, mapping, deferral.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from airflow import settings
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.sdk.definitions import dag as dag_definition
from airflow.sdk.definitions.dag import _run_task
from airflow.utils import db
from fastapi import Request, Response
from starlette.middleware.base import RequestResponseEndpoint

from airflow_provider_aihandoff import airflow_compat as package_compat
from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.core.effects import apply
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.hooks import ledger as ledger_hook
from airflow_provider_aihandoff.operators.side_effect import SideEffectOperator
from airflow_provider_aihandoff.targets.email import EmailTarget
from airflow_provider_aihandoff.targets.postgres import PostgresTarget
from airflow_provider_aihandoff.testing import OpenAIStandIn, ResponderRequest
from airflow_provider_aihandoff.web.front_door import parked_tasks
from demo.postgres import Postgres
from tests import airflow_compat
from tests.factories import draft, job_spec
from tests.integration.operators import dag_runs
from tests.integration.operators.dag_runs import Dags, Define, Run
from tests.integration.operators.tasks import NOTE
from tests.people import insist
from tests.target import Target, serve

RunDag = Callable[..., Run]
API_KEY = "sk-the-key-of-these-tests"


@pytest.fixture(scope="package")
def airflow(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An Airflow with nothing in it."""
    folder = Path(tmp_path_factory.mktemp("airflow"))
    (folder / "dags").mkdir()
    metadata = f"operators_{os.getpid()}"
    postgres.create_database(metadata)
    variables = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.airflow_uri(metadata),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # Airflow 3.2 needs it to run a task within a test, too.
        "AIRFLOW__API_AUTH__JWT_SECRET": "of-these-tests-" * 5,
        "AIRFLOW__AIHANDOFF__MIN_DEFERRAL": "0",
        "AIRFLOW__AIHANDOFF__INLINE_WAIT": "5",
        "AIRFLOW__AIHANDOFF__POLL_INTERVAL": "0.05",
        "AIRFLOW__AIHANDOFF__POLL_RATE": "1000",
        "AIRFLOW__AIHANDOFF__SWEEP_INTERVAL": "1",
        "AIRFLOW__AIHANDOFF__ORPHAN_WAIT": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        _use_database_of_environment()
        db.initdb()
        DagBundlesManager().sync_bundles_to_db()
        yield
    _use_database_of_environment()


def _use_database_of_environment() -> None:
    settings.dispose_orm()
    settings.configure_vars()
    settings.configure_orm()


@pytest.fixture
def dags(airflow: None, connections: None, monkeypatch: pytest.MonkeyPatch) -> Dags:
    airflow_compat.name_exceptions(monkeypatch)
    return Dags()


@pytest.fixture(params=["triggerer", "awaiting_input"])
def wait_in(
    request: pytest.FixtureRequest, dags: Dags, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Where approvals wait: a test that uses this runs both ways. What an API server does for them is done here."""
    if request.param == "awaiting_input" and RELEASE < (3, 3):
        pytest.skip("Airflow parks no task here")
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__APPROVALS_WAIT_IN", request.param)
    monkeypatch.setattr(package_compat, "can_await_input", lambda: True)

    # `dag.test()` writes the state of a task again once it has run: it would undo that it was woken meanwhile.
    between_tasks = threading.Lock()

    def run_task(**arguments: Any) -> Any:
        with between_tasks:
            return _run_task(**arguments)

    for module in (dag_definition, dag_runs):
        monkeypatch.setattr(module, "_run_task", run_task)

    def serve() -> None:
        while not over.wait(0.1):
            with between_tasks:
                parked_tasks.wake_due(ledger)
                parked_tasks.follow_up(ledger)

    over, server = threading.Event(), threading.Thread(target=insist(serve))
    with Ledger(conninfo, max_size=2) as ledger:
        server.start()
        yield request.param
        over.set()
        server.join()


@pytest.fixture
def run(dags: Dags) -> RunDag:
    """Make a Dag and run it."""

    def run(define: Define, **arguments: Any) -> Run:
        return dags.run(dags.make(define, **arguments))

    return run


@pytest.fixture
def short_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the claim of an attempt that died be over after some seconds, and not after a minute.

    For the tests of dead attempts alone: a call that takes longer is lost, and a busy machine may pause for one.
    """
    monkeypatch.setattr(apply, "CLAIM_MARGIN", 3.0)
    for sender in (SideEffectOperator, PostgresTarget, EmailTarget):
        monkeypatch.setattr(sender, "call_seconds", 2.0)


class Model:
    """What the stand-in's model says: a text, an object, or what a function makes of the request."""

    def __init__(self) -> None:
        self.output: Any = NOTE
        self.headers = ""
        """Every header of every request."""

    def __call__(self, request: ResponderRequest) -> Any:
        return self.output(request) if callable(self.output) else self.output


@pytest.fixture(scope="package")
def _served() -> Iterator[tuple[OpenAIStandIn, Model, str]]:
    model = Model()
    stand_in = OpenAIStandIn(delay_seconds=0, responders=[model])

    @stand_in.app.middleware("http")
    async def keep_headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
        model.headers += str(request.headers)
        return await call_next(request)

    with stand_in.serve() as running:
        yield stand_in, model, running.base_url


@pytest.fixture
def stand_in(_served: tuple[OpenAIStandIn, Model, str]) -> OpenAIStandIn:
    _served[0].reset()
    return _served[0]


@pytest.fixture
def model(_served: tuple[OpenAIStandIn, Model, str]) -> Iterator[Model]:
    yield _served[1]
    _served[1].output, _served[1].headers = NOTE, ""


@pytest.fixture(scope="package")
def _target() -> Iterator[Target]:
    with serve() as target:
        yield target


@pytest.fixture
def target(_target: Target) -> Iterator[Target]:
    _target.reset()
    yield _target
    if _target.hold is not None:
        _target.hold.set()


@pytest.fixture(scope="session")
def _sales(postgres: Postgres) -> dict[str, Any]:
    name = f"sales_{os.getpid()}"
    postgres.create_database(name)
    return dict(postgres.connection_kwargs(name))


@pytest.fixture
def sales(_sales: dict[str, Any]) -> Iterator[psycopg.Connection[Any]]:
    """The database that effects write to."""
    with psycopg.connect(**_sales, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS aihandoff_marker, reports")
        connection.execute("CREATE TABLE reports (report_id int GENERATED ALWAYS AS IDENTITY, title text UNIQUE)")
        yield connection


def postgres_connection(conninfo: Mapping[str, Any], **changes: Any) -> str:
    return json.dumps(
        {
            "conn_type": "postgres",
            "host": conninfo["host"],
            "port": conninfo["port"],
            "login": conninfo["user"],
            "password": conninfo.get("password", ""),
            "schema": conninfo["dbname"],
            **changes,
        }
    )


@pytest.fixture
def connections(
    monkeypatch: pytest.MonkeyPatch,
    conninfo: dict[str, Any],
    _sales: dict[str, Any],
    _served: tuple[OpenAIStandIn, Model, str],
    stand_in: OpenAIStandIn,
    target: Target,
) -> Iterator[None]:
    """The connections, as environment variables."""
    opened: dict[str, Ledger] = {}
    monkeypatch.setattr(ledger_hook, "_shared", opened)
    monkeypatch.setenv("AIRFLOW_CONN_AIHANDOFF_LEDGER", postgres_connection(conninfo))
    monkeypatch.setenv("AIRFLOW_CONN_SALES_DB", postgres_connection(_sales))
    openai = {"conn_type": "openai", "password": API_KEY, "host": _served[2]}
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(openai))
    cms = {"conn_type": "http", "host": "127.0.0.1", "port": target.port, "schema": "http"}
    monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps(cms))
    yield
    for ledger in opened.values():
        ledger.close()


@pytest.fixture
def record(ledger: Ledger) -> Callable[[], JobRecord]:
    """Everything the ledger knows of its first job."""
    return lambda: ledger.record(1)


@pytest.fixture
def review(ledger: Ledger) -> Job:
    """The first job, whose note waits for a decision: what a task that asks the model leaves."""
    return draft(ledger, output=NOTE)


@pytest.fixture
def accepted(ledger: Ledger) -> Job:
    """The first job, whose note needs no approval."""
    return draft(ledger, job_spec(approval="not required", approval_reason="it is a test"), output=NOTE)
