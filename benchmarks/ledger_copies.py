"""Many jobs that went through every version that real ones went through, made by SQL.

A recorder notes each row that some real jobs insert and update, in order. The copies are inserted and updated in the
same order, a few thousand jobs side by side, with ids, keys, digests and times of their own. So tables and indexes
grow, and rows die, as with the real ones, a hundred times as fast.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

_RECORDER = """
    CREATE SCHEMA recorder;
    CREATE TABLE recorder.versions (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
        name text NOT NULL, act text NOT NULL, columns text[] NOT NULL, contents text[] NOT NULL);
    CREATE FUNCTION recorder.note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO recorder.versions (name, act, columns, contents)
        SELECT TG_TABLE_NAME, TG_OP, array_agg(key), array_agg(value)
        FROM json_each_text(row_to_json(CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END));
        RETURN NULL;
    END $$;
    DO $$
    DECLARE name text;
    BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'aihandoff' LOOP
            EXECUTE format('CREATE TRIGGER recorder AFTER INSERT OR UPDATE OR DELETE ON aihandoff.%I '
                'FOR EACH ROW EXECUTE FUNCTION recorder.note()', name);
        END LOOP;
    END $$"""
_STOP = "DROP SCHEMA recorder CASCADE"
_COLUMNS = """
    SELECT relname AS name, attname AS of, format_type(atttypid, atttypmod) AS type
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'aihandoff'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped"""

#: The tables whose rows belong to one job, each with its primary key.
TABLES: Mapping[str, tuple[str, ...]] = {
    "jobs": ("job_id",),
    "revisions": ("revision_id",),
    "decisions": ("decision_id",),
    "effects": ("effect_id",),
    "inbox": ("webhook_id",),
    "events": ("job_id", "seq"),
}

#: Rows of one table that one job has at most; ids of copies are this far apart.
_STRIDE = 8
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Characters of a text that tells jobs apart; a shorter one can occur anywhere.
_TOKEN = 6
_NUMBER, _LATER = sql.SQL("n"), timedelta(seconds=60)


@dataclass(frozen=True)
class Version:
    """One row, as it was after one statement; None stands for NULL."""

    at: datetime
    table: str
    inserts: bool
    row: Mapping[str, str | None]


@dataclass(frozen=True)
class Course:
    """All versions of the rows of one job, in order."""

    job_id: str
    versions: Sequence[Version]


def record(connection: psycopg.Connection[Any]) -> None:
    """Note from now on every row that is inserted or updated."""
    connection.execute(_RECORDER)


def recorded(connection: psycopg.Connection[Any]) -> list[Course]:
    """Stop noting, and return the courses of the jobs that have ended."""
    rows = connection.execute("SELECT at, name, act, columns, contents FROM recorder.versions ORDER BY seq").fetchall()
    connection.execute(_STOP)
    courses: dict[str, list[Version]] = defaultdict(list)
    for at, name, act, columns, contents in rows:
        row = dict(zip(columns, contents, strict=True))
        if name in TABLES and row.get("job_id") is not None:
            assert act != "DELETE", f"a row of {name} was deleted"
            courses[row["job_id"]].append(Version(at, name, act == "INSERT", row))
    return [Course(job_id, versions) for job_id, versions in courses.items()]


class Copier:
    """Makes copies of some courses, in one ledger.

    :param side_by_side: how many jobs go through their courses at the same time.
    """

    def __init__(self, connection: psycopg.Connection[Any], courses: Sequence[Course], side_by_side: int) -> None:
        self._connection = connection
        self._each = max(1, side_by_side // len(courses))
        self._types: dict[str, dict[str, str]] = defaultdict(dict)
        for table, column, its_type in connection.execute(_COLUMNS):
            self._types[table][column] = its_type
        self._statements = [list(self._of(course)) for course in courses]

    def make(self, first: int, number: int) -> int:
        """Make at least so many more jobs.

        :param first: the number of the first one; the ids and keys follow from it.
        :return: the number of the next one.
        """
        last = first + number
        while first < last:
            starts = [first + self._each * place for place in range(len(self._statements))]
            for step in range(max(map(len, self._statements))):
                for start, statements in zip(starts, self._statements, strict=True):
                    if step < len(statements):
                        self._connection.execute(statements[step], {"first": start, "last": start + self._each - 1})
            first = starts[-1] + self._each
        return first

    def _of(self, course: Course) -> Iterator[sql.Composed]:
        """A statement for each version of a course, which makes that version of many copies."""
        before: dict[tuple[str, str], Mapping[str, str | None]] = {}
        places: dict[tuple[str, str], int] = {}
        tokens = _tokens(course)
        ids = _Ids(course)
        for version in course.versions:
            key = (version.table, " ".join(str(version.row[name]) for name in TABLES[version.table]))
            places.setdefault(key, sum(table == version.table for table, _ in places))
            old = before.get(key, {})
            changed = [name for name, value in version.row.items() if version.inserts or value != old.get(name)]
            before[key] = version.row
            values = {name: self._value(version, name, tokens, ids, course) for name in version.row}
            if version.inserts:
                yield _insert(version.table, {name: values[name] for name in changed if version.row[name] is not None})
            elif changed:
                where = {name: values[name] for name in TABLES[version.table]}
                yield _update(version.table, {name: values[name] for name in changed}, where)

    def _value(
        self, version: Version, column: str, tokens: Mapping[str, sql.Composable], ids: _Ids, course: Course
    ) -> sql.Composable:
        """What a column of a copy has, as an expression of its number `n`."""
        value, its_type = version.row[column], self._types[version.table][column]
        if value is None:
            return sql.SQL("NULL::{}").format(sql.SQL(its_type))
        found = ids.of(column, value) if column != "set_id" else sql.SQL("1 + n / 1000")
        if found is None:
            found = _copied(value, its_type, version, tokens, course)
        return sql.SQL("({})::{}").format(found, sql.SQL(its_type))


class _Ids:
    """The ids of one job's rows, and what a copy has in their places."""

    _OF = ("job_id", "revision_id", "decision_id", "effect_id", "undoes")

    def __init__(self, course: Course) -> None:
        self._places: dict[str, dict[str, int]] = defaultdict(dict)
        for version in course.versions:
            for name in TABLES[version.table]:
                if name in self._OF and (value := version.row[name]) is not None:
                    self._places[name].setdefault(value, len(self._places[name]))

    def of(self, column: str, value: str) -> sql.Composable | None:
        """The id in a copy; None where the column has none."""
        named = "effect_id" if column == "undoes" else column
        place = self._places[named].get(value) if named in self._OF else None
        if place is None:
            return None
        if named == "job_id":
            return _NUMBER
        return sql.SQL("n * {} + {}").format(sql.Literal(_STRIDE), sql.Literal(place))


