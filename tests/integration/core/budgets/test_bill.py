"""The bill beside the ledger: by project and day of UTC, once a day, and nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, timedelta
from decimal import Decimal
from typing import Any

from airflow_provider_aihandoff.core.generation.bill import Billed
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import ResponseStatus
from tests.factories import TEST, job_spec, submit

Query = Callable[..., list[dict[str, Any]]]


def spend(ledger: Ledger, query: Query, key: str, cost: str | None, *, days_ago: int, conn_id: str = "east") -> None:
    revision = submit(ledger, job_spec(job_key=key, conn_id=conn_id), f"resp_{key}")
    output = Output(ResponseStatus.COMPLETED, "Text.", cost_usd=None if cost is None else Decimal(cost))
    ledger.outputs.store(revision.job_id, 1, output, actor=TEST, response_id=f"resp_{key}")
    query(
        "UPDATE aihandoff.revisions SET completed_at = completed_at - %s WHERE response_id = %s",
        timedelta(days=days_ago),
        f"resp_{key}",
    )


def test_what_was_billed_stands_beside_what_the_ledger_knows(ledger: Ledger, query: Query) -> None:
    days = ledger.bills.days()
    assert len(days) == 7
    assert days[-1] == ledger.now().astimezone(UTC).date() - timedelta(days=1)
    spend(ledger, query, "a", "0.5", days_ago=1)
    spend(ledger, query, "b", "0.25", days_ago=1, conn_id="west")
    spend(ledger, query, "c", None, days_ago=1)
    spend(ledger, query, "d", "9", days_ago=0)
    spend(ledger, query, "e", "4", days_ago=2, conn_id="other")
    assert ledger.bills.conn_ids(days[0]) == ["east", "other", "west"]
    billed = [Billed("proj_a", days[-1], Decimal("1.5")), Billed("proj_z", days[-1], Decimal(70))]
    found = ledger.bills.compare({"east": "proj_a", "west": "proj_a", "far": "proj_b"}, billed, days)
    assert len(found) == 14
    newest = {each.project_id: each for each in found if each.day == days[-1]}
    both = newest["proj_a"]
    assert (both.billed_usd, both.ledger_usd, both.unpriced) == (Decimal("1.5"), Decimal("0.75"), 1)
    assert both.difference_usd == Decimal("0.75")
    assert newest["proj_b"].difference_usd == 0
    assert not any(each.difference_usd for each in found if each.day != days[-1])


def test_a_day_is_compared_once_and_a_later_bill_takes_its_place(ledger: Ledger, query: Query) -> None:
    days = ledger.bills.days()
    assert ledger.bills.is_due()
    for amount in ("1", "2"):
        ledger.bills.compare({"east": "proj_a"}, [Billed("proj_a", days[0], Decimal(amount))], days)
    assert not ledger.bills.is_due()
    found = ledger.bills.find(7)
    assert [each.billed_usd for each in found if each.day == days[0]] == [Decimal(2)]
    assert len(found) == 7
    ledger.bills.notified(found[-1])
    (again,) = [each for each in ledger.bills.compare({"east": "proj_a"}, [], days) if each.day == found[-1].day]
    assert again.notified_at is not None
    query("UPDATE aihandoff.bill_days SET compared_at = compared_at - interval '1 day'")
    assert ledger.bills.is_due()
