"""Webhooks in quarantine are replayed and discarded on their page, by those who may act on every job, each once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from openai import OpenAI

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import Disposition
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.factories import OWNER, TEST, draft, job_spec
from tests.integration.web.conftest import Grant, Login, Page

INBOX = "/aihandoff/inbox"


def receive(ledger: Ledger, webhook_id: str = "wh_1", response_id: str | None = "resp_lost") -> None:
    event = {"type": "response.completed", "data": {"id": response_id}}
    ledger.inbox.receive(Delivery(webhook_id, "openai_default", "response.completed", response_id, event))


def post(client: TestClient, what: str, webhook_id: str = "wh_1", **more: str) -> Any:
    return client.post(f"{INBOX}/{what}", data={"webhook_id": webhook_id, **more})


@pytest.fixture
def openai(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAI]:
    with OpenAIStandIn().serve() as running:
        connection = {"conn_type": "openai", "password": "sk-any", "host": running.base_url}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
        yield OpenAI(api_key="sk-any", base_url=running.base_url, max_retries=0)


@pytest.fixture
def job(ledger: Ledger) -> None:
    draft(ledger, job_spec())


pytestmark = pytest.mark.usefixtures("job")


def test_a_webhook_is_discarded_with_its_reason_and_the_page_says_what_became_of_it(
    login: Login, ledger: Ledger
) -> None:
    receive(ledger)
    bob = login("bob")
    assert Page(bob.get(INBOX).text).form["webhook_id"] == "wh_1"
    answer = post(bob, "discard", reason=" another application's ")
    assert (answer.status_code, answer.headers["location"]) == (303, f"{INBOX}?about=wh_1")
    entry = ledger.inbox.read("wh_1")
    assert (entry.disposition, entry.note) == (Disposition.DISCARDED, "user:bob: another application's")
    text = Page(bob.get(answer.headers["location"]).text).text
    assert "Webhook wh_1 is discarded (user:bob: another application's)." in text
    assert "There are no webhooks in quarantine" in text


def test_a_reason_is_required(login: Login, ledger: Ledger) -> None:
    receive(ledger)
    assert post(login("bob"), "discard", reason=" \n ").status_code == 422
    assert ledger.inbox.read("wh_1").disposition is Disposition.QUARANTINED


def test_a_webhook_is_replayed_and_its_response_polled(login: Login, ledger: Ledger, openai: OpenAI) -> None:
    response_id = openai.responses.create(model="gpt-5.2", input="x", background=True).id
    while openai.responses.retrieve(response_id).status != "completed":
        time.sleep(0.05)
    receive(ledger, response_id=response_id)
    bob = login("bob")
    answer = post(bob, "replay")
    assert answer.status_code == 303
    assert "wh_1 is foreign (its response belongs to another application)" in bob.get(answer.headers["location"]).text


def test_a_replay_leads_to_the_job_that_has_the_response_by_now(login: Login, ledger: Ledger, openai: OpenAI) -> None:
    receive(ledger, response_id="resp_2")
    ledger.inbox.discard("wh_1", actor=TEST, why="too early")
    made = draft(ledger, job_spec(job_key="later"), response_id="resp_2")
    bob = login("bob")
    html = bob.get(post(bob, "replay").headers["location"]).text
    assert f"/aihandoff/jobs/{made.job_id}" in [a["href"] for a in Page(html).all("a")]


def test_a_replay_without_a_connection_says_so_and_leaves_it_to_be_polled_again(login: Login, ledger: Ledger) -> None:
    receive(ledger)
    bob = login("bob")
    text = Page(bob.get(post(bob, "replay").headers["location"]).text).text
    assert "the connection openai_default could not be used to ask about it: AirflowNotFoundException" in text
    assert "OpenAI is polled again after" in text
    assert ledger.inbox.read("wh_1").poll_at is not None


def test_a_webhook_that_another_user_has_settled_is_refused_and_the_text_kept(login: Login, ledger: Ledger) -> None:
    receive(ledger)
    ledger.inbox.discard("wh_1", actor=TEST, why="first")
    bob = login("bob")
    answer = post(bob, "discard", reason="I know it")
    assert answer.status_code == 409
    text = Page(answer.text).text
    assert "The webhook was not discarded" in text
    assert "The webhook wh_1 is discarded: it cannot be discarded." in text
    assert "I know it" in text
    unknown = post(bob, "replay", "wh_none")
    assert (unknown.status_code, "has no webhook wh_none" in unknown.text) == (409, True)
    assert "first" in (ledger.inbox.read("wh_1").note or "")


def test_a_webhook_without_a_response_can_only_be_discarded(login: Login, ledger: Ledger) -> None:
    receive(ledger, response_id=None)
    actions = [form.get("action") for form in Page(login("bob").get(INBOX).text).all("form")]
    assert actions == [f"{INBOX}/discard"]
    assert post(login("bob"), "replay").status_code == 409


def test_only_who_may_act_on_every_job_settles_webhooks(login: Login, ledger: Ledger, grant: Grant) -> None:
    draft(ledger, job_spec(job_key="other", owner=replace(OWNER, dag_id="other")), response_id="resp_other")
    receive(ledger)
    for dag_id in (OWNER.dag_id, "other"):
        grant("vic", "GET", dag_id)
        grant("bob", "GET", dag_id)
        grant("carol", "PUT", dag_id)
        grant("carol", "GET", dag_id)
    grant("bob", "PUT", "other")
    for name in ("vic", "bob"):
        client = login(name)
        page = Page(client.get(INBOX).text)
        assert (page.all("form"), "wh_1" in page.text, "every Dag that has jobs" in page.text) == ([], True, True)
        for answer in (post(client, "discard", reason="?"), post(client, "replay")):
            assert answer.status_code == 403
            assert "You may not settle webhooks" in answer.text
    assert ledger.inbox.read("wh_1").disposition is Disposition.QUARANTINED
    assert post(login("carol"), "discard", reason="It is ours").status_code == 303


def test_a_form_of_another_site_changes_nothing(login: Login, ledger: Ledger) -> None:
    receive(ledger)
    for what in ("discard", "replay"):
        bob = login("bob", headers={"Origin": "https://evil.test"})
        assert post(bob, what, reason="?").status_code == 403
    assert ledger.inbox.read("wh_1").note is None


def test_what_became_of_a_webhook_is_said_to_those_who_may_settle_alone(
    login: Login, ledger: Ledger, grant: Grant
) -> None:
    receive(ledger)
    ledger.inbox.discard("wh_1", actor=TEST, why="a secret reason")
    grant("vic", "GET", OWNER.dag_id)
    assert "a secret reason" not in login("vic").get(f"{INBOX}?about=wh_1").text
    assert login("vic").get(f"{INBOX}?about=nothing").status_code == 200


def test_a_page_with_nothing_that_moves_does_not_refresh(login: Login, ledger: Ledger) -> None:
    bob = login("bob")
    assert [p["data-refresh"] for p in Page(bob.get(INBOX).text).all("p") if "data-refresh" in p] == ["10"]
    assert "data-refresh" not in bob.get(f"{INBOX}?paused").text
    ledger.cancels.cancel(1, actor=TEST, reason="a test")
    assert "data-refresh" not in bob.get(INBOX).text
