"""The whole demo on one machine: PostgreSQL, the business system, OpenAI or its stand-in, and Airflow."""

import fcntl
import json
import os
import secrets
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx

from demo.airflow_stack import BUSINESS_DATABASE, SHOP, AirflowStack, demo_connections
from demo.business.seed import seed_business_database
from demo.ports import reserved_port
from demo.postgres import Postgres, open_postgres
from demo.processes import ProcessSpec, Supervisor, python
from demo.shop import PASSWORD_VARIABLE

CHECKOUT = Path(__file__).parent.parent
DAGS_FOLDER = CHECKOUT / "dags"
SHOP_DAGS_FOLDER = CHECKOUT / "demo" / "dags"
HOME_VARIABLE = "AIHANDOFF_DEMO_HOME"
API_KEY_VARIABLE = "OPENAI_API_KEY"
AIRFLOW_PORT = 8080
BUSINESS_PORT = 8085
OPENAI_PORT = 8086
RECEIVER_PORT = 8090
SHOP_PORT = 8095
ANSWER_SECONDS = 6.0
"""How long the stand-in thinks, unless a request says otherwise."""

SILENCE = 15
"""Seconds without a webhook after which a connection counts as silent."""

SETTINGS = {
    # The demo's own runs are the ones that it triggers.
    "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
    # Safe with the short heartbeat of this stack, and an answer shows seconds sooner.
    "AIRFLOW__AIHANDOFF__MIN_DEFERRAL": "2",
    "AIRFLOW__AIHANDOFF__POLL_INTERVAL": "2",
    # So that it shows soon when the receiver is stopped: responses are polled again.
    "AIRFLOW__AIHANDOFF__WEBHOOK_SILENCE": str(SILENCE),
    "AIRFLOW__AIHANDOFF__SERVICE_ACCOUNTS": SHOP,
    # The Dags of the folder, and that of the shop.
    "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(
        [
            {"name": name, "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": options}
            for name, options in (("dags-folder", {}), ("shop", {"path": str(SHOP_DAGS_FOLDER)}))
        ]
    ),
}
"""Where the demo differs from a deployment."""

RECEIVER = "receiver"

Report = Callable[[str], None]


class Webhooks(NamedTuple):
    """Where the stand-in sends webhooks, and what it signs them with."""

    url: str
    secret: str


class AlreadyRunningError(RuntimeError):
    """Another demo runs in the same folder."""


@dataclass(frozen=True)
class LocalDemo:
    """A demo that is up and healthy."""

    home: Path
    postgres: Postgres
    services: Supervisor
    """`business` and `shop`; and `openai` and `receiver` when OpenAI is the stand-in: no other webhooks arrive here."""
    airflow: AirflowStack
    business_url: str
    openai_url: str | None
    """The stand-in, without a path; `None`: OpenAI itself."""
    webhook_url: str
    """Where the stand-in's webhooks are received."""
    shop_url: str
    """The web shop, an origin of its own."""

    @property
    def receives(self) -> bool:
        """Whether the receiver of webhooks runs."""
        return self.openai_url is not None and self.services.is_running(RECEIVER)

    def start_receiver(self) -> None:
        """Start the receiver of webhooks, and wait until it takes them."""
        self.services.start(RECEIVER)
        self.services.wait_healthy(RECEIVER)

    def stop_receiver(self) -> None:
        """Stop the receiver of webhooks: the triggerer polls instead, and webhooks are delivered later."""
        self.services.stop(RECEIVER)

    def follow_switch(self) -> None:
        """Start or stop the receiver, as `make demo-receiver-on` and `make demo-receiver-off` ask for."""
        wanted = not receiver_switch(self.home).exists()
        if self.openai_url is not None and wanted != self.receives:
            (self.start_receiver if wanted else self.stop_receiver)()

    def check_alive(self) -> None:
        """Raise for anything that has ended by itself.

        :raises ProcessFailedError: with the end of its log.
        """
        self.services.check_alive()
        self.airflow.check_alive()


def receiver_switch(home: Path) -> Path:
    """The file that keeps the receiver of webhooks switched off while it exists."""
    return home / "receiver-off"


def address_file(home: Path) -> Path:
    """The file that says where the API server of the demo is."""
    return home / "address"


def demo_home() -> Path:
    """Return the folder in which the demo keeps everything."""
    return Path(os.environ.get(HOME_VARIABLE) or CHECKOUT / ".demo").absolute()


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Keep other demos out of a folder.

    :raises AlreadyRunningError: when one is in it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                f"A demo is already running in {home}. Stop it with Ctrl-C, then try again."
            ) from None
        yield


