"""What Airflow reads of the provider is what the package has."""

from __future__ import annotations

import json
from importlib import import_module, metadata, resources
from typing import Any

import jsonschema
import pytest

from airflow_provider_aihandoff.get_provider_info import get_provider_info
from airflow_provider_aihandoff.version import __version__

INFO = get_provider_info()
MODULES = [
    module
    for kind in ("operators", "sensors", "hooks", "triggers")
    for entry in INFO[kind]
    for module in entry["python-modules"]
]


def test_airflow_accepts_the_provider_info() -> None:
    schema: Any = json.loads(resources.files("airflow").joinpath("provider_info.schema.json").read_text("utf-8"))
    jsonschema.validate(INFO, schema)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_that_the_provider_info_names_exists(module: str) -> None:
    assert import_module(module).__doc__


def test_the_provider_info_names_every_operator_sensor_hook_and_trigger_module() -> None:
    private = {
        "job_tasks",
        "job_argument",
        "retries",
        "masking",
        "elements",
        "earlier_effects",
        "skipped",
        "set_transport",
        "endpoint_values",
        "rendering",
        "planning",
        "waiting",
        "notices",
        "notice_links",
        "fleet_notices",
        "observability",
        "responding",
        "revising",
        "model_provider",
        "rate_arguments",
        "ended",
        "event_posts",
        "hub",
        "polling",
        "waits",
        "webhook_secrets",
        "xcom",
        "wake_queries",
        "bill_comparison",
        "items",
        "asset_events",
        "lineage",
        "task_links",
        "set_approval",
        "required_actions",
        "set_effects",
        "set_answers",
        "set_leg",
        "requesting",
    }  # shared by the modules that Dag authors import
    found = {
        f"airflow_provider_aihandoff.{folder}.{file.name.removesuffix('.py')}"
        for folder in ("operators", "sensors", "hooks", "triggers")
        for file in resources.files("airflow_provider_aihandoff").joinpath(folder).iterdir()
        if file.name.endswith(".py") and file.name != "__init__.py"
    }
    assert {name for name in found if name.rsplit(".", 1)[1] not in private} == set(MODULES)


@pytest.mark.parametrize("group", ["apache_airflow_provider", "airflow.plugins"])
def test_the_entry_points_of_the_provider_load(group: str) -> None:
    own = [
        point for point in metadata.entry_points(group=group) if point.value.startswith("airflow_provider_aihandoff")
    ]
    assert [callable(point.load()) for point in own] == [True]


def test_the_provider_info_has_the_version_of_the_package() -> None:
    assert metadata.version("airflow-provider-aihandoff") == __version__
