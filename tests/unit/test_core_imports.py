"""The core can be used and tested without Airflow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

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


#: What Dag files import beside operators and sensors. Airflow's Dag processor parses them all the time.
OTHER_DAG_FILE_MODULES = ("assets", "errors", "job_types", "policies", "reviewers", "states")

#: Where the operators and sensors are, and how a module begins to be one.
OPERATOR_FOLDERS = ("decorators", "operators", "sensors")
OPERATOR = re.compile(r"^class \w+(?:Operator|Sensor)\(", re.MULTILINE)

#: What none of them must load: drivers, SDKs, Airflow's hooks, what reads schemas and paths, and what serves pages.
HEAVY = (
    "airflow.providers.http",
    "airflow.providers.openai",
    "airflow.providers.openlineage",
    "airflow.providers.postgres",
    "airflow.providers.smtp",
    "alembic",
    "fastapi",
    "genai_prices",
    "httpx",
    "jsonpath_rfc9535",
    "jsonschema",
    "openai",
    "openlineage",
    "psycopg",
    "psycopg_pool",
    "requests",
    "standardwebhooks",
)

#: What of ours only a task needs that runs: the ledger and its rows, each protocol, targets, triggers, notifications.
HEAVY_OF_OURS = (
    "core.budgets",
    "core.database",
    "core.effects.placeholders",
    "core.effects.undo",
    "core.generation.provider",
    "core.generation.submit",
    "core.job_requests.job_request",
    "core.jobs.job_view",
    "core.ledger",
    "core.models",
    "core.rates",
    "core.sets.set_record",
    "core.signals",
    "core.spans",
    "doctor",
    "hooks.ledger",
    "operators.notices",
    "operators.planning",
    "operators.responding",
    "targets.email",
    "targets.function",
    "targets.http",
    "targets.postgres",
    "triggers",
    "web",
)

#: Modules of ours that all of them load together. To load more, the Dag processor has to have a use for each.
AT_MOST = 75

PARSE = """
import importlib, sys
from airflow.sdk import DAG, task
task.python
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted(set(sys.modules) - before))
"""


def dag_file_modules() -> list[str]:
    """The modules that Dag files import: each one that has an operator or a sensor, and what goes with them."""
    files = [file for folder in OPERATOR_FOLDERS for file in sorted((PACKAGE / folder).glob("*.py"))]
    of_operators = [f"{file.parent.name}.{file.stem}" for file in files if OPERATOR.search(file.read_text("utf-8"))]
    assert {"decorators.side_effect", "operators.http", "operators.response_set", "sensors.approval"} <= {*of_operators}
    return [f"{PACKAGE.name}.{name}" for name in (*of_operators, *OTHER_DAG_FILE_MODULES)]


@pytest.fixture(scope="module")
def loaded() -> list[str]:
    """What a Dag file loads that imports all of them, beside what one loads that uses none."""
    return loaded_by(dag_file_modules())


def loaded_by(modules: Sequence[str]) -> list[str]:
    """What a fresh interpreter loads with modules, beside what it loads with Airflow's own."""
    result = subprocess.run([sys.executable, "-c", PARSE, *modules], capture_output=True, text=True, check=True)
    found = result.stdout.split()
    assert set(modules) <= set(found)
    return found


def heavy_among(found: Sequence[str], heavy: Collection[str]) -> list[str]:
    """Those of some modules that are heavy, or within a package that is."""
    return [name for name in found if any(name == part or name.startswith(f"{part}.") for part in heavy)]


def test_what_a_dag_file_imports_loads_nothing_that_only_a_running_task_needs(loaded: list[str]) -> None:
    heavy = {*HEAVY, *(f"{PACKAGE.name}.{name}" for name in HEAVY_OF_OURS)}
    assert heavy_among(loaded, heavy) == []


def test_neither_does_the_check_of_an_output_type() -> None:
    facts = f"{PACKAGE.name}.core.generation.openai.facts"
    heavy = {*HEAVY, *(f"{PACKAGE.name}.{name}" for name in ("core.database", "core.ledger", "core.models"))}
    assert heavy_among(loaded_by([facts]), heavy) == []


def test_every_module_that_a_dag_file_must_not_load_is_there() -> None:
    modules = {".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in PACKAGE.rglob("*.py")}
    packages = {name.removesuffix(".__init__") for name in modules}
    assert [name for name in HEAVY_OF_OURS if name not in packages] == []


def test_a_dag_file_loads_few_modules_of_ours(loaded: list[str]) -> None:
    own = [name for name in loaded if name.split(".")[0] == PACKAGE.name]
    assert len(own) <= AT_MOST, "\n".join(own)


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
