"""A roll-back finds only functions with the mark by the name that the ledger has, and runs no code of other modules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects.undo import plan_undo
from airflow_provider_aihandoff.core.errors import PlanError
from airflow_provider_aihandoff.targets.rollback_functions import check_marked, function_at, rollback_function

IMPORT = "from airflow_provider_aihandoff.decorators import side_effect\n"
IMPORT += "from airflow_provider_aihandoff.decorators.side_effect import rollback_function\n"
RAN = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n"
REMOVE = "def remove(external_id):\n    return external_id\n"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that workers import from."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def write(modules: Path, source: str, name: str = "shop_undo") -> str:
    file = modules / f"{name.replace('.', '/')}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(RAN + source)
    return name


def ran(modules: Path) -> list[str]:
    return [file.stem for file in modules.rglob("*.ran")]


@pytest.mark.parametrize("mark", ["@rollback_function\n", "@side_effect.rollback_function\n"])
def test_a_marked_function_is_found(modules: Path, mark: str) -> None:
    module = write(modules, IMPORT + mark + REMOVE)
    check_marked(f"{module}:remove")
    assert ran(modules) == []
    assert function_at(f"{module}:remove")("7") == "7"


@pytest.mark.parametrize("package", ["with_a_file", "without"])
def test_a_marked_function_in_a_package_is_found(modules: Path, package: str) -> None:
    module = write(modules, IMPORT + "@rollback_function\n" + REMOVE, f"{package}.undo")
    if package == "with_a_file":
        (modules / package / "__init__.py").write_text(RAN)
    check_marked(f"{module}:remove")
    assert ran(modules) == []
    assert function_at(f"{module}:remove")("7") == "7"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (REMOVE, "remove"),
        (IMPORT + REMOVE, "remove"),
        (IMPORT + "@rollback_function\n" + REMOVE, "rollback_function"),
        (IMPORT + "@rollback_function\n" + REMOVE, "remove.__globals__"),
        (IMPORT + "@rollback_function\n" + REMOVE, "side_effect.json.loads"),
        (IMPORT + "class Shop:\n    @rollback_function\n    def remove(self): ...\n", "Shop.remove"),
        (IMPORT + "@rollback_function\nasync def remove(): ...\n", "remove"),
        (IMPORT + "@rollback_function\n" + REMOVE, ""),
        ("def remove(:", "remove"),
    ],
)
def test_of_a_module_without_the_mark_on_the_function_no_code_runs(modules: Path, source: str, name: str) -> None:
    module = write(modules, source)
    with pytest.raises(PlanError, match="is not marked as one that a roll-back may call"):
        function_at(f"{module}:{name}")
    assert ran(modules) == []


def test_a_mark_that_is_only_a_name_in_the_source_is_not_enough(modules: Path) -> None:
    module = write(modules, "def rollback_function(function):\n    return function\n@rollback_function\n" + REMOVE)
    with pytest.raises(PlanError, match="is not marked"):
        function_at(f"{module}:remove")


@pytest.mark.parametrize(
    "path", ["subprocess:getoutput", "os:system", "builtins:exec", "sys:exit", "importlib:import_module"]
)
def test_functions_of_python_itself_are_refused(path: str) -> None:
    with pytest.raises(PlanError, match=r"is not marked|is not installed here"):
        function_at(path)


@pytest.mark.parametrize("module", ["", ".", "..os", "no.such.module", "/etc/passwd", "a b", "sys.path", "os.path.x"])
def test_what_is_no_module_here_is_refused(module: str) -> None:
    with pytest.raises(PlanError, match="is not installed here"):
        function_at(f"{module}:remove")


def test_a_module_that_breaks_on_import_is_said_to(modules: Path) -> None:
    module = write(modules, IMPORT + "@rollback_function\n" + REMOVE + "raise SystemError('no licence')\n")
    with pytest.raises(PlanError, match="cannot be imported: SystemError: no licence"):
        function_at(f"{module}:remove")


@pytest.mark.parametrize(
    ("allowed", "found"),
    [("", True), ("shop", True), ("other, shop.undo ", True), ("shop.und", False), ("sho", False), ("other", False)],
)
def test_configuration_can_name_the_modules_that_are_allowed(
    modules: Path, monkeypatch: pytest.MonkeyPatch, allowed: str, found: bool
) -> None:
    module = write(modules, IMPORT + "@rollback_function\n" + REMOVE, "shop.undo")
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__FUNCTION_MODULES", allowed)
    if found:
        assert function_at(f"{module}:remove")("7") == "7"
        return
    with pytest.raises(PlanError, match="function_modules"):
        function_at(f"{module}:remove")
    assert ran(modules) == []


@pytest.mark.parametrize("field", ["function", "probe"])
def test_an_undo_that_names_an_unmarked_function_is_refused_when_it_is_planned(modules: Path, field: str) -> None:
    marked = write(modules, IMPORT + "@rollback_function\n" + REMOVE)
    declared = {"function": f"{marked}:remove", field: "subprocess:getoutput"}
    with pytest.raises(PlanError, match="'subprocess:getoutput' is not marked"):
        plan_undo(declared, kind="function", name="call")


def test_only_a_function_that_works_when_it_is_called_gets_the_mark() -> None:
    async def later() -> None: ...

    def each() -> Any:
        yield 1

    for function in (later, each, print, str):
        with pytest.raises(ValueError, match="does not do its work when it is called"):
            rollback_function(function)
