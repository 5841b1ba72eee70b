"""The package is laid out as its listing says: no import goes in a circle, and one name means one thing."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

import airflow_provider_aihandoff

PACKAGE = Path(airflow_provider_aihandoff.__file__).parent

#: Stems that stand in more than one folder, since they mean the same in each: a face and what it shows, a command
#: group and its protocol, an operator and the trigger or the target that it uses.
SHARED_STEMS = {
    "__main__": {"", "testing"},
    "approval": {"sensors", "triggers"},
    "email": {"operators", "targets"},
    "errors": {"", "core"},
    "event_delivery": {"operators", "triggers"},
    "http": {"operators", "targets"},
    "inbox": {"cli", "core/webhooks"},
    "ledger": {"core", "hooks"},
    "postgres": {"operators", "targets"},
    "provider": {"core/generation", "core/generation/openai"},
    "response": {"operators", "triggers"},
    "rollback": {"cli", "operators"},
    "reconcile": {"cli", "operators"},
    "side_effect": {"decorators", "operators"},
    "states": {"", "core"},
    "webhooks": {"cli", "testing"},
}

#: How psycopg sends several statements in one round trip.
SEVERAL_TOGETHER = ("executemany", "pipeline")


def test_no_import_goes_in_a_circle_not_even_within_a_function_or_for_types_alone() -> None:
    graph = grimp.build_graph(PACKAGE.name)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 100
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        raise AssertionError(f"these import each other: {error.args[1]}") from None


def test_a_file_name_stands_in_two_folders_only_where_it_means_the_same() -> None:
    folders = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        if file.stem != "__init__" and "migrations" not in file.parts:
            folders[file.stem].add(str(file.parent.relative_to(PACKAGE)).removeprefix("."))
    assert {stem: found for stem, found in folders.items() if len(found) > 1} == SHARED_STEMS


def test_the_packages_are_empty_but_for_those_that_others_import_from() -> None:
    full = {file.parent.name for file in PACKAGE.rglob("__init__.py") if file.read_text("utf-8").strip()}
    assert full == {"client", "policies", "testing"}


def test_no_transaction_sends_several_statements_together() -> None:
    # The server does not count the time within a pipeline: a process that is stopped there would keep its locks.
    files = [*PACKAGE.rglob("*.py")]
    assert len(files) > 100
    found = [str(file) for file in files if any(f".{name}(" in file.read_text("utf-8") for name in SEVERAL_TOGETHER)]
    assert found == []


def test_rows_of_which_no_more_than_a_number_are_changed_are_found_once() -> None:
    """With ``IN``, PostgreSQL may find them several times, others each time, and change more than that number."""
    begun = re.compile(r"\bIN \(\s*SELECT")
    found = [f"{file.name}: {text[:60]}" for file in PACKAGE.rglob("*.py") for text in _limited(file, begun)]
    assert found == [], "= ANY(ARRAY(SELECT ... LIMIT ...)) finds them once"


def _limited(file: Path, begun: re.Pattern[str]) -> Iterator[str]:
    """The subqueries that stand behind ``IN`` and have a limit of their own."""
    whole = file.read_text("utf-8")
    for match in begun.finditer(whole):
        depth, own = 1, ""
        for character in whole[match.start() + len("IN (") :]:
            depth += {"(": 1, ")": -1}.get(character, 0)
            if depth == 0:
                break
            own += character if depth == 1 else ""
        if "LIMIT" in own:
            yield " ".join(own.split())
