"""The schema: the same however it came to be, and strict about what it holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import psycopg
import pytest
from psycopg import sql

from airflow_provider_aihandoff.errors import LedgerSchemaError
from airflow_provider_aihandoff.ledger import Ledger, schema
from airflow_provider_aihandoff.ledger.records import (
    Approval,
    DeciderKind,
    Decision,
    Effect,
    Event,
    Job,
    Revision,
    Verdict,
)
from airflow_provider_aihandoff.states import EffectState, JobState, RevisionState
from demo.postgres import Postgres

CATALOGS = {
    "columns": """
        SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default, is_identity,
            identity_generation
        FROM information_schema.columns WHERE table_schema = 'aihandoff'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, contype, pg_get_constraintdef(oid), convalidated
        FROM pg_constraint WHERE connamespace = 'aihandoff'::regnamespace""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'aihandoff'",
    "triggers": """
        SELECT tgname, tgenabled, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
        WHERE c.relnamespace = 'aihandoff'::regnamespace AND NOT tgisinternal""",
    "functions": """
        SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'aihandoff'::regnamespace""",
    "relations": """
        SELECT relname, relkind, relpersistence FROM pg_class WHERE relnamespace = 'aihandoff'::regnamespace""",
    "version": "SELECT version_num FROM aihandoff.alembic_version",
}


def catalogs(conninfo: Mapping[str, Any]) -> dict[str, list[Any]]:
    with psycopg.connect(**conninfo) as connection:
        return {name: sorted(connection.execute(query).fetchall(), key=repr) for name, query in CATALOGS.items()}


def run(conninfo: Mapping[str, Any], statement: str) -> None:
    with psycopg.connect(**conninfo) as connection:
        connection.execute(statement)


class TestUpgrade:
    def test_a_migrated_ledger_is_the_one_that_a_fresh_installation_gets(
        self, empty_conninfo: dict[str, Any], conninfo: dict[str, Any]
    ) -> None:
        schema.upgrade(empty_conninfo, from_migrations=True)
        migrated, fresh = catalogs(empty_conninfo), catalogs(conninfo)
        assert all(fresh.values())
        assert migrated == fresh

    def test_an_upgrade_says_what_it_did_and_a_second_one_does_nothing(self, empty_conninfo: dict[str, Any]) -> None:
        head = schema.head_version()
        assert schema.upgrade(empty_conninfo) == (None, head)
        with Ledger(empty_conninfo) as ledger:
            ledger_id = ledger.ledger_id()
        assert schema.upgrade(empty_conninfo) == (head, head)
        with Ledger(empty_conninfo) as ledger:
            assert ledger.ledger_id() == ledger_id

    def test_two_upgrades_at_once_make_one_ledger(self, empty_conninfo: dict[str, Any]) -> None:
        with ThreadPoolExecutor(2) as threads:
            results = list(threads.map(schema.upgrade, [empty_conninfo] * 2))
        head = schema.head_version()
        assert sorted(results, key=repr) == sorted([(None, head), (head, head)], key=repr)

    def test_an_upgrade_that_fails_half_way_leaves_nothing(self, empty_conninfo: dict[str, Any]) -> None:
        run(empty_conninfo, "CREATE SCHEMA aihandoff; CREATE TABLE aihandoff.inbox (a int)")
        with pytest.raises(Exception, match="already exists"):
            schema.upgrade(empty_conninfo)
        run(empty_conninfo, "DROP TABLE aihandoff.inbox")
        assert schema.upgrade(empty_conninfo)[0] is None

    def test_a_role_that_may_not_create_schemas_can_fill_the_one_it_was_given(
        self, empty_conninfo: dict[str, Any], postgres: Postgres
    ) -> None:
        role = sql.Identifier(f"tenant_{empty_conninfo['dbname']}")
        with psycopg.connect(**empty_conninfo) as connection:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'tenant'").format(role))
            connection.execute(sql.SQL("CREATE SCHEMA aihandoff AUTHORIZATION {}").format(role))
        tenant = {**empty_conninfo, "user": role.as_string().strip('"'), "password": "tenant"}
        assert schema.upgrade(tenant) == (None, schema.head_version())
        assert schema.upgrade(tenant)[0] == schema.head_version()


