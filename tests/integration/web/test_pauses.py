"""Pauses on the pages and over REST: a banner everywhere; begun and ended by those who may act on all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.admission.pause_store import Scope
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from tests.factories import LEASE, OWNER, TEST, ask, draft, job_spec
from tests.integration.web.conftest import Grant, Login, Page

PAUSES = "/aihandoff/pauses"
API = "/aihandoff/api/v1/pauses"
EVE = Actor.terminal("eve")


@pytest.fixture(autouse=True)
def jobs(ledger: Ledger) -> None:
    """A job of each of two Dags."""
    ask(ledger, draft(ledger))
    ledger.submission.open(job_spec(job_key="note:2", owner=replace(OWNER, dag_id="tickets")))


def pause(ledger: Ledger, scope: Scope = Scope()) -> int:  # noqa: B008 - it is frozen
    return ledger.pauses.begin(scope, writes=False, reason="the model writes nonsense", actor=EVE).pause_id


def text(page: Page) -> str:
    return " ".join(page.text.split())


@pytest.mark.parametrize("path", ["/", "/overview", "/jobs", "/jobs/1", "/inbox", "/pauses", "/bulk"])
def test_every_page_says_what_is_paused_by_whom_and_why(login: Login, ledger: Ledger, path: str) -> None:
    bob = login("bob")
    assert "Paused:" not in bob.get(f"/aihandoff{path}").text
    pause(ledger)
    answer = bob.get(f"/aihandoff{path}")
    assert answer.status_code == 200
    assert "<b>Paused: everything.</b> cli:eve: the model writes nonsense" in answer.text


def test_a_pause_is_begun_and_ended_on_its_page(login: Login, ledger: Ledger) -> None:
    bob = login("bob")
    form = {"dag_id": "tickets", "job_type": "", "conn_id": "", "writes": "true", "reason": "Being moved."}
    assert bob.post(PAUSES, data=form, follow_redirects=False).status_code == 303
    (begun,) = ledger.pauses.find()
    assert (begun.scope, begun.writes, begun.reason, begun.by.name) == (
        Scope(dag_id="tickets"),
        True,
        "Being moved.",
        "bob",
    )
    ledger.submission.intend(2, 1, actor=TEST, lease=LEASE)
    shown = bob.get(PAUSES).text
    assert "It holds 1 request and 0 external writes." in shown

    ended = bob.post(f"{PAUSES}/{begun.pause_id}/end", data={"reason": "Moved."}, follow_redirects=False)
    assert ended.status_code == 303
    assert ledger.pauses.find() == []
    page = bob.get(PAUSES).text
    assert "No pause is in force." in page
    assert "Moved." in page


@pytest.mark.parametrize("reason", ["", "   "])
def test_a_pause_needs_a_reason(login: Login, ledger: Ledger, reason: str) -> None:
    answer = login("bob").post(PAUSES, data={"reason": reason})
    assert answer.status_code == 422
    assert ledger.pauses.find() == []


def test_the_overview_leads_to_what_is_held(login: Login, ledger: Ledger) -> None:
    pause(ledger)
    ledger.submission.intend(2, 1, actor=TEST, lease=LEASE)
    page = login("bob").get("/aihandoff/overview").text
    assert "Pause of everything" in page
    assert "cli:eve has paused requests to the model: the model writes nonsense." in page


def test_who_may_not_act_on_all_dags_pauses_theirs_alone(login: Login, ledger: Ledger, grant: Grant) -> None:
    grant("dave", "GET", "tickets")
    grant("dave", "PUT", "tickets")
    dave = login("dave")
    everything = dave.post(API, json={"reason": "stop"})
    assert (everything.status_code, everything.json()["type"].rpartition("/")[2]) == (403, "pause-forbidden")
    assert "all Dags" in everything.json()["detail"]
    assert dave.post(API, json={"dag_id": "publishing", "reason": "stop"}).status_code == 403
    own = dave.post(API, json={"dag_id": "tickets", "reason": "stop"})
    assert own.status_code == 200
    other = pause(ledger, Scope(dag_id="publishing"))
    assert dave.post(f"{API}/{other}/end", json={"reason": "go"}).status_code == 403
    assert dave.post(f"{API}/{own.json()['pause_id']}/end", json={"reason": "go"}).json()["ended_by"] == "dave"
    # That of a Dag whose jobs dave may not see is not shown.
    assert dave.get(API).json() == {"pauses": []}
    assert "publishing" not in dave.get(PAUSES).text


@pytest.mark.usefixtures("grant")
def test_a_stranger_sees_no_pause(login: Login, ledger: Ledger) -> None:
    pause(ledger)
    mallory = login("mallory")
    assert mallory.get(API).json() == {"pauses": []}
    assert "nonsense" not in mallory.get("/aihandoff/overview").text
    assert mallory.post(API, json={"reason": "stop"}).status_code == 403


def test_programs_list_begin_and_end_pauses(login: Login, ledger: Ledger) -> None:
    bob = login("bob")
    begun: dict[str, Any] = bob.post(API, json={"conn_id": "openai_default", "reason": "stop"}).json()
    ledger.submission.intend(2, 1, actor=TEST, lease=LEASE)
    (listed,) = bob.get(API).json()["pauses"]
    assert (listed["pause_id"], listed["begun_by"], listed["held_requests"]) == (begun["pause_id"], "bob", 1)
    ended = bob.post(f"{API}/{begun['pause_id']}/end", json={"reason": "go"}).json()
    assert (ended["ended_reason"], ended["held_requests"]) == ("go", 0)
    assert bob.get(API).json() == {"pauses": []}
    assert len(bob.get(API, params={"ended": True}).json()["pauses"]) == 1
    assert bob.post(f"{API}/99/end", json={"reason": "go"}).status_code == 404
    assert bob.post(API, json={"dag_id": "", "reason": "stop"}).status_code == 422


def test_a_spending_limit_is_shown_and_tried_at_once(login: Login, ledger: Ledger) -> None:
    bob = login("bob")
    token = ledger.submission.intend(2, 1, actor=TEST, lease=LEASE).token
    assert token is not None
    said = "OpenAI answered 429 insufficient_quota: check your plan."
    ledger.submission.not_submitted(2, 1, token=token, actor=TEST, reason=said, spent=True)
    assert "Spending limit of openai_default" in bob.get("/aihandoff/overview").text
    assert "check your plan" in bob.get(PAUSES).text
    (limit,) = bob.get("/aihandoff/api/v1/spending-limits").json()["limits"]
    assert (limit["conn_id"], limit["tries"]) == ("openai_default", 1)

    form = {"conn_id": "openai_default"}
    assert bob.post("/aihandoff/spending-limits/try", data=form, follow_redirects=False).status_code == 303
    (tried,) = ledger.spending_limits.find()
    assert tried.try_at <= ledger.now()
    answer = bob.post("/aihandoff/api/v1/spending-limits/try", json={"conn_id": "other"})
    assert answer.json() == {"limits": []}
