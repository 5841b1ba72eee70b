"""Each guard of the mutation run is where it says, so that a rename shows here and not after the long run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from benchmarks.definitions import Definitions, definitions_of
from benchmarks.mutation import GUARDS, PACKAGE, ROOT, Guard, guard, without

every_guard = pytest.mark.parametrize("each", GUARDS, ids=[each.name for each in GUARDS])


@pytest.fixture(scope="module")
def definitions() -> Definitions:
    return Definitions(ROOT / PACKAGE)


@cache
def names_in(file: str) -> set[str]:
    return {name for name, _ in definitions_of(ROOT / file)}


@every_guard
def test_a_guard_stands_once_in_one_definition_and_python_compiles_without_it(
    definitions: Definitions, each: Guard
) -> None:
    for path, text in without(definitions, each).items():
        assert text != path.read_text()
        if path.suffix == ".py":
            compile(text, path, "exec")


@every_guard
def test_the_test_of_a_guard_exists(each: Guard) -> None:
    file, _, test = each.test.partition("::")
    assert test.partition("[")[0].replace("::", ".") in names_in(file)


def test_no_two_guards_have_the_same_name() -> None:
    assert len({each.name for each in GUARDS}) == len(GUARDS)


def test_all_edits_of_a_guard_are_made_however_long_they_are(tmp_path: Path) -> None:
    (tmp_path / "both.py").write_text("def first():\n    return 1\n\ndef second():\n    return 1\n")
    edits = ("first", "return 1", "return 1 + 1 + 1"), ("second", "    return 1\n", "    pass\n")
    (text,) = without(Definitions(tmp_path), guard("both", "a test", *edits)).values()
    assert text == "def first():\n    return 1 + 1 + 1\n\ndef second():\n    pass\n"


@pytest.mark.parametrize("times", [0, 2])
def test_a_guard_whose_text_is_missing_or_ambiguous_is_refused(tmp_path: Path, times: int) -> None:
    (tmp_path / "one.py").write_text("def first():\n    return 0" + " + 1" * times + "\n")
    with pytest.raises(LookupError, match=f"first in .*one.py has this {times} times"):
        without(Definitions(tmp_path), guard("one", "a test", ("first", " + 1", "")))
