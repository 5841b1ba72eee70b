"""A real Airflow with its four components, LocalExecutor and PostgreSQL, all of it in one folder."""

import json
import secrets
import shutil
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx
import psycopg

from airflow_provider_aihandoff.core.database import schema
from demo.airflow_api import AirflowApi
from demo.ports import free_port, reserved_port
from demo.postgres import Postgres
from demo.processes import GuardedProcess, ProcessSpec, Supervisor, environment, python, run_to_end
from demo.waiting import AIRFLOW_SECONDS, wait_until

Component = Literal["scheduler", "api-server", "dag-processor", "triggerer"]
COMPONENTS: tuple[Component, ...] = ("api-server", "dag-processor", "scheduler", "triggerer")
METADATA_DATABASE = "airflow"
LEDGER_DATABASE = "aihandoff_ledger"
BUSINESS_DATABASE = "business"
USERS = {"admin": "admin", "alice": "user", "bob": "user", "vic": "viewer"}
"""The people who can log in, and the role of each. In this Airflow for one machine, the password is the name."""
SHOP = "shop"
"""The login of the web shop, which asks in the name of its visitors."""
LOGINS = {**USERS, SHOP: "viewer"}
MONITOR_KEYS: dict[Component, tuple[str, str]] = {
    "scheduler": ("scheduler", "latest_scheduler_heartbeat"),
    "dag-processor": ("dag_processor", "latest_dag_processor_heartbeat"),
    "triggerer": ("triggerer", "latest_triggerer_heartbeat"),
}


