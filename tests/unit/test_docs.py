"""The documentation agrees with the code, and its links lead somewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from airflow_provider_aihandoff.core.database.schema import head_version
from airflow_provider_aihandoff.core.jobs.cases import Case
from airflow_provider_aihandoff.core.options import OPTIONS
from airflow_provider_aihandoff.core.signals import METRICS
from docs import generate_states

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)

VERSION = re.compile(r"(?:schema|at) version (\d{4})\b")

#: The commands with their long options, as Airflow gets them.
LIST_COMMANDS = """
import json
from airflow_provider_aihandoff.cli.definition import get_commands

def walk(command, path):
    path = [*path, command.name]
    if hasattr(command, "subcommands"):
        return [found for part in command.subcommands for found in walk(part, path)]
    return [[" ".join(path), [flag for arg in command.args for flag in arg.flags if flag.startswith("--")]]]

print(json.dumps([found for group in get_commands() for found in walk(group, ["airflow"])]))
"""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_code(page: Path) -> str:
    return CODE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Each link that stays in the repository: its path, empty for the same page, and its anchor."""
    for target in LINK.findall(without_code(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


def table_rows(page: Path) -> Iterator[list[str]]:
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


@pytest.mark.parametrize("path", generate_states.blocks(), ids=lambda path: path.name)
def test_what_a_page_takes_from_the_code_is_what_the_code_says(path: Path) -> None:
    page = path.read_text("utf-8")
    assert generate_states.rendered(path, page) == page, "run `python docs/generate_states.py`"


def test_a_page_that_is_stale_is_found() -> None:
    page = generate_states.CONCEPTS.read_text("utf-8").replace("queued --> running", "queued --> waiting")
    assert generate_states.rendered(generate_states.CONCEPTS, page) != page


def test_each_case_of_a_job_is_in_the_table_of_operations() -> None:
    rows = {row[0] for row in table_rows(DOCS / "operations.md")}
    assert {f"**{case.value}**" for case in Case} <= rows


def test_every_option_is_described_with_its_default() -> None:
    rows = {row[0].strip("`"): row[1].strip("`") for row in table_rows(DOCS / "operations.md") if len(row) >= 3}
    assert {name: rows.get(name) for name in OPTIONS} == {name: option.default for name, option in OPTIONS.items()}


def test_every_metric_is_described_as_the_code_does() -> None:
    rows = [row for row in table_rows(DOCS / "metrics.md") if len(row) == 4 and row[0].startswith("`aihandoff.")]
    described = {row[0].strip("`"): (row[1], row[2], row[3].rstrip(" |")) for row in rows}
    labels = {metric: ", ".join(f"`{label}`" for label in metric.labels) or "none" for metric in METRICS}
    assert described == {metric.name: (metric.kind.value, labels[metric], metric.about) for metric in METRICS}


def test_every_command_is_described_with_its_options(tmp_path: Path) -> None:
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", LIST_COMMANDS], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    commands = json.loads(result.stdout.splitlines()[-1])
    page = (DOCS / "cli.md").read_text("utf-8")
    assert len(commands) > 5
    assert [command for command, _ in commands if f"`{command}`" not in page] == []
    assert {flag for _, flags in commands for flag in flags if flag not in page} == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    dead = []
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(f"{path}#{anchor}")
    assert dead == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_example_in_python_or_json_can_be_read(page: Path) -> None:
    for indent, language, code in CODE.findall(page.read_text("utf-8")):
        text = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        if language == "python":
            compile(text, name_of(page), "exec")
        elif language == "json":
            json.loads(text)


def _imports(code: str) -> Iterator[tuple[str, str | None]]:
    """Each module, and each name in one, that an example imports of Airflow or of this package."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found: list[tuple[str, str | None]] = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        yield from ((module, name) for module, name in found if module.split(".")[0].startswith("airflow"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_an_example_imports_exists(page: Path) -> None:
    missing = []
    for indent, language, code in CODE.findall(page.read_text("utf-8")):
        if language != "python":
            continue
        for module, name in _imports(re.sub(f"^{indent}", "", code, flags=re.MULTILINE)):
            found = import_module(module)
            if name is not None and not hasattr(found, name) and find_spec(f"{module}.{name}") is None:
                missing.append(f"{module}.{name}")
    assert missing == []


def test_the_schema_versions_in_the_docs_are_the_newest() -> None:
    named = {(name_of(page), version) for page in PAGES for version in VERSION.findall(page.read_text("utf-8"))}
    assert {version for _, version in named} == {head_version()}, named


def test_the_index_names_every_page() -> None:
    named = {path for path, _ in links(DOCS / "README.md")}
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= named
