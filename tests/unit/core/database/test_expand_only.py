"""Migrations expand: the release before works with what they leave. One that contracts says whom it still serves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from airflow_provider_aihandoff.core.database import schema

#: What an older package could meet, which it does not know: something that it reads or writes is gone or is called
#: otherwise, or a write of it is refused. What is done to a table that the same migration creates does not count.
CONTRACTS = {
    "drops a table": r"DROP TABLE (?:IF EXISTS )?(?P<table>[\w.]+)",
    "drops a column": r"ALTER TABLE (?P<table>[\w.]+)[^;]*?\bDROP COLUMN",
    "renames": r"ALTER (?:TABLE|INDEX) (?P<table>[\w.]+)[^;]*?\bRENAME\b",
    "changes a type": r"ALTER TABLE (?P<table>[\w.]+)[^;]*?\bALTER (?:COLUMN )?\w+ (?:SET DATA )?TYPE\b",
    "requires a value": r"ALTER TABLE (?P<table>[\w.]+)[^;]*?\bSET NOT NULL",
    "drops a default": r"ALTER TABLE (?P<table>[\w.]+)[^;]*?\bDROP DEFAULT",
    "adds a column that must be given": (
        r"ALTER TABLE (?P<table>[\w.]+)[^;]*?\bADD (?:COLUMN )?(?!CONSTRAINT)\w+ (?:(?!DEFAULT|,\s*ADD|,\s*DROP)[^;])*?"
        r"\bNOT NULL\b(?!(?:(?!,\s*ADD|,\s*DROP)[^;])*\bDEFAULT\b)"
    ),
    "adds a rule": (
        r"ALTER TABLE (?P<table>[\w.]+)[^;]*?\bADD (?:CONSTRAINT (?P<name>\w+) )?(?:CHECK|UNIQUE|FOREIGN|EXCLUDE)"
    ),
    "adds a unique index": r"CREATE UNIQUE INDEX \w+\s+ON (?P<table>[\w.]+)",
    "drops an index": r"DROP INDEX (?P<table>[\w.]+)",
    "drops a function or a trigger": r"DROP (?:FUNCTION|TRIGGER) (?P<table>[\w.]+)",
    "adds a trigger": r"CREATE TRIGGER \w+[^;]*?\bON (?P<table>[\w.]+)",
}
CREATED = re.compile(r"CREATE TABLE ([\w.]+)")


def contractions(statements: str) -> set[str]:
    """What of a migration an older package could meet."""
    created = set(CREATED.findall(statements))
    widened = set(re.findall(r"DROP CONSTRAINT (\w+)", statements))
    return {
        what
        for what, pattern in CONTRACTS.items()
        for found in re.finditer(pattern, statements, re.IGNORECASE)
        # A rule that takes the place of one of the same name: it allows more, which a reader has to see.
        if found["table"] not in created and not (what == "adds a rule" and found["name"] in widened)
    }


class Recorder:
    """In the place of Alembic's `op`: keeps the statements."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def execute(self, statement: Any, *_: object) -> Recorder:
        self.statements.append(str(statement))
        return self

    def get_bind(self) -> Recorder:
        return self

    def scalar_one(self) -> str:
        return ""


