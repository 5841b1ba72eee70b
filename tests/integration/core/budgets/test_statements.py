"""How many statements a budget adds to a submission: each is a round trip to the ledger, whatever the machine."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import ResponseStatus
from tests.factories import TEST, job_spec, submit
from tests.integration.core.budgets.conftest import Add


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that is sent."""
    sent: list[str] = []
    execute: Callable[..., Any] = LedgerConnection.execute

    def keep(self: LedgerConnection, query: Any, *values: Any, **more: Any) -> Any:
        sent.append(str(query))
        return execute(self, query, *values, **more)

    monkeypatch.setattr(LedgerConnection, "execute", keep)
    return sent


def counted(ledger: Ledger, key: str, statements: list[str]) -> int:
    """The statements of one submission, from its request to its output."""
    statements.clear()
    revision = submit(ledger, job_spec(job_key=key), f"resp_{key}")
    output = Output(ResponseStatus.COMPLETED, "It boils.", cost_usd=Decimal("0.005"))
    ledger.outputs.store(revision.job_id, 1, output, actor=TEST, response_id=f"resp_{key}")
    return sum(statement.strip() != "" for statement in statements)


def test_a_budget_adds_one_statement_to_a_permission_and_one_to_an_end(
    ledger: Ledger, add: Add, statements: list[str]
) -> None:
    without = counted(ledger, "a", statements)
    add(10)
    counted(ledger, "b", statements)  # it makes the period
    assert counted(ledger, "c", statements) - without == 2
    add(10, "of the type", scope={"job_type": "publishing"})
    counted(ledger, "d", statements)
    assert counted(ledger, "e", statements) - without == 5  # a savepoint too
