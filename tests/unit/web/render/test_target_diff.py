"""What an effect would change in what its target has now."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from airflow_provider_aihandoff.core.models import Effect
from airflow_provider_aihandoff.core.states import EffectState
from airflow_provider_aihandoff.web.render.budget import Budget
from airflow_provider_aihandoff.web.render.target_diff import Current, current_of


def current(record: Any, written: Any) -> Current:
    plan = {"method": "PATCH", "url": "http://crm/7", "body": json.dumps(written)}
    values: dict[str, Any] = {field.name: None for field in fields(Effect)}
    now = {"at": "2026-01-02T03:04:05+00:00", "record": record}
    effect = Effect(**{**values, "state": EffectState.PLANNED, "kind": "http", "plan": plan, "current": now})
    found = current_of(effect, Budget())
    assert found is not None
    return found


def test_what_a_request_does_not_name_is_not_removed_at_any_depth() -> None:
    record = {"name": "Ann", "address": {"city": "Ulm", "zip": "89073", "geo": {"lat": 1, "lon": 2}}, "tags": ["a"]}
    found = current(record, {"address": {"city": "Bonn", "geo": {"lat": 3}}})
    assert [(field.path, field.change) for field in found.changed] == [
        (("address", "city"), "changed"),
        (("address", "geo", "lat"), "changed"),
    ]
    assert found.beside == ("name", "tags", "address.zip", "address.geo.lon")


def test_what_a_request_adds_is_added() -> None:
    found = current({"address": {"zip": "1"}}, {"address": {"city": "Bonn", "zip": "1"}})
    assert [(field.path, field.change) for field in found.changed] == [(("address", "city"), "added")]


def test_a_list_is_compared_as_a_whole() -> None:
    found = current({"tags": ["a", "b"]}, {"tags": ["a"]})
    assert [field.change for field in found.changed] == ["removed"]
    assert found.beside == ()


def test_what_a_request_does_not_name_in_an_item_of_a_list_is_not_removed() -> None:
    record = {"lines": [{"id": 1, "n": 1, "more": [{"id": 3, "x": 1}]}, {"id": 2, "n": 2}]}
    found = current(record, {"lines": [{"n": 5, "more": [{"x": 1}]}]})
    assert [(field.path[-1], field.change) for field in found.changed] == [("n", "changed"), ("2", "removed")]
    assert found.beside == ("lines[0].id", "lines[0].more[0].id")


def test_a_record_without_end_is_compared_to_a_bound() -> None:
    record: dict[str, Any] = {}
    for _ in range(50):
        record = {"deeper": record, "other": 1}
    assert current(record, record).changed == ()