def statements_of(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> str:
    recorder = Recorder()
    monkeypatch.setattr(module, "op", recorder)
    module.upgrade()
    return ";\n".join(recorder.statements)


def rolling() -> Iterator[Any]:
    """The migrations that the release before must be able to work with."""
    return (each for each in schema._migrations() if each.revision > schema.ROLLING_SINCE)


def test_each_migration_expands_or_says_which_packages_it_still_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in rolling():
        found = contractions(statements_of(each.module, monkeypatch))
        declared = getattr(each.module, "serves_from", None)
        assert not found or declared is not None, f"{each.revision}: {', '.join(sorted(found))}"
        assert declared is None or schema.ROLLING_SINCE < declared <= each.revision


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("ALTER TABLE aihandoff.jobs ADD COLUMN a text", set()),
        ("ALTER TABLE aihandoff.jobs ADD COLUMN a text NOT NULL DEFAULT ''", set()),
        ("ALTER TABLE aihandoff.jobs\n    ADD COLUMN a text,\n    ADD COLUMN b integer NOT NULL DEFAULT 0", set()),
        ("ALTER TABLE aihandoff.jobs ADD COLUMN a text CHECK (a IN ('b')) NOT NULL DEFAULT 'b'", set()),
        ("CREATE TABLE aihandoff.a (b text NOT NULL); CREATE UNIQUE INDEX a_b ON aihandoff.a (b)", set()),
        ("CREATE INDEX jobs_by_a ON aihandoff.jobs (a)", set()),
        (
            "ALTER TABLE aihandoff.effects DROP CONSTRAINT e_check, ADD CONSTRAINT e_check CHECK (a IN ('b', 'c'))",
            set(),
        ),
        ("ALTER TABLE aihandoff.jobs ADD COLUMN a text NOT NULL", {"adds a column that must be given"}),
        (
            "ALTER TABLE aihandoff.jobs ADD COLUMN a text NOT NULL,\n    ADD COLUMN b text DEFAULT ''",
            {"adds a column that must be given"},
        ),
        ("ALTER TABLE aihandoff.jobs ADD COLUMN b text DEFAULT '', DROP COLUMN a", {"drops a column"}),
        ("ALTER TABLE aihandoff.jobs RENAME COLUMN a TO b", {"renames"}),
        ("ALTER TABLE aihandoff.jobs RENAME TO works", {"renames"}),
        ("ALTER TABLE aihandoff.jobs ALTER COLUMN a TYPE bigint", {"changes a type"}),
        ("ALTER TABLE aihandoff.jobs ALTER a SET NOT NULL", {"requires a value"}),
        ("ALTER TABLE aihandoff.jobs ALTER COLUMN a DROP DEFAULT", {"drops a default"}),
        ("ALTER TABLE aihandoff.jobs ADD CONSTRAINT j_check CHECK (a <> '')", {"adds a rule"}),
        ("ALTER TABLE aihandoff.jobs ADD UNIQUE (a)", {"adds a rule"}),
        ("CREATE UNIQUE INDEX jobs_a ON aihandoff.jobs (a)", {"adds a unique index"}),
        ("DROP TABLE aihandoff.signs", {"drops a table"}),
        ("DROP INDEX aihandoff.jobs_by_dag", {"drops an index"}),
        ("CREATE TRIGGER t BEFORE INSERT ON aihandoff.jobs FOR EACH ROW EXECUTE FUNCTION f()", {"adds a trigger"}),
    ],
)
def test_what_an_older_package_could_meet_is_found(statement: str, found: set[str]) -> None:
    assert contractions(statement) == found


@pytest.mark.parametrize("revision", ["0021", "0022", "0023", "0024", "0025", "0026"])
def test_migrations_of_before_that_expanded_are_seen_to(revision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = [each for each in schema._migrations() if each.revision == revision]
    assert contractions(statements_of(script.module, monkeypatch)) == set()


def test_one_that_did_not_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = [each for each in schema._migrations() if each.revision == "0005"]
    assert contractions(statements_of(script.module, monkeypatch)) >= {"renames", "requires a value"}


class TestWhomALedgerServes:
    def test_a_contraction_raises_it_and_an_expansion_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert schema.serves_from() >= schema.ROLLING_SINCE
        newest = schema._migrations()[0].module
        monkeypatch.setattr(newest, "serves_from", schema.head_version(), raising=False)
        assert schema.serves_from() == schema.head_version()

    def test_what_is_contracted_later_is_said_in_the_order_of_the_migrations(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert schema.contracted_later() == []
        newest, older = schema._migrations()[:2]
        monkeypatch.setattr(newest.module, "contracted_later", "jobs.b", raising=False)
        monkeypatch.setattr(older.module, "contracted_later", "jobs.a", raising=False)
        assert schema.contracted_later() == ["jobs.a", "jobs.b"]
