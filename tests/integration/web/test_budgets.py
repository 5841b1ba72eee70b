"""Budgets over the pages and REST: seen, made and raised by those who may act on their Dags, and on the record."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.ledger import Ledger
from tests.factories import LEASE, OWNER, TEST, draft, job_spec
from tests.factories import ask as ask_review
from tests.integration.web.conftest import Grant, Login, Page

API, PAGE = "/aihandoff/api/v1/budgets", "/aihandoff/budgets"
NEW = {"name": "monthly", "amount_usd": 20, "reason": "agreed with finance"}


def add(ledger: Ledger, name: str = "monthly", amount: Any = 20, **more: Any) -> int:
    spec = checked_spec(name, amount, owner="alice", **more)
    return ledger.budgets.add(spec, why="to be safe", actor=TEST).budget_id


def ask(ledger: Ledger, key: str, need: Any, dag_id: str = OWNER.dag_id) -> None:
    opened = ledger.submission.open(job_spec(job_key=key, owner=replace(OWNER, dag_id=dag_id)))
    worst = WorstCase(cost_usd=Decimal(str(need)))
    ledger.submission.intend(opened.job.job_id, 1, actor=TEST, lease=LEASE, worst=worst)


class TestRest:
    def test_a_budget_is_made_changed_raised_and_ended(self, login: Login, ledger: Ledger) -> None:
        ledger.submission.open(job_spec())
        bob = login("bob", bearer=True)
        made = bob.post(API, json={**NEW, "scope": {"tag": "nightly"}, "period": "day", "time_zone": "Europe/Berlin"})
        assert made.status_code == 200, made.text
        budget = made.json()
        assert (budget["scope"], budget["owner"], budget["use"]["room_usd"]) == ({"tag": "nightly"}, "bob", "20")
        path = f"{API}/{budget['budget_id']}"
        assert bob.post(f"{path}/change", json={"amount_usd": "30", "reason": "more"}).json()["amount_usd"] == "30"
        assert bob.post(f"{path}/raise", json={"amount_usd": 5, "reason": "once"}).json()["use"]["raised_usd"] == "5"
        ended = bob.post(f"{path}/end", json={"reason": "replaced"}).json()
        assert [(line["event"], line["by"], line["reason"]) for line in ended["history"]] == [
            ("added", "bob", "agreed with finance"),
            ("changed", "bob", "more"),
            ("raised", "bob", "once"),
            ("ended", "bob", "replaced"),
        ]
        assert bob.get(API).json()["budgets"] == []
        assert len(bob.get(f"{API}?ended=true").json()["budgets"]) == 1

    @pytest.mark.parametrize(
        "wrong",
        [
            {"amount_usd": 0},
            {"amount_usd": -3},
            {"amount_usd": "20 EUR"},
            {"period": "year"},
            {"time_zone": "Mars"},
            {"scope": {"country": "DE"}},
            {"reason": " "},
            {"on_full": "explode"},
            {"surprise": 1},
        ],
        ids=str,
    )
    def test_what_is_not_valid_is_422_and_makes_none(self, login: Login, ledger: Ledger, wrong: dict[str, Any]) -> None:
        ledger.submission.open(job_spec())
        answer = login("bob", bearer=True).post(API, json={**NEW, **wrong})
        assert (answer.status_code, ledger.budgets.find()) == (422, [])
        assert answer.headers["content-type"] == "application/problem+json"

    def test_one_that_is_not_there_is_404(self, login: Login) -> None:
        assert login("bob", bearer=True).get(f"{API}/7").status_code == 404

    def test_what_was_spent_is_said_of_the_dags_that_one_may_see(
        self, login: Login, ledger: Ledger, grant: Grant
    ) -> None:
        draft(ledger)
        grant("vic", "GET", "another")
        assert login("vic", bearer=True).get(f"{API}/spending").json() == {"spending": []}
        grant("bob", "GET", OWNER.dag_id)
        said = login("bob", bearer=True).get(f"{API}/spending?by=requester").json()
        assert said == {"spending": [{"key": "alice", "responses": 1, "cost_usd": "0", "unpriced": 1}]}


class TestRights:
    def test_only_those_who_may_act_on_every_dag_of_its_scope_change_it(
        self, login: Login, ledger: Ledger, grant: Grant
    ) -> None:
        for dag_id in ("mine", "other"):
            ledger.submission.open(job_spec(job_key=dag_id, owner=replace(OWNER, dag_id=dag_id)))
        for method in ("GET", "PUT"):
            grant("bob", method, "mine")
        grant("vic", "GET", "mine")
        own = add(ledger, "own", scope={"dag_id": "mine"})
        wide, hidden = add(ledger, "wide"), add(ledger, "hidden", scope={"dag_id": "other"})
        bob, vic = login("bob", bearer=True), login("vic", bearer=True)
        assert [each["name"] for each in bob.get(API).json()["budgets"]] == ["own", "wide"]
        more = {"amount_usd": 1, "reason": "once"}
        assert bob.post(f"{API}/{own}/raise", json=more).status_code == 200
        assert vic.post(f"{API}/{own}/raise", json=more).status_code == 403
        assert bob.post(f"{API}/{wide}/raise", json=more).status_code == 403
        assert bob.get(f"{API}/{hidden}").status_code == 404
        assert bob.post(f"{API}/{hidden}/raise", json=more).status_code == 404
        assert bob.post(API, json=NEW).status_code == 403
        assert bob.post(API, json={**NEW, "scope": {"dag_id": "mine"}}).status_code == 200

    def test_one_who_may_only_see_it_has_no_form(self, login: Login, ledger: Ledger, grant: Grant) -> None:
        ledger.submission.open(job_spec())
        grant("vic", "GET", OWNER.dag_id)
        budget_id = add(ledger)
        text = login("vic").get(f"{PAGE}/{budget_id}").text
        assert "Raise it" not in text


class TestPages:
    def test_the_list_says_what_is_used_and_who_waits(self, login: Login, ledger: Ledger) -> None:
        add(ledger)
        ask(ledger, "a", 15)
        ask(ledger, "b", 10)
        text = " ".join(Page(login("bob").get(PAGE).text).text.split())
        assert "0.00 USD spent, 15.00 USD reserved, 5.00 USD left of 20.00 USD" in text
        assert "75%" in text
        page = " ".join(Page(login("bob").get(f"{PAGE}/1").text).text.split())
        assert "1 job waits for room" in page

    def test_the_overview_names_a_budget_for_which_jobs_wait(self, login: Login, ledger: Ledger) -> None:
        add(ledger)
        ask(ledger, "a", 15)
        text = login("bob").get("/aihandoff/overview").text
        assert "Budget monthly" not in text
        ask(ledger, "b", 10)
        text = " ".join(Page(login("bob").get("/aihandoff/overview").text).text.split())
        assert "Budget monthly 1 held" in text
        assert "1 job waits for room in the budget 'monthly' (everything): 5.00 USD of 20.00 USD are left." in text

    def test_without_a_budget_the_page_says_how_to_add_one(self, login: Login) -> None:
        assert "airflow aihandoff budgets add" in login("bob").get(PAGE).text

    def test_it_is_raised_there_once_by_a_form_that_is_sent_twice(self, login: Login, ledger: Ledger) -> None:
        ask(ledger, "a", 1)
        budget_id = add(ledger)
        bob = login("bob")
        form = {**Page(bob.get(f"{PAGE}/{budget_id}").text).form, "amount": "5", "reason": "month's end"}
        assert bob.post(f"{PAGE}/{budget_id}/raise", data=form).status_code == 303
        again = bob.post(f"{PAGE}/{budget_id}/raise", data=form)
        assert again.status_code == 422
        assert "It has changed since you opened it" in again.text
        assert ledger.budgets.read(str(budget_id)).use.raised_usd == Decimal(5)
        assert "month" in bob.get(f"{PAGE}/{budget_id}").text

    def test_a_wrong_amount_keeps_what_was_typed(self, login: Login, ledger: Ledger) -> None:
        ask(ledger, "a", 1)
        budget_id = add(ledger)
        bob = login("bob")
        form = {**Page(bob.get(f"{PAGE}/{budget_id}").text).form, "amount": "5 EUR", "reason": "month's end"}
        answer = bob.post(f"{PAGE}/{budget_id}/raise", data=form)
        assert (answer.status_code, Page(answer.text).form["reason"]) == (422, "month's end")
        assert Page(answer.text).form["amount"] == "5 EUR"


class TestChanges:
    """What a request for changes can cost is said before it is asked for."""

    def test_the_page_says_what_it_costs_at_most_and_which_budget_would_hold_it(
        self, login: Login, ledger: Ledger
    ) -> None:
        job = ask_review(ledger, draft(ledger, job_spec(request={**job_spec().request, "max_output_tokens": 1000})))
        page, path = login("bob"), f"/aihandoff/jobs/{job.job_id}"
        text = Page(page.get(path).text).text
        assert "That costs at most $0.7140" in text
        assert "with a comment of up to 1,000 characters. Cost of this job until now: price unknown" in text
        assert "If you request changes now" not in text
        add(ledger, "small", "0.001")
        held = Page(page.get(path).text).text
        assert "If you request changes now: This request can cost up to" in held
        assert "it could never be sent" in held
        said = login("bob", bearer=True).get(f"/aihandoff/api/v1/jobs/{job.job_id}").json()["cost_of_changes"]
        assert "never be sent" in said["held"]
        assert (Decimal(said["worst_usd"]) > 0, said["unknown"]) == (True, None)

    def test_what_is_not_known_is_said(self, login: Login, ledger: Ledger) -> None:
        job = ask_review(ledger, draft(ledger, job_spec(request={"model": "my-own", "input": "Write."})))
        text = Page(login("bob").get(f"/aihandoff/jobs/{job.job_id}").text).text
        assert "What that costs at most is not known: the model 'my-own' has no published price" in text

    def test_it_is_null_where_no_one_can_ask_for_changes(self, login: Login, ledger: Ledger) -> None:
        job = draft(ledger)
        said = login("bob", bearer=True).get(f"/aihandoff/api/v1/jobs/{job.job_id}").json()
        assert said["cost_of_changes"] is None
