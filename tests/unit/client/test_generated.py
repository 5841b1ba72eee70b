"""A generator of clients can read the OpenAPI description, and what it makes reads what the API says."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from airflow_provider_aihandoff.web.app import build_app
from tests.unit.client.test_api_client import DONE


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return build_app().openapi()


@pytest.fixture(scope="module")
def generated(description: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder = Path(tmp_path_factory.mktemp("generated"))
    (folder / "openapi.json").write_text(json.dumps(description))
    options = ("--input-file-type", "openapi", "--output-model-type", "pydantic_v2.BaseModel", "--disable-timestamp")
    command = (sys.executable, "-m", "datamodel_code_generator", "--input", "openapi.json", "--output", "made.py")
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("made", folder / "made.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["made"] = module
    spec.loader.exec_module(module)
    return module


def test_each_schema_of_the_description_becomes_a_model(generated: ModuleType, description: dict[str, Any]) -> None:
    assert set(description["components"]["schemas"]) <= set(vars(generated))


def test_a_generated_model_reads_an_answer(generated: ModuleType) -> None:
    request = generated.JobRequest.model_validate(DONE)
    assert (request.state.value, request.records[0].external_id) == ("done", "17")


def test_each_operation_has_a_name_of_its_own_and_says_what_it_answers(description: dict[str, Any]) -> None:
    operations = [each for methods in description["paths"].values() for each in methods.values()]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    for each in operations:
        assert {"401", "500", "503"} <= each["responses"].keys(), each["operationId"]
        assert each["security"] == [{"Bearer": []}]
        for status, answer in each["responses"].items():
            assert answer["description"]
            if int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"]


def test_links_lead_to_parameters_of_operations_that_there_are(description: dict[str, Any]) -> None:
    operations = {each["operationId"]: each for methods in description["paths"].values() for each in methods.values()}
    links = [
        link
        for each in operations.values()
        for answer in each["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    assert links
    for link in links:
        parameters = {each["name"] for each in operations[link["operationId"]]["parameters"]}
        assert set(link["parameters"]) <= parameters
