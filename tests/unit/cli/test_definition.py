"""Commands are defined without loading their modules, so the name of each function must be right."""

from __future__ import annotations

import subprocess
import sys

CHECK = """
import sys
from importlib import import_module
from airflow.cli import cli_config

paths = []
cli_config.lazy_load_command = lambda path: paths.append(path) or print
from airflow_provider_aihandoff.cli import definition

definition.get_commands()
heavy = {"psycopg", "openai", "fastapi", "airflow_provider_aihandoff.core.ledger"} & sys.modules.keys()
assert not heavy, f"a call of `airflow` would load {heavy}"
for path in paths:
    module, _, function = path.rpartition(".")
    assert callable(getattr(import_module(module), function)), path
print(len(paths))
"""


def test_every_command_names_a_function_that_exists_and_loads_nothing_before_it_runs() -> None:
    found = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout.split()[-1]) >= 20
