"""Starts everything in its order, and stops it: the services on the backbone, and each node in its own network."""

import os
import shutil
import signal
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
from psycopg.rows import dict_row

from airflow_provider_aihandoff.core.ledger import Ledger
from demo import guardian
from demo.airflow_api import AirflowApi
from demo.airflow_stack import METADATA_DATABASE
from demo.processes import GuardedProcess, ProcessSpec, Supervisor, python, run_to_end
from demo.waiting import AIRFLOW_SECONDS, wait_until
from nodes.certificates import write_certificates
from nodes.databases import Databases
from nodes.network import Network
from nodes.settings import CONCURRENCY, Keys, Settings
from nodes.topology import (
    AIRFLOW_PORT,
    API_PORT,
    API_URL,
    BACKBONE,
    BUSINESS_PORT,
    BUSINESS_URL,
    CHECKOUT,
    OPENAI_PORT,
    OPENAI_URL,
    RECEIVER_PORT,
    REDIS_PORT,
    WEBHOOK_PORT,
    WEBHOOK_URL,
    Node,
    Topology,
)

PROGRAMS: Mapping[str, str] = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "nginx": "nginx",
    "pgbouncer": "pgbouncer",
    "redis-server": "redis-server",
}
"""What has to be installed, and the Debian package that has it."""
FAKETIME = "libfaketime.so.1"
OFF_CLOCK = Path(__file__).parent / "off_clock"
NGINX, REDIS = "nginx", "redis"
ANSWER_SECONDS = 6.0
"""How long the stand-in for OpenAI thinks."""
WORKER_GRACE, GRACE = 120.0, 40.0
"""How long a node may take to end after SIGTERM. A worker ends its tasks first."""

_NGINX_CONFIGURATION = """\
daemon off;
user root;
worker_processes 1;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    ssl_certificate {shared}/server.pem;
    ssl_certificate_key {shared}/server.key;
    client_max_body_size 20m;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-Proto https;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_connect_timeout 2s;
    proxy_next_upstream error timeout;
    upstream api {{ {api} }}
    upstream receivers {{ {receivers} }}
    server {{
        listen {address}:{api_port} ssl;
        location / {{ proxy_pass http://api; proxy_read_timeout 30s; }}
        # Shorter than the 5 s for which a task waits for the answer: otherwise it is the task that gives up, and the
        # server that does not answer counts as well.
        location /execution/ {{ proxy_pass http://api; proxy_read_timeout 4s; }}
    }}
    server {{
        listen {address}:{webhook_port} ssl;
        location / {{ proxy_pass http://receivers; proxy_read_timeout 4s; }}
    }}
}}
"""
_IN_HAND = {
    "worker": """
        SELECT id::text, state, try_number, hostname AS holder FROM task_instance
        WHERE {condition}""",
    "triggerer": """
        SELECT ti.id::text, ti.state, ti.try_number, job.id::text AS holder FROM task_instance AS ti
        LEFT JOIN trigger ON trigger.id = ti.trigger_id LEFT JOIN job ON job.id = trigger.triggerer_id
        WHERE {condition}""",
}

Held = dict[str, tuple[str | None, int, str | None]]
"""Tasks by their id: the state, the try, and who has them: a worker by its address, a triggerer by its number."""


class NotInstalledError(RuntimeError):
    """A program is missing; the message says how to install it."""


def check_programs() -> None:
    """Find out whether everything is installed.

    :raises NotInstalledError: something is missing.
    """
    missing = {package for program, package in PROGRAMS.items() if _program(program) is None}
    if _faketime() is None:
        missing.add("libfaketime")
    if missing:
        names = " ".join(sorted(missing))
        raise NotInstalledError(f"These are missing: {names}. Install them: apt-get install --yes {names}")
    if os.geteuid() != 0:
        raise NotInstalledError("Networks of their own for the nodes need root.")


