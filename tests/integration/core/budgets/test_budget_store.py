"""Budgets are made, changed, raised for once and ended by a person, for a reason; no one can change their history."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.budgets.budget_spec import OnFull
from airflow_provider_aihandoff.core.budgets.period import Period
from airflow_provider_aihandoff.core.errors import BudgetNotFound, BudgetRefused
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from tests.integration.core.budgets.conftest import ALICE, Add, Ask

Query = Callable[..., list[dict[str, Any]]]
Books = Callable[[], list[dict[str, Any]]]

WHO: dict[str, Any] = {"why": "as agreed", "actor": ALICE}


def test_its_history_says_who_did_what_and_why(ledger: Ledger, add: Add) -> None:
    budget = add(10)
    ledger.budgets.change("all", amount_usd=Decimal(20), on_full=OnFull.FAIL, **WHO)
    ledger.budgets.raise_once("all", Decimal(5), why="month's end", actor=Actor.terminal("bob"))
    ledger.budgets.end("all", **WHO)
    events = ledger.budgets.events(budget.budget_id)
    assert [(each.seq, each.event, each.why, str(each.by)) for each in events] == [
        (1, "added", "to be safe", "user:alice"),
        (2, "changed", "as agreed", "user:alice"),
        (3, "raised", "month's end", "user:cli:bob"),
        (4, "ended", "as agreed", "user:alice"),
    ]
    assert events[1].detail == {"amount_usd": "20", "on_full": "fail"}
    assert events[2].detail["added_usd"] == "5"


@pytest.mark.parametrize(
    "change", ["UPDATE aihandoff.budget_events SET why = 'x'", "DELETE FROM aihandoff.budget_events"]
)
def test_its_history_is_append_only(add: Add, query: Query, change: str) -> None:
    add(10)
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        query(change)


def test_a_name_is_free_again_after_the_end(ledger: Ledger, add: Add) -> None:
    first = add(10)
    with pytest.raises(BudgetRefused, match="there is a budget 'all' already"):
        add(20)
    ledger.budgets.end("all", **WHO)
    with pytest.raises(BudgetRefused, match="has ended"):
        ledger.budgets.raise_once("all", Decimal(1), **WHO)
    second = add(20)
    assert ledger.budgets.read("all").budget == second
    assert ledger.budgets.read(str(first.budget_id)).budget.ended_at is not None
    assert [view.budget.budget_id for view in ledger.budgets.find()] == [second.budget_id]
    assert len(ledger.budgets.find(ended=True)) == 2


def test_one_that_does_not_exist_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(BudgetNotFound, match="no budget 'none'"):
        ledger.budgets.read("none")


def test_a_change_to_the_same_is_refused(ledger: Ledger, add: Add) -> None:
    add(10)
    with pytest.raises(BudgetRefused, match="is like that already"):
        ledger.budgets.change("all", amount_usd=Decimal(10), **WHO)


def test_a_lower_amount_holds_at_once_and_what_is_reserved_stays(
    ledger: Ledger, add: Add, ask: Ask, books: Books
) -> None:
    add(10)
    ask("a", 6)
    ledger.budgets.change("all", amount_usd=Decimal(4), **WHO)
    use: Any = ledger.budgets.read("all").use
    assert (use.reserved_usd, use.beyond_usd, use.room_usd) == (6, 2, 0)
    assert ask("b", 1).token is None
    books()


def test_other_periods_keep_what_was_spent_since_the_new_one_began(
    ledger: Ledger, add: Add, ask: Ask, books: Books, query: Query
) -> None:
    add(10, period="month")
    ask("a", 6)
    ask("long ago", 1)
    query("UPDATE aihandoff.budget_reservations SET reserved_at = reserved_at - interval '32 days' WHERE job_id = 2")
    ledger.budgets.change("all", period=Period.DAY, time_zone="Europe/Berlin", **WHO)
    use: Any = ledger.budgets.read("all").use
    assert use.reserved_usd == 6
    assert use.ends_at > datetime.now(UTC)
    assert ask("b", 5).token is None
    assert ask("c", 4).token is None  # b waits before it
    (row,) = books()
    assert row["amount"] == 10


def test_a_period_that_is_changed_and_changed_back_forgets_nothing_of_what_was_spent(
    ledger: Ledger, add: Add, ask: Ask, books: Books, query: Query
) -> None:
    add(10, period="total")
    ask("today", 2)
    ask("last month", 6)
    query("UPDATE aihandoff.budget_reservations SET reserved_at = reserved_at - interval '32 days' WHERE job_id = 2")
    ledger.budgets.change("all", period=Period.DAY, **WHO)
    ledger.budgets.change("all", period=Period.TOTAL, **WHO)
    use: Any = ledger.budgets.read("all").use
    assert (use.reserved_usd, use.room_usd) == (8, 2)
    assert ask("more", 3).token is None
    books()


def test_a_name_that_could_be_the_id_of_another_is_refused_and_an_id_comes_first(
    ledger: Ledger, add: Add, query: Query
) -> None:
    with pytest.raises(BudgetRefused, match="could be the id of another budget"):
        add(10, name="7")
    first, second = add(10, name="one"), add(20, name="two")
    query("UPDATE aihandoff.budgets SET name = '1' WHERE name = 'two'")  # as it could be in a ledger made by hand
    assert (first.budget_id, second.budget_id) == (1, 2)
    assert ledger.budgets.read(str(first.budget_id)).budget == first


def test_of_two_that_raise_what_they_saw_at_one_time_one_is_refused(ledger: Ledger, add: Add) -> None:
    budget = add(10)
    raised: dict[str, Any] = {"why": "more stores", "actor": ALICE, "seen": 1}
    ledger.budgets.raise_once("all", Decimal(5), **raised)
    with pytest.raises(BudgetRefused, match="has changed since you opened it"):
        ledger.budgets.raise_once("all", Decimal(5), **raised)
    use: Any = ledger.budgets.read(str(budget.budget_id)).use
    assert use.amount_usd == 15


def test_a_held_job_is_woken_when_another_period_or_amount_has_room(
    ledger: Ledger, add: Add, ask: Ask, books: Books
) -> None:
    add(10)
    ask("a", 6)
    held = ask("b", 6)
    ledger.budgets.change("all", amount_usd=Decimal(12), **WHO)
    until = ledger.revision(held.revision.job_id, 1).submit_lease_until
    assert until is not None
    assert until <= ledger.now()
    assert ask("b", 6).token is not None
    books()


def test_the_end_of_a_budget_releases_those_it_held(ledger: Ledger, add: Add, ask: Ask) -> None:
    add(10)
    ask("a", 6)
    held = ask("b", 6)
    ledger.budgets.end("all", **WHO)
    assert not ledger.revision(held.revision.job_id, 1).is_held
    assert ask("b", 6).token is not None


def test_the_view_counts_those_who_wait(ledger: Ledger, add: Add, ask: Ask) -> None:
    add(10)
    ask("a", 6)
    ask("b", 6)
    view = ledger.budgets.read("all")
    assert (view.held, view.held_since is not None) == (1, True)


def test_a_budget_below_one_request_of_late_says_so(ledger: Ledger, add: Add, ask: Ask) -> None:
    ask("a", 6)
    assert "up to 6.00 USD of late" in str(ledger.budgets.warning(add(5)))
    assert ledger.budgets.warning(add(50, "wide")) is None
    assert ledger.budgets.warning(add(5, "other", scope={"dag_id": "another"})) is None


def test_those_that_jobs_wait_for_are_found_for_the_dags_that_a_person_may_see(
    ledger: Ledger, add: Add, ask: Ask
) -> None:
    add(5)
    add(5, "of one Dag", scope={"dag_id": "publishing"})
    add(5, "of another", scope={"dag_id": "another"})
    ask("a", 4)
    assert ledger.budgets.waited_for(None) == []
    ask("b", 2)
    ledger.budgets.raise_once("all", Decimal(5), **WHO)
    assert ask("b", 2).revision.held_name == "2"
    for dag_ids, names in ((None, ["of one Dag"]), (["publishing"], ["of one Dag"]), (["another"], [])):
        assert [(view.budget.name, view.held) for view in ledger.budgets.waited_for(dag_ids)] == [
            (name, 1) for name in names
        ]
