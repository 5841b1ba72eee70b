"""Limits of speed over the page and REST: what is used, what waits, and who may set them."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.amounts import dollars
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Revision
from tests.factories import LEASE, OWNER, TEST, draft, job_spec
from tests.integration.web.conftest import Grant, Login, Page

PAGE = "/aihandoff/limits"
API = "/aihandoff/api/v1/limits"
LIMIT = {
    "kind": "openai",
    "name": "openai_default",
    "measure": "requests",
    "amount": "0",
    "per": "minute",
    "reason": "the nightly run is too fast",
}


def held(ledger: Ledger) -> Revision:
    job = ledger.submission.open(job_spec(job_key="held")).job
    return ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE).revision


def test_a_limit_is_set_on_the_page_and_the_page_says_what_waits_for_it_and_who_has_set_it(
    login: Login, ledger: Ledger
) -> None:
    draft(ledger)
    bob = login("bob")
    assert "No limit is set." in bob.get(PAGE).text
    assert bob.post(PAGE, data=LIMIT).status_code == 303
    revision = held(ledger)
    assert revision.held_kind == "rate"
    text = " ".join(Page(bob.get(PAGE).text).text.split())
    assert "OpenAI connection openai_default: requests" in text
    assert "0 requests a minute; 0 in the last period. 1 waits" in text
    assert "bob set it to 0" in text
    assert "the nightly run is too fast" in text
    overview = Page(bob.get("/aihandoff/overview").text).text
    assert "Limit on requests of the connection openai_default" in overview
    assert "a limit of 0 has stopped it" in overview
    job_page = Page(bob.get(f"/aihandoff/jobs/{revision.job_id}").text).text
    assert "a limit of 0 has stopped the requests of the connection openai_default" in job_page

    assert bob.post(f"{PAGE}/end", data={**LIMIT, "reason": "it is fixed"}).status_code == 303
    assert held(ledger).submit_token is not None
    assert "No limit is set." in bob.get(PAGE).text


def test_programs_set_list_and_end_limits(login: Login, ledger: Ledger) -> None:
    draft(ledger)
    bob = login("bob")
    body: dict[str, Any] = {**LIMIT, "amount": 60, "weights": {"type:publishing": 0.5}}
    (made,) = bob.post(API, json=body).json()["limits"]
    assert (made["amount"], made["period"], made["now"], made["weights"]) == (60, 60, 60, {"type:publishing": 0.5})
    held(ledger)
    (listed,) = bob.get(API).json()["limits"]
    assert (listed["used"], listed["waiting"], listed["paused_until"]) == (1, 0, None)
    end = {name: body[name] for name in ("kind", "name", "measure", "reason")}
    assert bob.post(f"{API}/end", json=end).json() == {"limits": []}
    again = bob.post(f"{API}/end", json=end)
    assert (again.status_code, again.json()["type"].rsplit("/", 1)[-1]) == (404, "limit-not-found")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"amount": -1}, "amount"),
        ({"per": "day"}, "per"),
        ({"reason": ""}, "reason"),
        ({"measure": "in flight", "per": "minute"}, "no period"),
        ({"kind": "target", "measure": "tokens"}, "no tokens"),
        ({"weights": {"nightly": 1}}, "type:NAME"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(login: Login, ledger: Ledger, wrong: dict[str, Any], said: str) -> None:
    draft(ledger)
    answer = login("bob").post(API, json={**LIMIT, "amount": 1, **wrong})
    assert answer.status_code == 422
    assert said in answer.text
    assert ledger.rate_limits.find() == []


def test_only_a_user_who_may_act_on_the_jobs_of_all_dags_sets_a_limit(
    login: Login, ledger: Ledger, grant: Grant
) -> None:
    draft(ledger)
    draft(ledger, job_spec(job_key="other", owner=replace(OWNER, dag_id="other")), response_id="resp_2")
    grant("bob", "GET", OWNER.dag_id)
    grant("bob", "PUT", OWNER.dag_id)
    bob = login("bob")
    assert bob.post(API, json={**LIMIT, "amount": 1}).status_code == 403
    assert bob.post(PAGE, data=LIMIT).status_code == 403
    assert "Set the limit" not in bob.get(PAGE).text
    assert ledger.rate_limits.find() == []


def test_another_site_cannot_set_a_limit(login: Login, ledger: Ledger) -> None:
    draft(ledger)
    answer = login("bob").post(PAGE, data=LIMIT, headers={"Origin": "https://evil.test"})
    assert answer.status_code == 403
    assert ledger.rate_limits.find() == []


def test_the_page_of_a_job_says_what_bounds_its_retries(login: Login, ledger: Ledger) -> None:
    job = ledger.submission.open(job_spec(max_cost_usd=Decimal("0.50"))).job
    text = " ".join(Page(login("bob").get(f"/aihandoff/jobs/{job.job_id}").text).text.split())
    assert "3 revisions; for each, 50 refused requests and a deadline: of the current one," in text
    assert f"{dollars(Decimal('0.50'))} in all" in text
