"""contrib/kubernetes: two of everything, each with the secrets that it needs and no other, and no secret in the files.

`AIHANDOFF_TEST_CHART` names a folder with Airflow's Helm chart, to validate the values by its own schema.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "contrib" / "kubernetes"
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text("utf-8"))
RECEIVER: list[dict[str, Any]] = list(yaml.safe_load_all((FOLDER / "receiver.yaml").read_text("utf-8")))
DOCS = (ROOT / "docs" / "many-nodes.md").read_text("utf-8")
CHART = os.environ.get("AIHANDOFF_TEST_CHART")

OF_AIRFLOW = {"airflow-metadata/connection", "airflow-keys/fernet-key"}
LEDGER, DIRECT, OPENAI, WEBHOOKS, DIGEST = (
    f"aihandoff/{key}" for key in ("ledger", "ledger-direct", "openai", "openai-webhooks", "digest-key")
)


def secrets_of(env: list[dict[str, Any]]) -> set[str]:
    """The secrets that an environment names, each with its key."""
    found = [each["valueFrom"]["secretKeyRef"] for each in env if "valueFrom" in each]
    return {f"{each['name']}/{each['key']}" for each in found}


def test_who_gets_which_secret() -> None:
    (receiver,) = RECEIVER[0]["spec"]["template"]["spec"]["containers"]
    given = {
        "workers": VALUES["workers"]["celery"]["env"],
        **{name: VALUES[name]["env"] for name in ("scheduler", "dagProcessor", "triggerer", "apiServer")},
        "migration": VALUES["migrateDatabaseJob"]["env"],
        "receiver": receiver["env"],
    }
    assert {name: secrets_of(env) for name, env in given.items()} == {
        "workers": {LEDGER, OPENAI, DIGEST},
        "scheduler": OF_AIRFLOW,
        "dagProcessor": OF_AIRFLOW,
        "triggerer": {*OF_AIRFLOW, DIRECT, OPENAI, DIGEST},
        "apiServer": {*OF_AIRFLOW, DIRECT, OPENAI, DIGEST},
        "migration": {*OF_AIRFLOW, DIRECT, OPENAI, DIGEST},
        "receiver": {LEDGER, WEBHOOKS},
    }


def test_the_chart_gives_no_component_the_keys_of_airflow_by_itself() -> None:
    turned_off = {name for name, given in VALUES["enableBuiltInSecretEnvVars"].items() if given is False}
    assert turned_off == {
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
        "AIRFLOW_CONN_AIRFLOW_DB",
    }
    for name in ("scheduler", "dagProcessor", "triggerer", "apiServer"):
        assert VALUES[name]["waitForMigrations"] == {"enabled": False}
        (wait,) = VALUES[name]["extraInitContainers"]
        assert secrets_of(wait["env"]) == {"airflow-metadata/connection"}
    assert VALUES["workers"]["celery"]["waitForMigrations"] == {"enabled": False}


def test_two_of_everything_of_which_one_may_be_unavailable() -> None:
    parts = [VALUES[name] for name in ("scheduler", "dagProcessor", "triggerer", "apiServer", "pgbouncer")]
    for part in [*parts, VALUES["workers"]["celery"]]:
        assert part["replicas"] == 2
        assert part["podDisruptionBudget"] == {"enabled": True}
    receiver, _, budget = RECEIVER
    assert receiver["spec"]["replicas"] == 2
    assert budget["spec"]["maxUnavailable"] == 1


def test_the_ledger_is_migrated_after_airflow_and_no_user_is_made() -> None:
    steps = VALUES["migrateDatabaseJob"]["args"][-1].split(" && ")
    assert steps == ["airflow db migrate", "airflow aihandoff db upgrade", "airflow aihandoff db check"]
    assert VALUES["createUserJob"] == {"enabled": False}


def test_no_secret_stands_in_the_files_and_each_is_explained() -> None:
    text = "".join(file.read_text("utf-8") for file in FOLDER.iterdir())
    assert not re.search(r"://[^/\s\"]*:[^/\s\"@+]+@", text)
    assert not re.search(r"^ *(?:password|pass|fernetKey|jwtSecret|apiSecretKey): *\S", text, re.MULTILINE)
    named = set(re.findall(r"\bname: ((?:airflow|aihandoff)(?:-[a-z]+)*), key: ([a-z-]+)", text))
    assert len(named) == 7
    for secret, key in named:
        assert secret in DOCS
        assert key in DOCS


def test_the_exporter_beside_pgbouncer_can_log_in() -> None:
    pooler = VALUES["pgbouncer"]
    assert pooler["metricsExporterSidecar"] == {
        "statsSecretName": pooler["configSecretName"],
        "statsSecretKey": "stats",
    }
    assert "stats_users = stats" in DOCS
    assert "--from-file=stats=" in DOCS


def test_the_image_is_the_same_everywhere() -> None:
    image = VALUES["images"]["airflow"]
    named = f"{image['repository']}:{image['tag']}"
    (receiver,) = RECEIVER[0]["spec"]["template"]["spec"]["containers"]
    (wait,) = VALUES["scheduler"]["extraInitContainers"]
    assert (receiver["image"], wait["image"]) == (named, named)
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert f"ARG AIRFLOW_IMAGE=apache/airflow:{VALUES['airflowVersion']}-python" in dockerfile


@pytest.mark.skipif(CHART is None, reason="AIHANDOFF_TEST_CHART names no chart")
def test_the_chart_takes_the_values() -> None:
    schema = json.loads(Path(str(CHART), "values.schema.json").read_text("utf-8"))
    assert [error.message for error in Draft7Validator(schema).iter_errors(VALUES)] == []
    wrong = {**VALUES, "triggerer": {**VALUES["triggerer"], "replica": 2}}
    assert any("replica" in error.message for error in Draft7Validator(schema).iter_errors(wrong))
