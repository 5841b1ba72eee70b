"""What was spent is added up from the record of every response, those that no revision waited for too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from airflow_provider_aihandoff.core.budgets.spent_by import SpentBy
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import ResponseStatus
from tests.factories import TEST, approve, ask, job_spec, submit


@pytest.fixture
def spent(ledger: Ledger) -> datetime:
    """Three responses, one of them of a job that failed, and one without a price."""
    since = ledger.now() - timedelta(minutes=1)
    for key, cost, more in (
        ("a", "0.5", {"tags": ("eu", "nightly")}),
        ("b", "0.25", {"tags": ("eu",), "requested_by": "bob"}),
        ("c", None, {}),
    ):
        revision = submit(ledger, job_spec(job_key=key, **more), f"resp_{key}")
        error = {"kind": "failed"} if key == "b" else None
        status = ResponseStatus.FAILED if error else ResponseStatus.COMPLETED
        output = Output(status, "Text.", error=error, cost_usd=None if cost is None else Decimal(cost))
        job = ledger.outputs.store(revision.job_id, 1, output, actor=TEST, response_id=f"resp_{key}")
        if key == "a":
            approve(ledger, ask(ledger, job))
    return since


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (SpentBy.TYPE, [("publishing", 3, "0.75", 1)]),
        (SpentBy.DAG, [("publishing", 3, "0.75", 1)]),
        (SpentBy.REQUESTER, [("alice", 2, "0.5", 1), ("bob", 1, "0.25", 0)]),
        (SpentBy.MODEL, [("gpt-5.2", 3, "0.75", 1)]),
        (SpentBy.TAG, [("eu", 2, "0.75", 0), ("nightly", 1, "0.5", 0), ("", 1, "0", 1)]),
        (SpentBy.FATE, [("approved", 1, "0.5", 0), ("failed", 1, "0.25", 0), ("open", 1, "0", 1)]),
    ],
)
def test_it_is_added_up_by(
    ledger: Ledger, spent: datetime, by: SpentBy, expected: list[tuple[str, int, str, int]]
) -> None:
    found = ledger.spending.by(by, since=spent)
    assert [(each.key, each.responses, each.cost_usd, each.unpriced) for each in found] == [
        (key, responses, Decimal(cost), unpriced) for key, responses, cost, unpriced in expected
    ]


def test_text_that_postgresql_cannot_take_out_of_json_hides_nothing(ledger: Ledger) -> None:
    since = ledger.now() - timedelta(minutes=1)
    for key, text in (("a", "nul \x00"), ("b", "half of a pair \ud800"), ("c", "a path \\u0000")):
        spec = job_spec(job_key=key, request={"model": "gpt-5.2", "input": text})
        revision = submit(ledger, spec, f"resp_{key}")
        output = Output(ResponseStatus.COMPLETED, "Text.", cost_usd=Decimal("0.5"))
        ledger.outputs.store(revision.job_id, 1, output, actor=TEST, response_id=f"resp_{key}")
    (found,) = ledger.spending.by(SpentBy.MODEL, since=since)
    assert (found.key, found.responses, found.cost_usd) == ("gpt-5.2", 3, Decimal("1.5"))


def test_it_is_added_up_by_the_day_and_for_some_dags(ledger: Ledger, spent: datetime) -> None:
    (day,) = ledger.spending.by(SpentBy.DAY, since=spent)
    assert (day.key, day.cost_usd) == (f"{datetime.now(UTC):%Y-%m-%d}", Decimal("0.75"))
    assert ledger.spending.by(SpentBy.DAY, since=spent, dag_ids=["another"]) == []
    assert ledger.spending.by(SpentBy.DAY, since=ledger.now()) == []
