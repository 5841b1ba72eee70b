"""`airflow aihandoff budgets`, through Airflow's own parser, on a real ledger."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from tests.factories import draft
from tests.integration.cli.conftest import Airflow


def listed(airflow: Airflow, *options: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(airflow("budgets", "list", *options, "-o", "json"))
    return rows


def test_the_one_command_that_most_people_need(airflow: Airflow, on_ledger: Ledger) -> None:
    said = airflow("budgets", "add", "monthly", "200", "--reason", "agreed with finance")
    assert "Budget 1 'monthly': 200.00 USD a month (UTC), for everything." in said
    assert "there is no room waits" in said
    (row,) = listed(airflow)
    assert (row["name"], row["amount_usd"], row["room_usd"], row["owner"]) == ("monthly", "200", "200", "carol")


def test_a_budget_is_changed_raised_and_ended_on_the_record(airflow: Airflow, on_ledger: Ledger) -> None:
    airflow("budgets", "add", "nightly", "5", "--tag", "nightly", "--period", "day", "--reason", "to be safe")
    said = airflow(
        "budgets", "change", "nightly", "--amount", "8", "--time-zone", "Europe/Berlin", "--reason", "more work"
    )
    assert "8.00 USD a day (Europe/Berlin); 8.00 USD left." in said
    assert "has 2.50 USD more until" in airflow("budgets", "raise", "1", "2.50", "--reason", "once")
    assert "'nightly' has ended" in airflow("budgets", "end", "nightly", "--reason", "replaced")
    assert listed(airflow) == []
    assert [row["name"] for row in listed(airflow, "--ended")] == ["nightly"]
    events = on_ledger.budgets.events(1)
    assert [(each.event, each.by.label, each.why) for each in events] == [
        ("added", "cli:carol", "to be safe"),
        ("changed", "cli:carol", "more work"),
        ("raised", "cli:carol", "once"),
        ("ended", "cli:carol", "replaced"),
    ]
    assert "more work" in airflow("budgets", "show", "1", "-o", "json")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("add", "x", "0", "--reason", "y"), "above 0"),
        (("add", "x", "20 EUR", "--reason", "y"), "US dollars"),
        (("add", "x", "20", "--time-zone", "Mars", "--reason", "y"), "no time zone"),
        (("add", "x", "20", "--notify-at", "half", "--reason", "y"), "whole percentage"),
        (("add", "x", "20", "--reason", " "), "--reason must not be empty"),
        (("raise", "none", "20", "--reason", "y"), "no budget 'none'"),
        (("change", "none", "--reason", "y"), "say what is to be changed"),
    ],
)
def test_what_is_not_valid_is_one_line_and_changes_nothing(
    airflow: Airflow, on_ledger: Ledger, words: tuple[str, ...], why: str
) -> None:
    with pytest.raises(SystemExit, match=why):
        airflow("budgets", *words)
    assert on_ledger.budgets.find(ended=True) == []


def test_what_was_spent_is_printed_as_csv(airflow: Airflow, on_ledger: Ledger) -> None:
    draft(on_ledger)
    lines = airflow("spending", "--by", "type", "--csv").splitlines()
    assert lines == ["key,responses,cost_usd,unpriced", "publishing,1,0,1"]
    assert json.loads(airflow("spending", "--since", "7d", "-o", "json"))[0]["responses"] == 1
