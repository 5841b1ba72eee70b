"""What the stand-in for OpenAI has billed, beside what the budgets of a ledger say that it was."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import dict_row

from airflow_provider_aihandoff.core.generation.openai.facts import OpenAIFacts
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.states import ResponseStatus
from airflow_provider_aihandoff.testing import OpenAIStandIn

#: What each period in force has used, by its stripes and by its reservations.
BOOKS = """
    SELECT w.window_id, w.amount_usd + w.raised_usd AS amount, s.*, r.* FROM aihandoff.budget_windows AS w
    CROSS JOIN LATERAL (
        SELECT sum(allotted_usd) AS allotted, sum(reserved_usd) AS reserved, sum(settled_usd) AS settled,
            sum(beyond_usd) AS beyond FROM aihandoff.budget_stripes WHERE window_id = w.window_id) AS s
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(amount_usd) FILTER (WHERE state = 'reserved'), 0) AS reserved_rows,
            coalesce(sum(cost_usd), 0) AS settled_rows
        FROM aihandoff.budget_reservations WHERE window_id = w.window_id) AS r
    WHERE w.closed_at IS NULL ORDER BY w.window_id"""

_RESERVATIONS = "SELECT * FROM aihandoff.budget_reservations ORDER BY reserved_at"


def check_books(rows: list[dict[str, Any]]) -> None:
    """Nothing is lost, nothing counts twice, and nothing is more than the amount, but for what is said to be."""
    for row in rows:
        assert row["reserved"] == row["reserved_rows"], row
        assert row["settled"] == row["settled_rows"], row
        assert row["allotted"] == row["amount"] + row["beyond"], row
        assert row["reserved"] + row["settled"] <= row["amount"] + row["beyond"], row


def bill_of(stand_in: OpenAIStandIn) -> dict[str, Decimal | None]:
    """What each response has cost that was ever made, by its id; None where OpenAI does not say what it used."""
    bill = {}
    for made in list(stand_in.responses().responses):
        body = made.response
        response = ModelResponse(body["id"], ResponseStatus.COMPLETED, usage=body.get("usage"), model=body["model"])
        bill[response.id] = OpenAIFacts().price(response, {})
    return bill


def reservations_in(conninfo: dict[str, Any]) -> list[dict[str, Any]]:
    """Every reservation of a ledger, the oldest first."""
    with psycopg.connect(**conninfo, row_factory=dict_row) as connection:
        return connection.execute(_RESERVATIONS).fetchall()


def check_each_is_settled(reservations: list[dict[str, Any]], bill: dict[str, Decimal | None]) -> None:
    """Each response that was billed is settled once, in each budget, with what it has cost; nothing else counts."""
    counted = [row for row in reservations if row["state"] != "released"]
    assert {row["state"] for row in counted} <= {"settled"}, counted
    for budget_id in {row["budget_id"] for row in counted}:
        settled = [row for row in counted if row["budget_id"] == budget_id]
        assert sorted(row["response_id"] for row in settled) == sorted(bill)
        for row in settled:
            cost = bill[row["response_id"]]
            assert (row["cost_usd"], row["assumed"]) == (row["amount_usd"] if cost is None else cost, cost is None)
