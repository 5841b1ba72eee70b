"""docker-compose.many.yaml, on top of docker-compose.yaml: all that can be tried of it without Docker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_compose import (
    AIRFLOW_SERVICES,
    FILE,
    HOSTILE,
    MANY,
    REQUIRED,
    compose,
    environment_of,
    rendered,
    run_with,
    stub,
)

FILES = (FILE, MANY)
NEEDED = (*REQUIRED, "OPENAI_WEBHOOK_SECRET")


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    return rendered({name: f"the {name}" for name in NEEDED}, files=FILES)


def test_there_are_two_of_everything_but_the_databases(model: dict[str, Any]) -> None:
    replicas = {name: service.get("deploy", {}).get("replicas") for name, service in model["services"].items()}
    assert {name for name, number in replicas.items() if number == 2} == {*AIRFLOW_SERVICES, "aihandoff-receiver"}
    assert {name for name, number in replicas.items() if number is None} == {
        "postgres",
        "redis",
        "pgbouncer",
        "airflow-init",
    }


def test_no_two_of_one_kind_need_the_same_port(model: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in model["services"].items() if "ports" in service}
    assert set(ports) == {"airflow-api-server", "aihandoff-receiver"}
    for (port,) in ports.values():
        first, last = map(int, port["published"].split("-"))
        assert (port["host_ip"], last - first) == ("127.0.0.1", 1)


def test_workers_and_receivers_reach_the_ledger_through_the_pooler_and_who_listens_does_not(
    model: dict[str, Any],
) -> None:
    sources = {
        name: {config["source"] for config in service.get("configs", [])} for name, service in model["services"].items()
    }
    pooled = {name for name, found in sources.items() if "pg-service-pooled" in found}
    assert pooled == {"airflow-worker", "aihandoff-receiver"}
    assert "pg-service" not in sources["airflow-worker"]
    for name in ("airflow-triggerer", "airflow-api-server", "airflow-init"):
        assert sources[name] == {"pg-service"}
    service, pooler = (model["configs"][name]["content"] for name in ("pg-service-pooled", "pgbouncer"))
    assert "host=pgbouncer\nport=6432\n" in service
    assert "listen_port = 6432\n" in pooler
    assert "pool_mode = transaction\n" in pooler


def test_a_receiver_has_no_key_of_airflows(model: dict[str, Any]) -> None:
    given = json.dumps(model["services"]["aihandoff-receiver"])
    held = {name for name in NEEDED if f"the {name}" in given}
    assert held == {"OPENAI_API_KEY", "OPENAI_WEBHOOK_SECRET"}
    connection = json.loads(environment_of(model, "aihandoff-receiver")["AIRFLOW_CONN_OPENAI_DEFAULT"])
    assert connection["extra"] == {"webhook_secrets": "the OPENAI_WEBHOOK_SECRET"}
    assert model["services"]["aihandoff-receiver"]["command"][:3] == ["aihandoff", "webhooks", "serve"]


def test_a_missing_secret_of_the_webhooks_is_refused_by_name() -> None:
    result = compose("config", "--quiet", environment=dict.fromkeys(REQUIRED, "x"), files=FILES)
    assert result.returncode != 0
    assert "OPENAI_WEBHOOK_SECRET is missing a value: see .env.example" in result.stderr


def test_any_password_reaches_the_pooler(tmp_path: Path) -> None:
    quoted = HOSTILE.replace("'", "\\'")
    (tmp_path / ".env").write_text("".join(f"{name}='{name}{quoted}'\n" for name in REQUIRED))
    model = rendered({"OPENAI_WEBHOOK_SECRET": "x"}, tmp_path / ".env", FILES)
    pooler = model["services"]["pgbouncer"]
    users = tmp_path / "users.txt"
    script = [word.replace("/tmp/users.txt", str(users)) for word in pooler["command"]]
    stub(tmp_path / "bin", "pgbouncer", """printf '%s\\n' "$@" """)
    said = run_with(tmp_path / "bin", script, pooler["environment"])
    assert said.stdout.splitlines() == ["/etc/pgbouncer/pgbouncer.ini"]
    password = f"AIHANDOFF_LEDGER_PASSWORD{HOSTILE}".replace('"', '""')
    assert users.read_text() == f'"aihandoff_ledger" "{password}"\n'


def test_every_service_says_whether_it_is_well(model: dict[str, Any]) -> None:
    for name in ("pgbouncer", "aihandoff-receiver"):
        assert "healthcheck" in model["services"][name]
        assert model["services"][name]["restart"] == "unless-stopped"
    assert model["services"]["airflow-worker"]["depends_on"]["pgbouncer"]["condition"] == "service_healthy"
    assert "airflow-api-server" in model["services"]["airflow-worker"]["depends_on"]