class Stack:
    """Everything, up and healthy."""

    def __init__(self, home: Path, topology: Topology, network: Network, databases: Databases, jobs: int) -> None:
        self.home, self.topology, self.network, self.databases = home, topology, network, databases
        self.jobs = jobs
        """How many jobs the outside systems have something for."""
        self.shared = home / "shared"
        self.supervisor = Supervisor()
        self.keys = Keys()
        self.down: set[str] = set()
        """What is meant to be down."""
        self.services: list[str] = []
        """What runs beside the nodes and the databases."""
        self.settings = Settings(home / "nodes", self.shared, databases, self.keys)

    @property
    def logs(self) -> Path:
        """The folder with a log for each process."""
        return self.home / "logs"

    def api(self, username: str) -> AirflowApi:
        """A client of the REST API through nginx, logged in as one of `USERS`."""
        trusted = ssl.create_default_context(cafile=self.shared / "ca.pem")
        return AirflowApi(API_URL, username, username, trusted=trusted)

    @contextmanager
    def open_ledger(self) -> Iterator[Ledger]:
        """Open the ledger as an onlooker, beside the poolers."""
        with Ledger(self.databases.ledger_kwargs()) as ledger:
            yield ledger

    def process(self, node: Node) -> GuardedProcess:
        """What runs on a node."""
        return self.supervisor.process(node.name)

    def kill(self, node: Node, *, descendants: bool = True) -> None:
        """SIGKILL what runs on a node: all of it, or the parent alone."""
        self.down.add(node.name)
        self.supervisor.kill(node.name, descendants=descendants)

    def kill_nodes(self) -> None:
        """SIGKILL every node: at the end of a run, no one needs what they do."""
        for node in self.topology.nodes:
            if self.supervisor.is_running(node.name):
                self.kill(node)

    def stop(self, node: Node) -> None:
        """SIGTERM, and time to end."""
        self.down.add(node.name)
        self.supervisor.stop(node.name)

    def start(self, node: Node, *, clock: str | None = None) -> None:
        """Start what runs on a node.

        :param clock: how far its clock is off, as libfaketime takes it, such as ``+70m``.
        """
        self.supervisor.add(self._spec(node, clock))
        self.supervisor.start(node.name)
        self.down.discard(node.name)

    def signal_tree(self, node: Node, number: signal.Signals) -> None:
        """Send a signal to everything that runs on a node."""
        guardian.signal_all(self.process(node).descendants(), number)

    def revive(self) -> list[str]:
        """Start the nodes and services that have ended by themselves, as a supervisor of processes does.

        :return: which.
        """
        names = [*(node.name for node in self.topology.nodes), *self.services]
        ended = [name for name in names if name not in self.down and not self.supervisor.is_running(name)]
        for name in ended:
            self.supervisor.restart(name)
        return ended

    def empty_redis(self) -> None:
        """Kill Redis, and start it with nothing in it."""
        self.down.add(REDIS)
        self.supervisor.kill(REDIS)
        self.supervisor.stop(REDIS)
        shutil.rmtree(self.home / REDIS)
        (self.home / REDIS).mkdir()
        self.supervisor.start(REDIS)
        self.down.discard(REDIS)

    def restart_nginx(self) -> None:
        """Stop nginx with the requests that are under way, and start it."""
        self.down.add(NGINX)
        self.supervisor.kill(NGINX)
        self.supervisor.restart(NGINX)
        self.down.discard(NGINX)

    def end_old_primary(self) -> None:
        """Kill the server that took the writes before."""
        self.databases.primary.kill()

    def in_hand(self, node: Node) -> Held:
        """The tasks that a worker runs, or that wait in a triggerer."""
        condition = {
            "worker": "state = 'running' AND hostname = %s",
            "triggerer": "ti.state = 'deferred' AND job.hostname = %s",
        }
        return self._tasks(node, condition[node.kind], node.address) if node.kind in condition else {}

    def left_in_hand(self, node: Node, held: Held) -> Held:
        """Those of these tasks that no one else has gone on with."""
        column = {"worker": "id", "triggerer": "ti.id"}[node.kind]
        now = self._tasks(node, f"{column} = ANY(%s::uuid[])", list(held))
        passive = {"up_for_retry", "scheduled", "queued", "restarting", None}
        return {
            task: was for task, was in held.items() if now.get(task) == was or (task in now and now[task][0] in passive)
        }

    def _tasks(self, node: Node, condition: str, *values: object) -> Held:
        query = _IN_HAND[node.kind].format(condition=condition)
        with self.databases.metadata.connect(METADATA_DATABASE) as connection:
            rows = connection.cursor(row_factory=dict_row).execute(query, list(values)).fetchall()
        return {row["id"]: (row["state"], row["try_number"], row["holder"]) for row in rows}

    def _spec(self, node: Node, clock: str | None = None) -> ProcessSpec:
        env = self.settings.environment(node)
        if clock is not None:
            env |= {"LD_PRELOAD": str(_faketime()), "FAKETIME": clock, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
            env["PYTHONPATH"] = str(OFF_CLOCK)
        return ProcessSpec(
            name=node.name,
            command=self.network.inside(node, python("-m", *_program_of(node))),
            log=self.logs / f"{node.name}.log",
            env=env,
            cwd=self.home / "nodes" / node.name,
            grace_seconds=WORKER_GRACE if node.kind == "worker" else GRACE,
        )

    def specs_of_services(self) -> list[ProcessSpec]:
        """How to run what stands on the backbone beside the databases and their poolers."""
        plain = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
        signing = {"AIHANDOFF_STANDIN_WEBHOOK_SECRETS": self.keys.webhook, "SSL_CERT_FILE": str(self.shared / "ca.pem")}
        business = ("demo.business", f"--host={BACKBONE}", f"--port={BUSINESS_PORT}", f"--more-tickets={self.jobs}")
        standin = (
            "airflow_provider_aihandoff.testing",
            f"--host={BACKBONE}",
            f"--port={OPENAI_PORT}",
            f"--delay-seconds={ANSWER_SECONDS}",
            f"--state-file={self.home / 'openai.json'}",
            f"--webhook-url={WEBHOOK_URL}",
        )
        redis = (
            str(_program("redis-server")),
            *("--bind", BACKBONE, "--port", str(REDIS_PORT), "--dir", str(self.home / REDIS)),
            *("--appendonly", "yes", "--save", "", "--requirepass", self.keys.redis),
        )
        (self.home / REDIS).mkdir()
        (self.home / NGINX).mkdir()
        (self.home / NGINX / "nginx.conf").write_text(self._nginx_configuration())
        nginx = (str(_program("nginx")), "-e", "stderr", "-c", str(self.home / NGINX / "nginx.conf"))
        products = f"--more-products={self.jobs}"
        log_file = f"--log-file={self.home / 'business' / 'witness.jsonl'}"
        return [
            self._service("business", python("-m", *business, products, log_file), plain, f"{BUSINESS_URL}/"),
            self._service("openai", python("-m", *standin), plain | signing, f"{OPENAI_URL}/standin/health"),
            self._service(REDIS, redis, plain),
            self._service(NGINX, nginx, plain),
        ]

    def _service(
        self, name: str, command: tuple[str, ...], env: Mapping[str, str], health_url: str | None = None
    ) -> ProcessSpec:
        healthy = partial(_answers, health_url) if health_url else None
        return ProcessSpec(
            name, command, self.logs / f"{name}.log", env=env, cwd=CHECKOUT, grace_seconds=5, healthy=healthy
        )

    def _nginx_configuration(self) -> str:
        def servers(nodes: list[Node], port: int) -> str:
            return " ".join(f"server {node.address}:{port} max_fails=1 fail_timeout=5s;" for node in nodes)

        return _NGINX_CONFIGURATION.format(
            folder=self.home / NGINX,
            shared=self.shared,
            address=BACKBONE,
            api=servers(self.topology.of("api-server"), AIRFLOW_PORT),
            receivers=servers(self.topology.of("receiver"), RECEIVER_PORT),
            api_port=API_PORT,
            webhook_port=WEBHOOK_PORT,
        )


@contextmanager
def running(home: Path, topology: Topology, *, jobs: int, report: Callable[[str], None]) -> Iterator[Stack]:
    """Start everything, from nothing; stop it when the context ends.

    :param home: a folder for the data and the logs of this run; what an earlier run left there is removed.
    :param jobs: how many there will be at most.
    :param report: gets each step as it begins.
    :raises ProcessFailedError: something ended by itself.
    :raises TimeoutError: something was not healthy in time.
    """
    databases = Databases(home / "databases")
    databases.stop()
    shutil.rmtree(home, ignore_errors=True)
    with ExitStack() as closing:
        network = closing.enter_context(Network(topology.nodes))
        stack = Stack(home, topology, network, databases, jobs)
        stack.shared.mkdir(parents=True)
        write_certificates(stack.shared)
        closing.callback(databases.stop)
        report("Starting three PostgreSQL servers, and migrating the ledger")
        databases.start()
        _write_private(stack.shared / "pg_service.conf", databases.service_file())
        poolers = databases.poolers(str(_program("pgbouncer")), stack.logs)
        closing.enter_context(stack.supervisor)
        closing.callback(stack.kill_nodes)
        for spec in [*poolers, *stack.specs_of_services()]:
            stack.supervisor.add(spec)
            stack.supervisor.start(spec.name)
            stack.services.append(spec.name)
        stack.supervisor.wait_healthy()
        report("Migrating Airflow's database")
        migration = ProcessSpec(
            "migration",
            python("-m", "airflow", "db", "migrate"),
            stack.logs / "migration.log",
            env=stack.settings.of_server(home / "migration"),
            cwd=home,
        )
        run_to_end(migration, AIRFLOW_SECONDS)
        report(f"Starting {len(topology.nodes)} nodes")
        for node in topology.nodes:
            stack.start(node)
        _wait_healthy(stack)
        closing.callback(report, "Stopping")
        yield stack


def _wait_healthy(stack: Stack) -> None:
    """Wait until each node has said that it works."""
    query = "SELECT DISTINCT job_type, hostname FROM job WHERE state = 'running'"
    reporting = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}
    wanted = {(reporting[node.kind], node.address) for node in stack.topology.nodes if node.kind in reporting}
    servers = [f"http://{node.address}:{AIRFLOW_PORT}/api/v2/version" for node in stack.topology.of("api-server")]
    servers += [f"http://{node.address}:{RECEIVER_PORT}/aihandoff/health" for node in stack.topology.of("receiver")]

    def healthy() -> bool:
        stack.supervisor.check_alive()
        with stack.databases.metadata.connect(METADATA_DATABASE) as connection:
            found = {(row[0], row[1]) for row in connection.execute(query).fetchall()}
        return wanted <= found and all(_answers(url) for url in servers) and _workers_ready(stack)

    wait_until(healthy, f"all nodes to be healthy (logs: {stack.logs})", AIRFLOW_SECONDS, 0.5)


def _workers_ready(stack: Stack) -> bool:
    logs = [stack.logs / f"{node.name}.log" for node in stack.topology.of("worker")]
    return all("ready." in log.read_text(errors="replace") for log in logs)


def _program_of(node: Node) -> tuple[str, ...]:
    match node.kind:
        case "api-server":
            return ("airflow", "api-server", "--host", "0.0.0.0", "--port", str(AIRFLOW_PORT), "--proxy-headers")  # noqa: S104  of its own network
        case "worker":
            return ("airflow", "celery", "worker", "--concurrency", str(CONCURRENCY), "--celery-hostname", node.name)
        case "receiver":
            serve = ("airflow_provider_aihandoff", "webhooks", "serve", "--proxy-headers")
            return (*serve, "--host", node.address, "--port", str(RECEIVER_PORT))
        case kind:
            return ("airflow", kind)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _faketime() -> Path | None:
    return next(iter(Path("/usr/lib").glob(f"*/faketime/{FAKETIME}")), None)


def _write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)