def _copied(
    value: str, its_type: str, version: Version, tokens: Mapping[str, sql.Composable], course: Course
) -> sql.Composable:
    if its_type.startswith("timestamp"):
        ahead = datetime.fromisoformat(value) - course.versions[0].at
        later = ahead if ahead > _LATER else timedelta(0)
        return sql.SQL("now() + {} + n * interval '1 microsecond'").format(sql.Literal(later))
    if its_type == "uuid":
        return sql.SQL("gen_random_uuid()")
    if its_type.endswith("[]"):
        return sql.Literal("{}")
    if _DIGEST.fullmatch(value):
        name = sql.Literal(f"{version.table}{version.row.get('seq')}{value[:8]}")
        return sql.SQL("encode(sha256(({} || n)::bytea), 'hex')").format(name)
    parts: list[sql.Composable] = [_literal(value)]
    for token, expression in tokens.items():
        parts = [piece for part in parts for piece in _replaced(part, token, expression)]
    return sql.SQL(" || ").join(parts)


def _replaced(part: sql.Composable, token: str, expression: sql.Composable) -> Iterator[sql.Composable]:
    """A text with an expression in place of each occurrence of a token."""
    if not isinstance(part, sql.Literal) or token not in str(part._obj):
        yield part
        return
    for number, text in enumerate(str(part._obj).split(token)):
        if number:
            yield expression
        yield sql.Literal(text)


def _literal(text: str) -> sql.Literal:
    """A text in a statement that has parameters."""
    return sql.Literal(text.replace("%", "%%"))


def _tokens(course: Course) -> dict[str, sql.Composable]:
    """What tells a job from others in its texts, and what tells a copy; the longest first, so that none is cut."""
    found: dict[str, sql.Composable] = {}
    hashed = sql.SQL("encode(sha256(n::text::bytea), 'hex')")
    for version in course.versions:
        row = version.row
        if version.table == "jobs":
            found[str(row["job_key"])] = sql.SQL("'key-' || n")
            found[str(row["run_id"])] = sql.SQL("'run__' || lpad((n / 1000)::text, {}, '0')").format(
                sql.Literal(max(1, len(str(row["run_id"])) - 5))
            )
        for name, prefix in (("response_id", "resp_"), ("webhook_id", "wh_"), ("external_id", "")):
            if (text := row.get(name)) and len(text) >= _TOKEN:
                length = sql.Literal(len(text) - len(prefix))
                found.setdefault(text, sql.SQL("({} || left({}, {}))").format(sql.Literal(prefix), hashed, length))
        if text := row.get("effect_key"):
            found[text] = sql.SQL("({} || n || left({}, {}))").format(
                sql.Literal("aih-"), hashed, sql.Literal(max(1, len(text) - 12))
            )
    return {token: sql.SQL("({})").format(found[token]) for token in sorted(found, key=len, reverse=True)}


def _insert(table: str, values: Mapping[str, sql.Composable]) -> sql.Composed:
    return sql.SQL(
        "INSERT INTO aihandoff.{} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM generate_series(%(first)s, %(last)s) AS n"
    ).format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(values.values()),
    )


def _update(table: str, values: Mapping[str, sql.Composable], where: Mapping[str, sql.Composable]) -> sql.Composed:
    equals = [sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in values.items()]
    found = [sql.SQL("copy.{} = {}").format(sql.Identifier(name), value) for name, value in where.items()]
    return sql.SQL("UPDATE aihandoff.{} AS copy SET {} FROM generate_series(%(first)s, %(last)s) AS n WHERE {}").format(
        sql.Identifier(table), sql.SQL(", ").join(equals), sql.SQL(" AND ").join(found)
    )
