"""Budgets beside the other limits: what one of them has given is given back where a later one holds the request."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure
from tests.factories import TEST
from tests.integration.core.budgets.conftest import ALICE, Add, Ask

Query = Callable[..., list[dict[str, Any]]]
Books = Callable[[], list[dict[str, Any]]]


def stop(ledger: Ledger, amount: int) -> None:
    where: dict[str, Any] = {"kind": LimitKind.OPENAI, "name": "openai_default", "measure": Measure.IN_FLIGHT}
    ledger.rate_limits.set(amount=amount, reason="our plan", actor=ALICE, **where)


def test_what_a_limit_of_speed_holds_has_reserved_nothing_and_says_what_it_can_cost(
    ledger: Ledger, add: Add, ask: Ask, books: Books, query: Query
) -> None:
    add(10)
    stop(ledger, 0)
    held = ask("a", 4)
    assert (held.token, held.revision.held_kind) == (None, "rate")
    assert query("SELECT * FROM aihandoff.budget_reservations") == []
    assert query("SELECT worst_cost_usd FROM aihandoff.revisions")[0]["worst_cost_usd"] == 4
    stop(ledger, 5)
    assert ask("a", 4).token is not None
    assert [row["reserved"] for row in books()] == [4]
    assert query("SELECT * FROM aihandoff.rate_waits") == []


def test_what_a_limit_of_speed_has_held_keeps_its_place_in_the_queue_of_a_budget(
    ledger: Ledger, add: Add, ask: Ask
) -> None:
    add(10)
    stop(ledger, 0)
    assert ask("first", 4).revision.held_kind == "rate"
    stop(ledger, 5)
    assert ask("sent", 8).token is not None
    assert ask("second", 3).revision.held_kind == "budget"
    assert ask("first", 4).revision.held_kind == "budget"
    ledger.budgets.raise_once("all", Decimal(3), why="more", actor=ALICE)  # there are 5 left
    assert ask("second", 3).token is None
    assert ask("first", 4).token is not None


def test_what_a_budget_holds_takes_up_no_room_of_a_limit_of_speed(
    ledger: Ledger, add: Add, ask: Ask, query: Query
) -> None:
    add(10)
    stop(ledger, 2)
    assert ask("a", 8).token is not None
    assert ask("b", 8).revision.held_kind == "budget"
    assert query("SELECT * FROM aihandoff.rate_waits") == []


def test_what_a_budget_holds_does_not_find_out_whether_a_spending_limit_is_reached(
    ledger: Ledger, add: Add, ask: Ask, query: Query
) -> None:
    add(10)
    sent = ask("a", 1)
    assert sent.token is not None
    where: dict[str, Any] = {"token": sent.token, "actor": TEST, "reason": "insufficient_quota", "spent": True}
    ledger.submission.not_submitted(sent.revision.job_id, 1, **where)
    query("UPDATE aihandoff.spending_limits SET try_at = try_at - %s", timedelta(hours=2))
    before = query("SELECT try_at, try_job_id FROM aihandoff.spending_limits")
    assert ask("b", 10, conn_id="openai_other").token is not None
    assert ask("c", 5).revision.held_kind == "budget"
    assert query("SELECT try_at, try_job_id FROM aihandoff.spending_limits") == before
