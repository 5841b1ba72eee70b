"""`airflow aihandoff budgets` and `spending`: what the words mean, and what is printed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.budgets.budget_spec import BudgetEvent, BudgetSpec, OnFull, Scope, Use
from airflow_provider_aihandoff.core.budgets.budget_store import BudgetView
from airflow_provider_aihandoff.core.budgets.period import Period
from airflow_provider_aihandoff.core.budgets.spending_store import ROWS, Spent
from airflow_provider_aihandoff.core.budgets.spent_by import SpentBy
from airflow_provider_aihandoff.core.models import Actor
from tests.unit.cli.conftest import Airflow
from tests.unit.core.budgets.test_full import AT, BUDGET, TONIGHT

CAROL = Actor.terminal("carol")
USE = Use(TONIGHT - timedelta(days=1), TONIGHT, Decimal(10), Decimal(0), Decimal(3), Decimal("1.5"), Decimal(0))
VIEW = BudgetView(BUDGET, USE, 2, AT, TONIGHT - timedelta(hours=12))
WHY = ("--reason", "the plan of the year")


def test_a_budget_is_listed_with_what_is_used_and_where_it_leads(airflow: Airflow, ledger: Any) -> None:
    ledger.budgets.find.return_value = [VIEW]
    (row,) = json.loads(airflow("budgets", "list", "-o", "json"))
    assert (row["name"], row["scope"], row["period"], row["held"]) == ("labels", "type ticket", "a day (UTC)", 2)
    assert (row["room_usd"], row["percent"]) == ("5.5", 45)
    assert Decimal(row["forecast_usd"]) == Decimal("7.5")  # the half of the day has cost 3
    assert "ended_at" not in row
    ledger.budgets.find.assert_called_once_with(ended=False)

    ledger.budgets.find.return_value = [replace(VIEW, budget=replace(BUDGET, ended_at=AT))]
    (row,) = json.loads(airflow("budgets", "list", "--ended", "-o", "json"))
    assert row["ended_at"] == "2026-02-02T09:17:00Z"
    ledger.budgets.find.assert_called_with(ended=True)


def test_one_is_shown_with_its_periods_and_its_history(airflow: Airflow, ledger: Any) -> None:
    ledger.budgets.read.return_value = VIEW
    ledger.budgets.periods.return_value = [USE]
    ledger.budgets.events.return_value = [BudgetEvent(3, 1, AT, "added", "a start", {}, "user", "alice", None)]
    printed = airflow("budgets", "show", "labels", "-o", "yaml")
    assert "reserved_usd: '1.5'" in printed
    assert "from: '2026-02-02T00:00:00Z'" in printed
    assert "event: added\n  by: alice\n  reason: a start" in printed
    ledger.budgets.events.assert_called_once_with(3)


def test_a_budget_is_added_as_the_options_say(airflow: Airflow, ledger: Any) -> None:
    ledger.budgets.add.return_value = BUDGET
    ledger.budgets.warning.return_value = "No request of the type ticket was ever made."
    printed = airflow("budgets", "add", "labels", 10, "--type", "ticket", "--period", "day", "--notify-at", 50, *WHY)
    (spec,), given = ledger.budgets.add.call_args
    assert given == {"why": "the plan of the year", "actor": CAROL}
    assert spec == BudgetSpec(
        "labels", Scope(job_type="ticket"), Decimal(10), Period.DAY, "UTC", (50,), OnFull.HOLD, "carol"
    )
    assert printed.splitlines() == [
        "Budget 3 'labels': 10.00 USD a day (UTC), for type ticket.",
        "A request for which there is no room waits.",
        "No request of the type ticket was ever made.",
    ]


@pytest.mark.parametrize(
    ("on_full", "said"),
    [(OnFull.FAIL, "A job whose request has no room fails."), (OnFull.WARN, "there is no room is sent all the same.")],
)
def test_it_says_what_happens_when_it_is_full(airflow: Airflow, ledger: Any, on_full: OnFull, said: str) -> None:
    ledger.budgets.add.return_value = replace(BUDGET, on_full=on_full)
    ledger.budgets.warning.return_value = None
    assert said in airflow("budgets", "add", "labels", 10, "--on-full", on_full, "--owner", "alice", *WHY)
    assert ledger.budgets.add.call_args.args[0].owner == "alice"


def test_only_what_is_named_is_changed(airflow: Airflow, ledger: Any) -> None:
    ledger.budgets.change.return_value = replace(BUDGET, amount_usd=Decimal(20))
    ledger.budgets.read.return_value = VIEW
    ledger.budgets.warning.return_value = None
    assert airflow("budgets", "change", "labels", "--amount", 20, *WHY) == (
        "Budget 3 'labels': 20.00 USD a day (UTC); 5.50 USD left.\n"
    )
    ledger.budgets.change.assert_called_once_with(
        "labels", why="the plan of the year", actor=CAROL, amount_usd=Decimal(20)
    )


@pytest.mark.parametrize(
    ("ends_at", "until"), [(datetime(2026, 2, 3, tzinfo=UTC), "until 2026-02-03 00:00 UTC"), (None, "for good")]
)
def test_one_is_raised_for_its_period(airflow: Airflow, ledger: Any, ends_at: datetime | None, until: str) -> None:
    ledger.budgets.raise_once.return_value = BUDGET
    ledger.budgets.read.return_value = replace(VIEW, use=replace(USE, ends_at=ends_at))
    printed = airflow("budgets", "raise", "labels", 2.5, *WHY)
    assert printed == f"Budget 3 'labels' has 2.50 USD more {until}; 5.50 USD left.\n"
    assert ledger.budgets.raise_once.call_args.args == ("labels", Decimal("2.5"))


def test_one_is_ended(airflow: Airflow, ledger: Any) -> None:
    ledger.budgets.end.return_value = BUDGET
    assert airflow("budgets", "end", "labels", *WHY) == "Budget 3 'labels' has ended.\n"
    ledger.budgets.end.assert_called_once_with("labels", why="the plan of the year", actor=CAROL)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("change", "labels", *WHY), "say what is to be changed: --amount, --period"),
        (("change", "labels", "--amount", "x", *WHY), "'x' is no amount of USD"),
        (("add", "labels", "-1", *WHY), "amount"),
        (("raise", "labels", "0", *WHY), "amount"),
        (("end", "labels", "--reason", " "), "--reason must not be empty"),
    ],
)
def test_what_makes_no_sense_changes_nothing(airflow: Airflow, ledger: Any, words: tuple[Any, ...], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        airflow("budgets", *words)
    assert ledger.budgets.mock_calls == []


class TestSpending:
    @pytest.fixture(autouse=True)
    def _spent(self, ledger: Any) -> None:
        ledger.now.return_value = TONIGHT
        ledger.spending.by.return_value = [
            Spent("ticket", 41, Decimal("1.25"), 0),
            Spent('=HYPERLINK("x")', 1, Decimal(0), 1),
        ]

    def test_it_is_printed_by_what_was_asked_for(self, airflow: Airflow, ledger: Any) -> None:
        rows = json.loads(airflow("spending", "--by", "type", "--since", "2d", "-o", "json"))
        assert rows[0] == {"key": "ticket", "responses": 41, "cost_usd": "1.25", "unpriced": 0}
        ledger.spending.by.assert_called_once_with(SpentBy("type"), since=TONIGHT - timedelta(days=2), limit=ROWS)

    def test_a_file_for_spreadsheets_has_all_of_it_and_no_formula(self, airflow: Airflow, ledger: Any) -> None:
        lines = airflow("spending", "--by", "type", "--csv").splitlines()
        assert lines[:2] == ["key,responses,cost_usd,unpriced", "ticket,41,1.25,0"]
        assert not lines[2].lstrip('"').startswith("=")
        assert ledger.spending.by.call_args.kwargs["limit"] is None
