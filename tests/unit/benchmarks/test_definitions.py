"""A definition is found by its qualified name, wherever its module is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.definitions import Definitions

STORE = """
LIMIT: int = 5
SQL = f'''
    SELECT 1'''

class Store:
    table = "jobs"

    @property
    def size(self):
        def work():
            local = 1
            return local

        return work()

if LIMIT:
    async def late(): ...
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/store.py").write_text(STORE)
    (tmp_path / "archive.py").write_text("class Store:\n    def size(self): ...\n")
    (tmp_path / "jobs/schema.sql").write_text("CREATE TABLE jobs ();")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LIMIT", "LIMIT: int = 5\n"),
        ("SQL", "SQL = f'''\n    SELECT 1'''\n"),
        ("Store.table", '    table = "jobs"\n'),
        ("Store.size.work", "        def work():\n            local = 1\n            return local\n"),
        ("late", "    async def late(): ...\n"),
        ("archive:Store.size", "    def size(self): ...\n"),
        ("schema.sql", "CREATE TABLE jobs ();"),
    ],
)
def test_a_definition_is_found_with_its_whole_lines(package: Path, name: str, text: str) -> None:
    found = Definitions(package).find(name)
    assert found.text == text
    assert found.path.read_text()[found.start :].startswith(text)


def test_the_decorators_of_a_definition_belong_to_it(package: Path) -> None:
    for name in ("store:Store.size", "jobs.store:Store.size"):
        assert Definitions(package).find(name).text.startswith("    @property\n    def size")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Store.size", "defined 2 times, not once: archive:Store.size, jobs.store:Store.size"),
        ("Store.size.work.local", "defined 0 times"),
        ("size", "defined 0 times"),
        ("tore:Store.size", "defined 0 times"),
    ],
)
def test_a_name_that_is_missing_or_ambiguous_is_refused(package: Path, name: str, said: str) -> None:
    with pytest.raises(LookupError, match=said):
        Definitions(package).find(name)
