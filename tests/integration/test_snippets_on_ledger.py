"""The examples of the documentation that need a ledger: its SQL, and the request in a transaction of front-door.md."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from docs.snippets import ROOT, Snippet, all_snippets, snippets_of

#: Roles that the pages give rights to.
ROLES = ("shop", "ledger_user")


@pytest.mark.parametrize("snippet", all_snippets("sql"), ids=str)
def test_sql_runs_on_a_ledger(snippet: Snippet, conninfo: dict[str, Any]) -> None:
    assert snippet.not_run is None
    with psycopg.connect(**conninfo) as connection:
        there = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}  # those of other tests stay
        for role in {*ROLES} - there:
            connection.execute(f"CREATE ROLE {role}")
        connection.execute(snippet.code)
        connection.rollback()


def test_a_program_records_a_request_in_its_own_transaction(conninfo: dict[str, Any]) -> None:
    (example,) = [each.code for each in snippets_of(ROOT / "docs" / "front-door.md") if "import enqueue" in each.code]
    with psycopg.connect(**conninfo) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS shop")
        connection.execute("CREATE TABLE IF NOT EXISTS shop.products (slug text, state text)")
        connection.execute("INSERT INTO shop.products VALUES ('kettle', 'old')")
    names: dict[str, Any] = {"psycopg": psycopg, "ledger": make_conninfo(**conninfo)}
    try:
        exec(example, names)  # noqa: S102 - our own page
        with psycopg.connect(**conninfo) as connection:
            row = connection.execute(
                "SELECT job_type, job_key, state FROM aihandoff.job_requests WHERE request_id = %s",
                [names["request_id"]],
            ).fetchone()
            assert row == ("product-note", "kettle", "recorded")
            assert connection.execute("SELECT state FROM shop.products").fetchall() == [("new",)]
    finally:
        with psycopg.connect(**conninfo) as connection:
            connection.execute("DROP SCHEMA shop CASCADE")
