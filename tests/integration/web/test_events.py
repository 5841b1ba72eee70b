"""Subscriptions to events over REST: made, changed, listed, replayed and ended, by those who may act on every Dag."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from tests.factories import OWNER, draft
from tests.integration.web.conftest import Grant, Login

API = "/aihandoff/api/v1/event-subscriptions"
BODY: dict[str, Any] = {
    "name": "shop",
    "url": "https://hooks.shop.example/jobs",
    "secret_conn_id": "shop_events",
    "job_types": ["publishing"],
    "states": ["in review", "working"],
    "reason": "the shop shows it",
}


@pytest.fixture(autouse=True)
def _listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__EVENT_HOSTS", "hooks.shop.example")


def test_programs_subscribe_change_list_and_end(login: Login, ledger: Ledger) -> None:
    draft(ledger)
    bob = login("bob")
    made = bob.post(API, json=BODY).json()
    assert (made["name"], made["states"], made["state"], made["waiting"]) == (
        "shop",
        ["working", "in review"],
        "active",
        0,
    )
    assert [(each["change"], each["by"], each["reason"]) for each in made["changes"]] == [
        ("subscribed", "bob", "the shop shows it")
    ]
    assert not {"lease_token", "lease_until"} & set(made)
    changed = bob.post(API, json={**BODY, "states": []}).json()
    assert (changed["states"], [each["change"] for each in changed["changes"]]) == ([], ["changed", "subscribed"])
    assert [each["name"] for each in bob.get(API).json()["subscriptions"]] == ["shop"]
    assert bob.get(f"{API}/shop").json() == changed
    end = {"name": "shop", "reason": "closed"}
    assert bob.post(f"{API}/end", json=end).json() == {"subscriptions": []}
    again = bob.post(f"{API}/end", json=end)
    assert (again.status_code, again.json()["type"]) == (404, "subscription-not-found")
    assert bob.get(f"{API}/shop").status_code == 404


def test_what_was_given_up_is_listed_and_replayed(login: Login, ledger: Ledger, conninfo: dict[str, Any]) -> None:
    draft(ledger)
    bob = login("bob")
    bob.post(API, json=BODY)
    with psycopg.connect(**conninfo) as connection:
        connection.execute(
            "INSERT INTO aihandoff.event_deliveries (subscription_id, job_id, seq, standing, at, state, settled_at) "
            "VALUES (1, 1, 3, 'working', now(), 'dead', now()), (1, 1, 4, 'in review', now(), 'dead', now())"
        )
    dead = bob.get(f"{API}/dead", params={"name": "shop"}).json()["events"]
    assert [(each["name"], each["standing"]) for each in dead] == [("shop", "in review"), ("shop", "working")]
    wanted = {"name": "shop", "reason": "fixed"}
    assert bob.post(f"{API}/replay", json={**wanted, "events": [dead[0]["delivery_id"]]}).json() == {"replayed": 1}
    assert bob.post(f"{API}/replay", json=wanted).json() == {"replayed": 1}
    assert bob.get(f"{API}/shop").json()["waiting"] == 2


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"url": "https://evil.example/"}, "address-refused"),
        ({"url": "http://hooks.shop.example/"}, "address-refused"),
        ({"url": "https://169.254.169.254/latest"}, "address-refused"),
        ({"secret_conn_id": "openai_default"}, "subscription-refused"),
        ({"states": ["completed"]}, "invalid-request"),
        ({"name": "a\u0000b"}, "subscription-refused"),
        ({"reason": ""}, "invalid-request"),
        ({"more": 1}, "invalid-request"),
    ],
)
def test_what_cannot_be_subscribed_is_refused_and_not_recorded(
    login: Login, ledger: Ledger, wrong: dict[str, Any], kind: str
) -> None:
    draft(ledger)
    answer = login("bob").post(API, json={**BODY, **wrong})
    assert (answer.status_code, answer.json()["type"]) == (422, kind)
    assert ledger.event_subscriptions.find() == []


@pytest.mark.parametrize("path", ["", "/shop", "/dead"])
def test_only_those_who_may_act_on_every_dag_see_subscriptions(
    login: Login, grant: Grant, ledger: Ledger, path: str
) -> None:
    bob = login("bob")
    assert bob.get(f"{API}{path}").json()["type"] == "subscription-forbidden"
    draft(ledger)
    grant("vic", OWNER.dag_id, "GET")
    for answer in (
        login("vic").get(f"{API}{path}"),
        login("vic").post(API, json=BODY),
        login("vic").post(f"{API}/end", json={"name": "shop", "reason": "x"}),
        login("vic").post(f"{API}/replay", json={"name": "shop", "reason": "x"}),
    ):
        assert (answer.status_code, answer.json()["type"]) == (403, "subscription-forbidden")