def demo_connections(
    postgres: Postgres,
    business_url: str,
    openai_api_key: str,
    openai_url: str | None = None,
    webhook_secret: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the Airflow connections of the demo's Dags, beside the ledger's.

    :param business_url: of the business system, without a path.
    :param openai_url: of the stand-in; OpenAI itself if there is none.
    :param webhook_secret: what webhooks are signed with, if they can be received.
    """
    extra = {"webhook_secrets": [webhook_secret]} if webhook_secret else {}
    openai: dict[str, Any] = {"conn_type": "openai", "password": openai_api_key, "extra": extra}
    return {
        "openai_default": openai | ({"host": openai_url} if openai_url else {}),
        "sales_db": postgres_connection(postgres, BUSINESS_DATABASE),
        **{name: {"conn_type": "http", "host": f"{business_url}/{name}"} for name in ("helpdesk", "cms", "channel")},
    }


def postgres_connection(postgres: Postgres, dbname: str) -> dict[str, Any]:
    """Return a database as an Airflow connection."""
    parts = postgres.connection_kwargs(dbname)
    named = {
        "host": parts.pop("host"),
        "port": int(parts.pop("port")),
        "login": parts.pop("user"),
        "password": parts.pop("password", None),
        "schema": parts.pop("dbname"),
    }
    return {"conn_type": "postgres", **named, "extra": parts}


class AirflowStack:
    """The components of one Airflow: migrated, started, stopped, killed and restarted one by one.

    To be used as a context: all components are stopped at its end.

    :param home: holds configuration, secrets and logs; keep it, and a second start finds everything again.
    :param postgres: a server that has been started.
    :param connections: Airflow connections by id, as the JSON that `AIRFLOW_CONN_*` takes, beside the ledger's.
    :param extra_env: environment variables of all components, for what a test wants otherwise.
    :param port: of the API server; another one is taken when this one is in use.
    """

    def __init__(
        self,
        home: Path,
        postgres: Postgres,
        dags_folder: Path,
        *,
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        extra_env: Mapping[str, str] | None = None,
        port: int = 8080,
        parallelism: int = 4,
    ) -> None:
        self.home = home.absolute()
        (self.home / "config").mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).with_name("airflow_local_settings.py"), self.home / "config")
        self._reservations = ExitStack()
        self.port = self._reservations.enter_context(reserved_port(port))
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._postgres = postgres
        ledger = postgres_connection(postgres, LEDGER_DATABASE)
        all_connections = {"aihandoff_ledger": ledger, **(connections or {})}
        self._settings = {
            **self._airflow_settings(dags_folder.absolute(), parallelism),
            **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in all_connections.items()},
            **(extra_env or {}),
        }
        self._supervisor = Supervisor()
        self._started: dict[str, datetime] = {}
        for component in COMPONENTS:
            self._supervisor.add(self._spec(component, component))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._reservations.close()

    @property
    def env(self) -> dict[str, str]:
        """The whole environment of the components, for other `airflow` commands."""
        return environment(self._settings, drop_prefix="AIRFLOW_")

    def migrate(self) -> None:
        """Create or upgrade the databases of Airflow and of the ledger, where they are not up to date."""
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(self._migrate_metadata), pool.submit(self._migrate_ledger)]:
                done.result()

    def airflow(self, *arguments: str, timeout_seconds: float = AIRFLOW_SECONDS) -> None:
        """Run an `airflow` command to its end.

        :raises ProcessFailedError: when it fails; with the end of its log.
        """
        run_to_end(self._spec("-".join(arguments[:3]), *arguments), timeout_seconds)

    def start(self, *components: Component) -> None:
        """Start some components, or all of them."""
        for component in components or COMPONENTS:
            self._started[component] = datetime.now(UTC)
            self._supervisor.start(component)

    def stop(self, *components: Component) -> None:
        """Stop some components, or all of them, with everything that they started."""
        if not components:
            self._supervisor.stop_all()
        for component in components:
            self._supervisor.stop(component)

    def kill(self, component: Component, *, descendants: bool = True) -> None:
        """SIGKILL a component; see `demo.processes.GuardedProcess.kill`."""
        self._supervisor.kill(component, descendants=descendants)

    def restart(self, component: Component) -> None:
        """Stop and start a component."""
        self.stop(component)
        self.start(component)

    def process(self, component: Component) -> GuardedProcess:
        """Return a running component, to list its processes or to send it signals."""
        return self._supervisor.process(component)

    def log(self, component: Component) -> Path:
        """Return a component's log file."""
        return self.home / "logs" / f"{component}.log"

    def check_alive(self) -> None:
        """Raise for a component that has ended by itself.

        :raises ProcessFailedError: with the end of its log.
        """
        self._supervisor.check_alive()

    def revive(self) -> list[Component]:
        """Start the components that have ended by themselves, as a supervisor of processes does; return which.

        Airflow's components end where their database is down for a while.
        """
        ended = [component for component in COMPONENTS if not self._supervisor.is_running(component)]
        for component in ended:
            self.start(component)
        return ended

    def wait_healthy(self, timeout_seconds: float = AIRFLOW_SECONDS) -> None:
        """Wait until the API server answers and each running component has reported since it was started.

        :raises ProcessFailedError: as soon as a component ends; with the end of its log.
        :raises TimeoutError: when it takes too long.
        """
        wait_until(self._is_healthy, f"Airflow to be healthy (logs: {self.home / 'logs'})", timeout_seconds, 0.25)

    def api(self, username: str = "admin") -> AirflowApi:
        """Return a client of the REST API that is logged in as one of `LOGINS`."""
        return AirflowApi(self.base_url, username, password=username)

    def _is_healthy(self) -> bool:
        self.check_alive()
        try:
            health = httpx.get(f"{self.base_url}/api/v2/monitor/health", timeout=30, trust_env=False).json()
        except (httpx.TransportError, ValueError):
            return False
        return all(self._has_reported(component, health) for component in MONITOR_KEYS)

    def _has_reported(self, component: Component, health: Mapping[str, Any]) -> bool:
        """Whether a component is healthy: the report of the process before this one does not count."""
        if not self._supervisor.is_running(component):
            return True
        part, heartbeat = MONITOR_KEYS[component]
        reported: str | None = (health.get(part) or {}).get(heartbeat)
        return reported is not None and datetime.fromisoformat(reported) >= self._started[component]

    def _spec(self, name: str, *arguments: str) -> ProcessSpec:
        # Airflow 3.1 takes no commands from providers.
        own = arguments[0] == "aihandoff"
        program = ("airflow_provider_aihandoff", *arguments[1:]) if own else ("airflow", *arguments)
        return ProcessSpec(
            name=name,
            command=python("-m", *program),
            log=self.home / "logs" / f"{name}.log",
            env=self.env,
            cwd=self.home,
        )

    def _airflow_settings(self, dags_folder: Path, parallelism: int) -> dict[str, str]:
        passwords = self.home / "passwords.json"
        passwords.write_text(json.dumps({name: name for name in LOGINS}))
        kept = self._secrets()
        settings = {
            "CORE__DAGS_FOLDER": dags_folder,
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": parallelism,
            "CORE__LOAD_EXAMPLES": False,
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
            "CORE__HOSTNAME_CALLABLE": "socket.gethostname",
            "CORE__EXECUTION_API_SERVER_URL": f"{self.base_url}/execution/",
            "CORE__FERNET_KEY": kept["fernet"],
            "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in LOGINS.items()),
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": passwords,
            "DATABASE__SQL_ALCHEMY_CONN": self._postgres.airflow_uri(METADATA_DATABASE),
            "API__HOST": "127.0.0.1",
            "API__PORT": self.port,
            "API__BASE_URL": self.base_url,
            "API__SECRET_KEY": kept["api"],
            "API__INSTANCE_NAME": "AI Handoff demo",
            "API_AUTH__JWT_SECRET": kept["jwt"],
            "LOGGING__BASE_LOG_FOLDER": self.home / "task-logs",
            "LOGGING__WORKER_LOG_SERVER_PORT": free_port(),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": free_port(),
            "USAGE_DATA_COLLECTION__ENABLED": False,
            # What makes an answer arrive in seconds on one machine, and a crash be noticed soon.
            "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.2,
            "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 15,
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 30,
            "TRIGGERER__JOB_HEARTBEAT_SEC": 2,
            "DAG_PROCESSOR__REFRESH_INTERVAL": 5,
        }
        named = {f"AIRFLOW__{name}": str(value) for name, value in settings.items()}
        return {"AIRFLOW_HOME": str(self.home), **named}

    def _secrets(self) -> dict[str, str]:
        """Return this Airflow's keys: generated once, so that a second start reads what the first one wrote."""
        file = self.home / "secrets.json"
        if not file.exists():
            keys = {
                "fernet": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                "jwt": secrets.token_hex(64),
                "api": secrets.token_hex(32),
            }
            file.touch(mode=0o600)
            file.write_text(json.dumps(keys))
        return dict(json.loads(file.read_text()))

    def _migrate_metadata(self) -> None:
        """Asking Airflow itself takes seconds, so what it was migrated to is noted down and compared."""
        self._postgres.create_database(METADATA_DATABASE)
        note = self.home / "migrated.json"
        if not note.exists() or json.loads(note.read_text()) != self._migrated_to():
            self.airflow("db", "migrate")
            note.write_text(json.dumps(self._migrated_to()))

    def _migrated_to(self) -> dict[str, str | None]:
        version = metadata.version("apache-airflow-core")
        try:
            with self._postgres.connect(METADATA_DATABASE) as connection:
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except psycopg.errors.UndefinedTable:
            row = None
        return {"airflow": version, "revision": row[0] if row else None}

    def _migrate_ledger(self) -> None:
        self._postgres.create_database(LEDGER_DATABASE)
        with self._postgres.connect(LEDGER_DATABASE) as connection:
            if schema.current_version(connection) == schema.head_version():
                return
        self.airflow("aihandoff", "db", "upgrade")
