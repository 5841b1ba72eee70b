"""The page Spending: what was spent, on what, what became of it, and what budgets come to; and the same as a file."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from decimal import Decimal

import pytest

from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.generation.bill import Billed
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import ResponseStatus
from tests.factories import OWNER, TEST, approve, ask, job_spec, submit
from tests.integration.web.conftest import Grant, Login, Page

PAGE, API = "/aihandoff/spending", "/aihandoff/api/v1/budgets/spending"


def spent(ledger: Ledger, key: str, cost: str | None, dag_id: str = OWNER.dag_id, **more: object) -> Job:
    revision = submit(ledger, job_spec(job_key=key, owner=replace(OWNER, dag_id=dag_id), **more), f"resp_{key}")
    output = Output(ResponseStatus.COMPLETED, "A kettle.", cost_usd=None if cost is None else Decimal(cost))
    return ask(ledger, ledger.outputs.store(revision.job_id, 1, output, actor=TEST))


def rejected(ledger: Ledger, job: Job) -> None:
    ledger.reviews.decide(
        job.job_id, "reject", digest=str(job.review_digest), person=Person("bob"), comment="Not like this."
    )


def test_it_says_what_was_thrown_away_and_on_what_it_was_spent(login: Login, ledger: Ledger) -> None:
    approve(ledger, spent(ledger, "a", "0.75", tags=("nightly",)))
    rejected(ledger, spent(ledger, "b", "0.25", job_type="labels"))
    spent(ledger, "c", None)
    text = " ".join(Page(login("bob").get(PAGE).text).text.split())
    assert "1.00 USD for 3 responses, without 1 whose price is not known" in text
    assert "0.25 USD of it (25%) went to jobs that were rejected, failed or cancelled" in text
    for part in ("By what became of the job", "By type", "By Dag", "By requester", "By model", "By tag", "Cost by day"):
        assert part in text
    for part in ("labels0.25 USD", "gpt-5.21.00 USD", "nightly0.75 USD", "none0.25 USD", "rejected0.25 USD"):
        assert part in text


def test_the_file_rest_and_the_page_have_the_same_figures(login: Login, ledger: Ledger) -> None:
    spent(ledger, "a", "0.75", requested_by="=1+1")
    spent(ledger, "b", "0.25")
    bob = login("bob")
    answer = bob.get(f"{PAGE}.csv?by=requester&days=7")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert list(csv.DictReader(io.StringIO(answer.text))) == [
        {"key": "'=1+1", "responses": "1", "cost_usd": "0.75", "unpriced": "0"},
        {"key": "alice", "responses": "1", "cost_usd": "0.25", "unpriced": "0"},
    ]
    said = login("bob", bearer=True).get(f"{API}?by=requester&days=7").json()["spending"]
    assert [(each["key"], each["cost_usd"]) for each in said] == [("=1+1", "0.75"), ("alice", "0.25")]


def test_only_the_dags_that_the_user_may_see_count(login: Login, ledger: Ledger, grant: Grant) -> None:
    spent(ledger, "a", "0.75", "mine")
    spent(ledger, "b", "0.25", "other")
    grant("vic", "GET", "mine")
    text = Page(login("vic").get(PAGE).text).text
    assert "0.75 USD for 1 response" in " ".join(text.split())
    assert "other" not in text
    assert "other" not in login("vic").get(f"{PAGE}.csv?by=dag").text


def test_without_a_response_it_says_so(login: Login, ledger: Ledger) -> None:
    text = Page(login("bob").get(f"{PAGE}?days=7").text).text
    assert "Nothing was spent" in text
    assert "the last 7 days" in text


def test_budgets_come_with_their_forecast_and_how_it_is_made(login: Login, ledger: Ledger) -> None:
    spec = checked_spec("monthly", 20, owner="alice")
    ledger.budgets.add(spec, why="to be safe", actor=TEST)
    spent(ledger, "a", "0.75")
    text = Page(login("bob").get(PAGE).text).text
    assert "monthly" in text
    assert "The forecast is what was spent, divided by the part of the period that has passed" in text


@pytest.mark.parametrize("wrong", ["days=0", "days=-7", "days=soon", "days=99999"])
def test_a_span_that_is_none_is_refused(login: Login, ledger: Ledger, wrong: str) -> None:
    bob = login("bob")
    assert [bob.get(f"{path}?{wrong}").status_code for path in (PAGE, f"{PAGE}.csv")] == [422, 422]


def test_a_table_that_there_is_not_is_refused(login: Login, ledger: Ledger) -> None:
    assert login("bob").get(f"{PAGE}.csv?by=country").status_code == 422


def test_many_requesters_do_not_make_the_page_long(login: Login, ledger: Ledger) -> None:
    for number in range(22):
        spent(ledger, f"{number}", "0.01", requested_by=f"user {number}")
    bob = login("bob")
    assert "2 more are in the file" in Page(bob.get(PAGE).text).text
    assert len(bob.get(f"{PAGE}.csv?by=requester").text.splitlines()) == 23


class TestTheBill:
    def compared(self, ledger: Ledger) -> None:
        day = ledger.bills.days()[-1]
        ledger.bills.compare({"openai_default": "proj_a"}, [Billed("proj_a", day, Decimal("12.5"))], [day])

    def test_stands_beside_the_ledger_on_the_page_and_over_rest(self, login: Login, ledger: Ledger) -> None:
        spent(ledger, "a", "0.75")
        self.compared(ledger)
        text = Page(login("bob").get(PAGE).text).text
        assert "Beside OpenAI's bill" in text
        assert "12.50 USD" in text
        (day,) = login("bob", bearer=True).get("/aihandoff/api/v1/budgets/bill?days=7").json()["bill"]
        assert (day["project_id"], day["billed_usd"], day["difference_usd"]) == ("proj_a", "12.5", "12.5")

    def test_is_not_for_those_who_may_see_only_some_dags(self, login: Login, ledger: Ledger, grant: Grant) -> None:
        spent(ledger, "a", "0.75", "mine")
        spent(ledger, "b", "0.25", "other")
        self.compared(ledger)
        grant("vic", "GET", "mine")
        assert "proj_a" not in login("vic").get(PAGE).text
        assert login("vic", bearer=True).get("/aihandoff/api/v1/budgets/bill").json() == {"bill": []}
