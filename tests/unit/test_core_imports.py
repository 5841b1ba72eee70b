"""The core can be used and tested without Airflow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import airflow_provider_aihandoff

PACKAGE = Path(airflow_provider_aihandoff.__file__).parent
#: What is allowed to know Airflow; everything else in the package is the core.
AIRFLOW_SIDE = {
    "operators",
    "targets",
    "decorators",
    "doctor",
    "sensors",
    "triggers",
    "hooks",
    "plugins",
    "web",
    "cli",
    "testing",
}
AIRFLOW_SIDE_MODULES = {
    "__main__",
    "airflow_compat",
    "assets",
    "settings",
    "task_memory",
    "task_states",
    "get_provider_info",
}
#: Alembic runs these; they are no modules to import.
SCRIPTS = {"migrations"}

IMPORT_ALL = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "airflow":
            raise ImportError(f"the core imports {name}")

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
    importlib.import_module(name)
assert not [name for name in sys.modules if name.split(".")[0] == "airflow"]
"""


def core_modules() -> list[str]:
    modules = []
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in AIRFLOW_SIDE | AIRFLOW_SIDE_MODULES or SCRIPTS & set(parts):
            continue
        modules.append(".".join((PACKAGE.name, *parts)).removesuffix(".__init__"))
    return modules


def test_the_core_imports_nothing_from_airflow() -> None:
    modules = core_modules()
    assert {"core.ledger", "core.database.schema", "core.states", "policies", "core.generation.submit"} <= {
        name.removeprefix(f"{PACKAGE.name}.") for name in modules
    }
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *modules], capture_output=True, text=True, check=False, cwd=PACKAGE.parent
    )
    assert result.returncode == 0, result.stderr


#: What Dag files import. Airflow's Dag processor parses them all the time.
DAG_FILE_MODULES = (
    "decorators.side_effect",
    "operators.email",
    "operators.http",
    "operators.postgres",
    "operators.reconcile",
    "operators.response",
    "operators.rollback",
    "operators.side_effect",
    "policies",
    "reviewers",
    "sensors.approval",
)

#: What they must not load: the driver, the SDK, the ledger, and what these bring.
HEAVY = (
    "psycopg",
    "psycopg_pool",
    "openai",
    "alembic",
    "genai_prices",
    "requests",
    "jsonpath_rfc9535",
    "jsonschema",
    "fastapi",
)
HEAVY_OF_OURS = ("core.ledger", "core.database")

PARSE = """
import importlib, sys
import airflow.sdk
from airflow.sdk import DAG
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted(set(sys.modules) - before))
"""


def test_what_a_dag_file_imports_loads_neither_the_driver_nor_the_sdk_nor_the_ledger() -> None:
    modules = [f"{PACKAGE.name}.{name}" for name in DAG_FILE_MODULES]
    result = subprocess.run([sys.executable, "-c", PARSE, *modules], capture_output=True, text=True, check=True)
    loaded = result.stdout.split()
    assert set(modules) <= set(loaded)
    heavy = {*HEAVY, *(f"{PACKAGE.name}.{name}" for name in HEAVY_OF_OURS)}
    assert [name for name in loaded if any(name == part or name.startswith(f"{part}.") for part in heavy)] == []


def test_no_function_of_the_core_imports_airflow_either() -> None:
    found = []
    for file in PACKAGE.joinpath("core").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            own = [name.split(".")[1] for name in names if name.startswith(f"{PACKAGE.name}.")]
            found += [f"{file.name}: {name}" for name in names if name.split(".")[0] == "airflow"]
            found += [f"{file.name}: {name}" for name in own if name in AIRFLOW_SIDE | AIRFLOW_SIDE_MODULES]
    assert found == []
