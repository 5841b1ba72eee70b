"""Where the items of a set come from: read once, as a stream, with their numbers."""

from __future__ import annotations

import sqlite3
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_aihandoff.core.errors import SetRefused
from airflow_provider_aihandoff.operators.items import JsonLines, Spool, SqlItems, numbered, read_items


def test_the_lines_of_a_file_are_items(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text('{"id": 1}\n\n"two"\n', "utf-8")
    assert [*JsonLines(f"file://{file}").read()] == [{"id": 1}, "two"]


@pytest.mark.parametrize("line", ["{", '{"a": NaN}'])
def test_a_line_that_is_not_json_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(f'{{"id": 1}}\n{line}\n', "utf-8")
    with pytest.raises(SetRefused, match=r"line 2 of file://.* is not JSON"):
        [*JsonLines(f"file://{file}").read()]


def test_the_rows_of_a_query_are_items(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE products (sku text, price int)")
    connection.executemany("INSERT INTO products VALUES (?, ?)", [(f"s{n}", n) for n in range(2500)])
    hook = SimpleNamespace(get_conn=lambda: connection)
    found = SimpleNamespace(get_hook=lambda: hook)
    monkeypatch.setattr(BaseHook, "get_connection", lambda conn_id: found)
    rows = [*SqlItems("shop", "SELECT sku, price FROM products WHERE price >= ? ORDER BY price", [1]).read()]
    assert (len(rows), rows[0]) == (2499, {"sku": "s1", "price": 1})


@pytest.mark.parametrize("wrong", ["text", {"a": 1}, 7, None])
def test_what_has_no_items_is_refused(wrong: Any) -> None:
    with pytest.raises(SetRefused, match="`items` is a"):
        [*read_items(wrong)]


def test_what_was_kept_is_read_again_as_often_as_it_is_wanted() -> None:
    with Spool[dict[str, object]]() as spool:
        for number in (1, 3):
            spool.keep(number, {"at": date(2026, 1, number)})
        assert [*spool] == [*spool] == [(1, {"at": date(2026, 1, 1)}), (3, {"at": date(2026, 1, 3)})]


def test_items_are_numbered_from_1_and_seen_as_templates_see_them() -> None:
    first = [*numbered(iter([{"at": date(2026, 1, 2), "price": Decimal("1.50")}, {"items": [1]}]))]
    assert [number for number, _ in first] == [1, 2]
    assert (first[0][1].at, first[0][1].price) == ("2026-01-02", "1.50")
    assert [*first[1][1].items] == [1], "a field comes before the method of the same name"


def test_an_item_without_a_json_form_is_named() -> None:
    with pytest.raises(SetRefused, match="item 2 has no JSON form"):
        [*numbered([1, float("nan")])]


def test_a_source_says_the_same_of_itself_each_time() -> None:
    assert repr(SqlItems("db", "SELECT 1")) == "SqlItems(conn_id='db', sql='SELECT 1', parameters=None)"