@contextmanager
def running_demo(
    home: Path,
    dags_folder: Path = DAGS_FOLDER,
    *,
    extra_env: Mapping[str, str] | None = None,
    answer_seconds: float = ANSWER_SECONDS,
    more_tickets: int = 0,
    report: Report = lambda step: None,
) -> Iterator[LocalDemo]:
    """Start everything, with the data that the folder holds; stop it when the context ends.

    :param extra_env: environment variables of Airflow's components.
    :param answer_seconds: how long the stand-in for OpenAI takes to answer.
    :param more_tickets: how many tickets of a busy day the helpdesk has beside those of the seeds.
    :param report: gets each step as it begins.
    :raises AlreadyRunningError: when another demo runs in the same folder.
    """
    with ExitStack() as closing:
        closing.enter_context(alone(home))
        postgres = open_postgres(home / "postgres")
        closing.callback(postgres.stop)
        business_port, openai_port, receiver_port, shop_port = (
            closing.enter_context(reserved_port(port))
            for port in (BUSINESS_PORT, OPENAI_PORT, RECEIVER_PORT, SHOP_PORT)
        )
        receiver_switch(home).unlink(missing_ok=True)
        receiver_url = f"http://127.0.0.1:{receiver_port}/aihandoff"
        webhook_secret = _webhook_secret(home)
        services = closing.enter_context(Supervisor())
        report("Starting PostgreSQL, the business system and the stand-in for OpenAI")
        business_url = _start_business(services, home, business_port, more_tickets)
        sends = Webhooks(f"{receiver_url}/webhooks/openai/openai_default", webhook_secret)
        openai_url, api_key = _start_openai(services, home, openai_port, answer_seconds, sends)
        postgres.start()
        connections = demo_connections(
            postgres, business_url, api_key, openai_url and f"{openai_url}/v1", webhook_secret if openai_url else None
        )
        stack = AirflowStack(
            home / "airflow",
            postgres,
            dags_folder,
            connections=connections,
            extra_env={**SETTINGS, **(extra_env or {})},
            port=AIRFLOW_PORT,
        )
        airflow = closing.enter_context(stack)
        report("Upgrading the databases")
        postgres.create_database(BUSINESS_DATABASE)
        seed_business_database(postgres.connection_kwargs(BUSINESS_DATABASE))
        airflow.migrate()
        report("Starting Airflow")
        airflow.start()
        if openai_url is not None:
            _start_receiver(services, home, receiver_port, receiver_url, airflow.env)
        shop_url = _start_shop(services, home, shop_port, airflow.base_url, business_url)
        services.wait_healthy()
        airflow.wait_healthy()
        address_file(home).write_text(airflow.base_url)
        closing.callback(report, "Stopping")
        yield LocalDemo(home, postgres, services, airflow, business_url, openai_url, sends.url, shop_url)


def _start_business(services: Supervisor, home: Path, port: int, more_tickets: int) -> str:
    log_file = home / "business" / "witness.jsonl"
    options = (f"--port={port}", f"--log-file={log_file}", f"--more-tickets={more_tickets}")
    command = python("-m", "demo.business", *options)
    return _start_service(services, "business", command, home, f"http://127.0.0.1:{port}", "/")


def _start_openai(
    services: Supervisor, home: Path, port: int, answer_seconds: float, webhooks: Webhooks
) -> tuple[str | None, str]:
    """Start the stand-in unless there is a key for OpenAI itself; return where it is, and the key to use."""
    if key := os.environ.get(API_KEY_VARIABLE):
        return None, key
    command = python(
        "-m",
        "airflow_provider_aihandoff.testing",
        f"--port={port}",
        f"--delay-seconds={answer_seconds}",
        f"--state-file={home / 'openai' / 'responses.json'}",
        f"--webhook-url={webhooks.url}",
    )
    env = {**os.environ, "AIHANDOFF_STANDIN_WEBHOOK_SECRETS": webhooks.secret}
    url = _start_service(services, "openai", command, home, f"http://127.0.0.1:{port}", "/standin/health", env)
    return url, "sk-stand-in"


def _start_receiver(services: Supervisor, home: Path, port: int, url: str, env: Mapping[str, str]) -> None:
    """Start the receiver by itself, so that it can be stopped while the API server goes on."""
    command = python("-m", "airflow_provider_aihandoff", "webhooks", "serve", f"--port={port}")
    _start_service(services, RECEIVER, command, home, url, "/health", env)


def _start_shop(services: Supervisor, home: Path, port: int, airflow_url: str, business_url: str) -> str:
    options = (f"--port={port}", f"--airflow={airflow_url}", f"--cms={business_url}", f"--login={SHOP}")
    env = {**os.environ, PASSWORD_VARIABLE: SHOP}
    url = f"http://127.0.0.1:{port}"
    return _start_service(services, "shop", python("-m", "demo.shop", *options), home, url, "/", env)


def _webhook_secret(home: Path) -> str:
    """The secret that webhooks are signed with: generated once."""
    file = home / "webhook-secret"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(f"whsec_{b64encode(secrets.token_bytes(32)).decode()}")
    return file.read_text()


def _start_service(
    services: Supervisor,
    name: str,
    command: tuple[str, ...],
    home: Path,
    url: str,
    health_path: str,
    env: Mapping[str, str] | None = None,
) -> str:
    def healthy() -> bool:
        try:
            return httpx.get(url + health_path, timeout=10, trust_env=False).is_success
        except httpx.TransportError:
            return False

    (home / name).mkdir(parents=True, exist_ok=True)
    log = home / name / f"{name}.log"
    services.add(ProcessSpec(name, command, log, env=env, cwd=CHECKOUT, grace_seconds=3, healthy=healthy))
    services.start(name)
    return url
