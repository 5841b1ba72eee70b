"""OpenAI's SDK stays behind the seam to the model provider, and what is private in it is watched."""

from __future__ import annotations

import ast
import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import airflow_provider_aihandoff
from airflow_provider_aihandoff.hooks.model_provider import providers, shared_provider

PACKAGE = Path(airflow_provider_aihandoff.__file__).parent

#: Where the SDK may be imported: the implementation of the seam, and the one place that makes clients.
BEHIND_THE_SEAM = ("core/generation/openai/", "hooks/model_provider.py")

#: The stand-in for OpenAI is as strict as it, by the same rules.
STAND_IN = "testing/"

#: The package that only the files behind the seam import.
OPENAI_HALF = "core.generation.openai."


def imported(source: str) -> Iterator[str]:
    """The modules that a source imports anywhere: at the top, in a function, or for type checkers alone."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_sdk(source: str) -> bool:
    return any(name.partition(".")[0] == "openai" for name in imported(source))


def test_the_sdk_is_imported_only_behind_the_seam() -> None:
    outside = []
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE).as_posix()
        if not path.startswith(BEHIND_THE_SEAM) and imports_sdk(file.read_text(encoding="utf-8")):
            outside.append(path)
    assert outside == []


def test_openais_half_of_the_seam_is_imported_only_where_clients_are_made() -> None:
    outside = []
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE).as_posix()
        names = imported(file.read_text(encoding="utf-8"))
        if not path.startswith((*BEHIND_THE_SEAM, STAND_IN)) and any(OPENAI_HALF in f"{name}." for name in names):
            outside.append(path)
    assert outside == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import openai", True),
        ("import openai.types", True),
        ("from openai import OpenAI", True),
        ("def f():\n    from openai.lib import _parsing", True),
        ("if TYPE_CHECKING:\n    from openai import OpenAI", True),
        ("from airflow.providers.openai.hooks.openai import OpenAIHook", False),
        ("from . import openai", False),
        ("import openai_something", False),
    ],
)
def test_every_form_of_an_import_is_found(source: str, found: bool) -> None:
    assert imports_sdk(source) is found


#: What makes a client, or names its class.
CLIENTS = frozenset({"OpenAI", "AsyncOpenAI", "AzureOpenAI", "AsyncAzureOpenAI", "OpenAIHook"})


def makes_client(source: str) -> bool:
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return any(getattr(made, "id", getattr(made, "attr", "")) in CLIENTS for made in calls)


def test_clients_are_made_in_one_place() -> None:
    root = PACKAGE.parent
    files = [file for folder in (PACKAGE, root / "dags", root / "demo") for file in folder.rglob("*.py")]
    makers = [file for file in files if makes_client(file.read_text(encoding="utf-8"))]
    assert makers == [PACKAGE / "hooks" / "model_provider.py"]


def retries_of(provider: Any) -> int:
    return int(provider._responses._client.max_retries)


def test_no_client_has_the_retries_of_the_sdk_whatever_its_connection_says(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"openai_client_kwargs": {"max_retries": 5}}
    connection = {"conn_type": "openai", "password": "sk-any", "host": "http://127.0.0.1:1/v1", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_RETRYING", json.dumps(connection))
    with providers() as provider_for:
        assert retries_of(provider_for("retrying")) == 0
    assert retries_of(asyncio.run(shared_provider("retrying"))) == 0


class Line(BaseModel):
    sku: str
    amount: int = 1


class Order(BaseModel):
    title: str
    lines: list[Line]


def test_the_private_part_of_the_sdk_that_makes_strict_schemas_is_as_it_was() -> None:
    try:
        from openai.lib._parsing._responses import type_to_text_format_param
    except ImportError:
        pytest.fail(
            "The openai SDK has moved `type_to_text_format_param`, which is private to it. Find where it makes a "
            "strict schema of a Pydantic model now, and change `core/generation/openai/request.py`."
        )
    made: Any = type_to_text_format_param(Order)
    line = {
        "type": "object",
        "title": "Line",
        "properties": {
            "sku": {"type": "string", "title": "Sku"},
            "amount": {"type": "integer", "title": "Amount", "default": 1},
        },
        "required": ["sku", "amount"],
        "additionalProperties": False,
    }
    order = {
        "type": "object",
        "title": "Order",
        "properties": {
            "title": {"type": "string", "title": "Title"},
            "lines": {"type": "array", "title": "Lines", "items": {"$ref": "#/$defs/Line"}},
        },
        "required": ["title", "lines"],
        "additionalProperties": False,
        "$defs": {"Line": line},
    }
    expected = {"type": "json_schema", "name": "Order", "strict": True, "schema": order}
    assert made == expected, (
        "The openai SDK makes another strict schema of a Pydantic model than before. A job whose input snapshot has "
        "the schema then counts as other work after the upgrade: check `core/generation/openai/request.py`, say so in "
        "the changelog, and change this test."
    )
