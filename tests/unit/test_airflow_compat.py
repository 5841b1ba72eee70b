"""One module asks which Airflow is installed, and no other one does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import airflow_provider_aihandoff
from airflow_provider_aihandoff import airflow_compat, task_states

PACKAGE = Path(airflow_provider_aihandoff.__file__).parent


#: What says which Airflow is installed, as the name of something imported.
_VERSIONS = {"airflow.__version__", "airflow.version", "airflow.providers.common.compat.version_compat"}


def _asked(tree: ast.Module) -> Iterator[int]:
    """The lines that ask which Airflow is installed: by its version, or by an import that may fail."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and any("Import" in ast.unparse(each.type) for each in node.handlers if each.type):
            imports = [each for step in node.body for each in ast.walk(step) if isinstance(each, ast.ImportFrom)]
            yield from (each.lineno for each in imports if _is_airflow(each.module or ""))
        elif isinstance(node, ast.Call) and any(_names_airflow(argument) for argument in node.args):
            if ast.unparse(node.func).rpartition(".")[2] in ("import_module", "find_spec", "version"):
                yield node.lineno
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{each.name}" for each in node.names} | {node.module}
            yield from [node.lineno] if names & _VERSIONS else []
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in _VERSIONS:
            yield node.lineno


def _names_airflow(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and _is_airflow(str(node.value))


def _is_airflow(module: str) -> bool:
    """Airflow itself: a provider of it may be missing whatever Airflow is installed."""
    part_of_airflow = module.split(".")[0] == "airflow" and not module.startswith("airflow.providers.")
    return part_of_airflow or module in ("apache-airflow", "apache-airflow-core", "apache-airflow-task-sdk")


def test_no_other_module_asks_which_airflow_is_installed() -> None:
    asked = {
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in PACKAGE.rglob("*.py")
        for line in _asked(ast.parse(file.read_text("utf-8")))
    }
    assert {each.partition(":")[0] for each in asked} == {"airflow_compat.py"}


@pytest.mark.parametrize(
    "code",
    [
        "try:\n    from airflow.sdk import new\nexcept ImportError:\n    new = None",
        "try:\n    from airflow import new\nexcept (ImportError, AttributeError):\n    new = None",
        "import_module('airflow.new')",
        "importlib.util.find_spec('airflow.sdk.new')",
        "importlib.metadata.version('apache-airflow-core')",
        "from airflow import __version__",
        "from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS",
        "import airflow\nairflow.__version__",
    ],
)
def test_each_way_to_ask_is_found(code: str) -> None:
    assert list(_asked(ast.parse(code)))


def test_a_provider_may_be_missing() -> None:
    code = "try:\n    from airflow.providers.smtp.hooks.smtp import SmtpHook\nexcept ImportError:\n    raise"
    assert not list(_asked(ast.parse(code)))


def test_the_release_is_that_of_airflow() -> None:
    from airflow import __version__

    assert __version__.startswith(".".join(map(str, airflow_compat.RELEASE)))


def test_iterations_of_a_loop_have_keys_of_their_own_and_nothing_is_added_outside_of_one() -> None:
    def suffix(**context: Any) -> str:
        return task_states.loop_suffix(cast("Any", context))

    assert [suffix(loop=SimpleNamespace(index=index)) for index in (0, 1)] == ["/iteration-0", "/iteration-1"]
    assert suffix() == ""
