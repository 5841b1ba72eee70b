"""A subscriber to events, which keeps what it gets in a table, and never refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import psycopg

from airflow_provider_aihandoff.core.errors import SubscriptionNotFound
from airflow_provider_aihandoff.core.event_delivery.deliver import deliver_due
from airflow_provider_aihandoff.core.event_delivery.post import Answered
from airflow_provider_aihandoff.core.event_delivery.subscription import WantedSubscription
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from chaos.world import World

#: Who subscribes, and with which secret events are signed.
PERSON = Actor.user("alice")
SECRET = f"whsec_{base64.b64encode(b'chaos' * 6).decode('ascii')}"

#: Seconds for which a deliverer that has died keeps the others waiting.
LEASE_SECONDS = 2.0

_ARRIVED = "INSERT INTO chaos_events (url, webhook_id, body) VALUES (%s, %s, %s)"
_ARRIVALS = "SELECT webhook_id, body FROM chaos_events WHERE url = %s ORDER BY event_id"


def subscribe(world: World, ledger: Ledger, key: str) -> bool:
    """Have everything sent to a subscriber of this name."""
    ledger.event_subscriptions.subscribe(WantedSubscription(key, key, "chaos"), reason="to hear", actor=PERSON)
    return True


def deliver(world: World, ledger: Ledger, key: str) -> bool:
    """Send what is due to a subscriber; return whether nothing waits for them."""
    post = partial(_post, world)
    deliver_due(ledger, secrets_of=lambda _: [SECRET], post=post, name=key, lease_seconds=LEASE_SECONDS)
    return ledger.event_subscriptions.read(key).waiting == 0


def replay(world: World, ledger: Ledger, key: str) -> bool:
    """Have what was given up sent again: nothing was."""
    return ledger.event_subscriptions.replay(key, reason="to be sure", actor=PERSON) == 0


def unsubscribe(world: World, ledger: Ledger, key: str) -> bool:
    """End the subscription, unless it has ended."""
    with suppress(SubscriptionNotFound):
        ledger.event_subscriptions.end(key, reason="heard enough", actor=PERSON)
    return True


def heard_of(world: World, key: str, job_id: int) -> list[str]:
    """The states of a job in the order in which the subscriber has first heard of each change."""
    with psycopg.connect(**world.ledger) as connection:
        rows = connection.execute(_ARRIVALS, [key]).fetchall()
    heard: dict[str, str] = {}
    for webhook_id, body in rows:
        event = json.loads(body)
        assert event["id"] == webhook_id
        if event["data"]["job_id"] == job_id:
            heard.setdefault(webhook_id, event["data"]["state"])
    return list(heard.values())


def _post(world: World, url: str, headers: Mapping[str, str], body: bytes) -> Answered:
    with psycopg.connect(**world.ledger) as connection:
        connection.execute(_ARRIVED, [url, headers["webhook-id"], body.decode("ascii")])
    return Answered(204)