class TestCheck:
    def test_the_right_schema_passes(self, ledger: Ledger) -> None:
        ledger.check_schema()

    def test_a_missing_ledger_is_said_with_the_command_that_makes_one(self, empty_conninfo: dict[str, Any]) -> None:
        with (
            Ledger(empty_conninfo) as ledger,
            pytest.raises(LedgerSchemaError, match="holds no AI Handoff ledger") as error,
        ):
            ledger.check_schema()
        assert "`airflow aihandoff db upgrade`" in str(error.value)

    def test_a_ledger_behind_is_said_with_the_command_that_upgrades_it(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        current = schema.head_version()
        monkeypatch.setattr(schema, "head_version", lambda: "9998")
        with pytest.raises(LedgerSchemaError, match=f"at version {current}, this package needs 9998") as error:
            ledger.check_schema()
        assert "`airflow aihandoff db upgrade`" in str(error.value)

    def test_a_ledger_ahead_is_said_and_is_not_touched(self, empty_conninfo: dict[str, Any]) -> None:
        schema.upgrade(empty_conninfo)
        run(empty_conninfo, "UPDATE aihandoff.alembic_version SET version_num = '9999'")
        with Ledger(empty_conninfo) as ledger, pytest.raises(LedgerSchemaError, match=r"9999.*does not know.*install"):
            ledger.check_schema()
        before = catalogs(empty_conninfo)
        with pytest.raises(LedgerSchemaError, match="install that release"):
            schema.upgrade(empty_conninfo)
        assert catalogs(empty_conninfo) == before


class TestStrictness:
    @pytest.mark.parametrize(
        ("table", "column", "values"),
        [
            ("jobs", "state", [state.value for state in JobState]),
            ("jobs", "approval", get_args(Approval)),
            ("revisions", "state", [state.value for state in RevisionState]),
            ("effects", "state", [state.value for state in EffectState]),
            ("decisions", "verdict", get_args(Verdict)),
            ("decisions", "decided_by_kind", get_args(DeciderKind)),
        ],
    )
    def test_a_column_takes_exactly_the_values_that_the_code_knows(
        self, conninfo: dict[str, Any], table: str, column: str, values: Any
    ) -> None:
        definitions = [row[3] for row in catalogs(conninfo)["constraints"] if row[1] == f"{table}_{column}_check"]
        assert len(definitions) == 1
        assert set(re.findall(r"'([^']*)'::text", definitions[0])) == set(values)

    def test_every_column_called_state_or_disposition_is_checked(self, conninfo: dict[str, Any]) -> None:
        seen = catalogs(conninfo)
        columns = {(row[0], row[1]) for row in seen["columns"] if row[1] in ("state", "disposition", "verdict")}
        assert len(columns) == 5
        assert columns <= {tuple(row[1].removesuffix("_check").split("_", 1)) for row in seen["constraints"]}

    def test_every_time_has_a_time_zone(self, conninfo: dict[str, Any]) -> None:
        kinds = {row[3] for row in catalogs(conninfo)["columns"] if "time" in row[3] or "date" in row[3]}
        assert kinds == {"timestamp with time zone"}

    @pytest.mark.parametrize(
        ("record", "table"),
        [(Job, "jobs"), (Revision, "revisions"), (Decision, "decisions"), (Effect, "effects"), (Event, "events")],
    )
    def test_a_record_has_the_columns_of_its_table(self, conninfo: dict[str, Any], record: type, table: str) -> None:
        columns = {row[1] for row in catalogs(conninfo)["columns"] if row[0] == table}
        assert columns == set(record.__annotations__)

    def test_there_is_one_ledger_in_a_database(self, conninfo: dict[str, Any]) -> None:
        with pytest.raises(psycopg.errors.UniqueViolation):
            run(conninfo, "INSERT INTO aihandoff.ledger DEFAULT VALUES")
