"""What each component is configured with. As in the Compose file, a worker gets no key to Airflow's database."""

import json
import secrets
import shutil
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from demo.airflow_stack import BUSINESS_DATABASE, METADATA_DATABASE, USERS
from demo.processes import environment
from nodes.databases import AIRFLOW_ROLE, BUSINESS_ROLE, Databases
from nodes.topology import (
    API_URL,
    BACKBONE,
    BUSINESS_URL,
    DAGS_FOLDER,
    OPENAI_URL,
    REDIS_PORT,
    Node,
)

CONCURRENCY = 2
"""How many tasks a worker runs at once: all nodes share two cores."""
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass(frozen=True)
class Keys:
    """The secrets of one run."""

    fernet: str = field(default_factory=lambda: urlsafe_b64encode(secrets.token_bytes(32)).decode())
    jwt: str = field(default_factory=lambda: secrets.token_hex(64))
    api: str = field(default_factory=lambda: secrets.token_hex(32))
    redis: str = field(default_factory=lambda: secrets.token_hex(16))
    digest: str = field(default_factory=lambda: secrets.token_hex(32))
    webhook: str = field(default_factory=lambda: f"whsec_{b64encode(secrets.token_bytes(32)).decode()}")


class Settings:
    """The environment of each component.

    :param home: has a folder for each node, which is that node's Airflow home.
    :param shared: has the certificates and `pg_service.conf`, as an image or a secret brings them to each host.
    """

    def __init__(self, home: Path, shared: Path, databases: Databases, keys: Keys) -> None:
        self._home, self._shared, self._databases, self._keys = home, shared, databases, keys

    def environment(self, node: Node) -> dict[str, str]:
        """The whole environment of a node; its home is made, with the Dags in it."""
        home = self._home / node.name
        if not home.exists():
            shutil.copytree(DAGS_FOLDER, home / "dags")
        if node.kind in ("worker", "receiver"):
            return self._with(home, self._common(home))
        return self.of_server(home)

    def of_server(self, home: Path) -> dict[str, str]:
        """The environment of a component that has a key to Airflow's database."""
        home.mkdir(parents=True, exist_ok=True)
        passwords = home / "passwords.json"
        passwords.write_text(json.dumps({name: name for name in USERS}))
        own = {
            "CORE__FERNET_KEY": self._keys.fernet,
            "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in USERS.items()),
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": passwords,
            "API_AUTH__JWT_SECRET": self._keys.jwt,
            "DATABASE__SQL_ALCHEMY_CONN": _url(self._databases.through_pooler(METADATA_DATABASE, AIRFLOW_ROLE)),
        }
        return self._with(home, {**self._common(home), **own})

    def _with(self, home: Path, airflow: Mapping[str, object]) -> dict[str, str]:
        named = {f"AIRFLOW__{name}": str(value) for name, value in airflow.items()}
        connections = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(each) for name, each in self._connections().items()}
        found = environment(
            {
                **named,
                **connections,
                "AIRFLOW_HOME": str(home),
                "PGSERVICEFILE": str(self._shared / "pg_service.conf"),
                "FORWARDED_ALLOW_IPS": BACKBONE,
            },
            drop_prefix="AIRFLOW_",
        )
        return {name: value for name, value in found.items() if name.upper() not in _PROXIES}

    def _connections(self) -> dict[str, dict[str, Any]]:
        business = self._databases.through_pooler(BUSINESS_DATABASE, BUSINESS_ROLE)
        return {
            "aihandoff_ledger": {"conn_type": "postgres", "extra": {"service": "aihandoff_ledger"}},
            "openai_default": {
                "conn_type": "openai",
                "password": "sk-stand-in",
                "host": f"{OPENAI_URL}/v1",
                "extra": {"webhook_secrets": [self._keys.webhook]},
            },
            "sales_db": {
                "conn_type": "postgres",
                "host": business["host"],
                "port": business["port"],
                "login": business["user"],
                "password": business["password"],
                "schema": business["dbname"],
            },
            **{
                name: {"conn_type": "http", "host": f"{BUSINESS_URL}/{name}"} for name in ("helpdesk", "cms", "channel")
            },
        }

    def _common(self, home: Path) -> dict[str, object]:
        redis = f"redis://:{self._keys.redis}@{BACKBONE}:{REDIS_PORT}"
        return {
            "CORE__DAGS_FOLDER": home / "dags",
            "CORE__EXECUTOR": "CeleryExecutor",
            "CORE__PARALLELISM": 8,
            "CORE__LOAD_EXAMPLES": False,
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
            "CORE__HOSTNAME_CALLABLE": "socket.gethostname",
            "CORE__EXECUTION_API_SERVER_URL": f"{API_URL}/execution/",
            "CORE__DEFAULT_TASK_RETRIES": 5,
            "CORE__DEFAULT_TASK_RETRY_DELAY": 5,
            "API__BASE_URL": API_URL,
            "API__SECRET_KEY": self._keys.api,
            "API__SSL_CA_FILE": self._shared / "ca.pem",
            "API__WORKERS": 1,
            "CELERY__BROKER_URL": f"{redis}/0",
            "CELERY__RESULT_BACKEND": f"{redis}/1",
            "CELERY__WORKER_CONCURRENCY": CONCURRENCY,
            "LOGGING__BASE_LOG_FOLDER": home / "task-logs",
            "USAGE_DATA_COLLECTION__ENABLED": False,
            # The runs are those that are triggered here.
            "SCHEDULER__USE_JOB_SCHEDULE": False,
            # What makes a crash be noticed in seconds instead of minutes.
            "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
            "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 15,
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 30,
            "SCHEDULER__TASK_QUEUED_TIMEOUT": 60,
            "TRIGGERER__JOB_HEARTBEAT_SEC": 2,
            "DAG_PROCESSOR__REFRESH_INTERVAL": 30,
            "DAG_PROCESSOR__PARSING_PROCESSES": 1,
            "AIHANDOFF__DIGEST_KEY": self._keys.digest,
            "AIHANDOFF__POLL_INTERVAL": 5,
            "AIHANDOFF__WEBHOOK_SILENCE": 15,
            "AIHANDOFF__SWEEP_INTERVAL": 5,
        }


def _url(parts: Mapping[str, Any]) -> str:
    login = f"{quote(parts['user'], safe='')}:{quote(parts['password'], safe='')}"
    return f"postgresql+psycopg2://{login}@{parts['host']}:{parts['port']}/{parts['dbname']}"
