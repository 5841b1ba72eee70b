"""JSONPath as RFC 9535 has it."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.core.json_path import check_json_path, find_values

ORDER: dict[str, Any] = {
    "id": "A-1",
    "lines": [
        {"kind": "item", "sku": "kettle-1", "amount": 30, "tags": ["steel", "1.7 l"]},
        {"kind": "fee", "sku": "delivery", "amount": 5, "tags": []},
        {"kind": "item", "sku": "pan-2", "amount": 20},
    ],
    "a name": {"with 'quotes'": None},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$.id", ["A-1"]),
        ("$.lines[*].amount", [30, 5, 20]),
        ("$.lines[-1].sku", ["pan-2"]),
        ("$.lines[0:2].kind", ["item", "fee"]),
        ("$..amount", [30, 5, 20]),
        ("$['a name']['with \\'quotes\\'']", [None]),
        ("$.lines[?@.kind == 'fee'].amount", [5]),
        ("$.lines[?(@.kind == 'fee')].amount", [5]),
        ("$.lines[?@.amount > 10 && @.kind == 'item'].sku", ["kettle-1", "pan-2"]),
        ("$.lines[?!@.tags].sku", ["pan-2"]),
        ("$.lines[?length(@.tags) == 2].sku", ["kettle-1"]),
        ("$.lines[?length(@.sku) > 5].amount", [30, 5]),
        ("$.lines[?count(@.tags[*]) == 0].kind", ["fee", "item"]),
        ("$.lines[?match(@.sku, '[a-z]+-[0-9]')].sku", ["kettle-1", "pan-2"]),
        ("$.lines[?search(@.sku, 'live')].kind", ["fee"]),
        ("$.lines[?value(@..sku) == 'pan-2'].amount", [20]),
        ("$.nothing", []),
        ("$.id.deeper", []),
    ],
)
def test_a_path_finds_every_value_in_its_order(path: str, found: list[Any]) -> None:
    check_json_path(path)
    assert find_values(ORDER, path) == found


@pytest.mark.parametrize(
    "path", ["", "id", "$.", "$[", "$.lines[?@.kind == 'fee'", "$.lines[?length(@.tags)]", "$ .id extra", "$['a"]
)
def test_a_text_that_is_not_a_json_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_json_path(path)
    with pytest.raises(ValueError, match=r"\w"):
        find_values(ORDER, path)


def test_a_value_that_is_nested_too_deeply_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"deeper": deep}
    with pytest.raises(ValueError, match=r"\w"):
        find_values(deep, "$..id")
