"""The import paths that the docs call stable exist, and give what the docs say."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from airflow_provider_aihandoff import errors
from airflow_provider_aihandoff.core import errors as core_errors

STABILITY = (Path(__file__).parents[2] / "docs" / "stability.md").read_text("utf-8")
TABLE = STABILITY.split("### Import paths")[1].split("### ")[0]
PATHS = {
    module: re.findall(r"`(\w+)`", names)
    for module, names in re.findall(r"^\| `(airflow_provider_aihandoff[\w.]*)` \| (.*) \|$", TABLE, re.MULTILINE)
}


@pytest.mark.parametrize("module", PATHS)
def test_a_path_gives_the_names_that_the_docs_list(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in PATHS[module] if not hasattr(found, name)] == []


def test_every_row_of_the_table_is_read() -> None:
    assert len(PATHS) == TABLE.count("| `airflow_provider_aihandoff")


def test_the_public_errors_are_those_of_the_core() -> None:
    of_core = {
        name
        for name, value in vars(core_errors).items()
        if isinstance(value, type) and issubclass(value, core_errors.HandoffError)
    }
    assert set(errors.__all__) == of_core
