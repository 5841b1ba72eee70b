"""The subscriptions of one ledger: made, changed and ended by people, with who and why; what waits for them, and what
was given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from airflow_provider_aihandoff.core.arguments import reason_text
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.errors import RequestError, SubscriptionNotFound, SubscriptionRefused
from airflow_provider_aihandoff.core.event_delivery.subscription import (
    NOT_RECORDED,
    EventSubscription,
    WantedSubscription,
    checked_subscription,
)
from airflow_provider_aihandoff.core.models import Actor, ActorKind, columns

#: Subscriptions of one ledger at most: each change of a job is compared with all of them.
MAX_SUBSCRIPTIONS = 100

#: Events that one replay takes at most.
MAX_REPLAY = 10_000

_FIND = f"SELECT {columns(EventSubscription)} FROM aihandoff.event_subscriptions WHERE name = %s AND state <> 'ended'"
_COUNT = "SELECT count(*) AS known FROM aihandoff.event_subscriptions WHERE state <> 'ended'"
#: Two that subscribe at the same time count one after the other.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('aihandoff.event_subscriptions', 0))"
_SUBSCRIBE = f"""
    INSERT INTO aihandoff.event_subscriptions (name, url, job_types, states, secret_conn_id)
    VALUES (%(name)s, %(url)s, %(job_types)s::text[], %(states)s::text[], %(secret_conn_id)s)
    RETURNING {columns(EventSubscription)}"""
#: Who sends to the address before this one records nothing of what that answers.
_CHANGE = f"""
    UPDATE aihandoff.event_subscriptions SET url = %(url)s, job_types = %(job_types)s::text[],
        states = %(states)s::text[], secret_conn_id = %(secret_conn_id)s, state = 'active', state_reason = NULL,
        lease_token = CASE WHEN url = %(url)s THEN lease_token END,
        rest_until = NULL, failures = 0, updated_at = clock_timestamp()
    WHERE name = %(name)s AND state <> 'ended' RETURNING {columns(EventSubscription)}"""
_END = f"""
    UPDATE aihandoff.event_subscriptions SET state = 'ended', updated_at = clock_timestamp()
    WHERE name = %s AND state <> 'ended' RETURNING {columns(EventSubscription)}"""
_DROP_WAITING = "DELETE FROM aihandoff.event_deliveries WHERE subscription_id = %s AND state <> 'delivered'"
_CHANGED = """
    INSERT INTO aihandoff.event_subscription_changes (subscription_id, at, change, url, job_types, states,
        secret_conn_id, reason, actor_kind, actor_name, actor_user_id)
    VALUES (%(subscription_id)s, clock_timestamp(), %(change)s, %(url)s, %(job_types)s, %(states)s,
        %(secret_conn_id)s, %(reason)s, %(actor_kind)s, %(actor_name)s, %(actor_user_id)s)"""
_LIST = f"""
    SELECT {columns(EventSubscription)},
        (SELECT count(*) FROM aihandoff.event_deliveries AS d
            WHERE d.subscription_id = s.subscription_id AND d.state = 'waiting') AS waiting,
        (SELECT min(at) FROM aihandoff.event_deliveries AS d
            WHERE d.subscription_id = s.subscription_id AND d.state = 'waiting') AS waiting_since,
        (SELECT count(*) FROM aihandoff.event_deliveries AS d
            WHERE d.subscription_id = s.subscription_id AND d.state = 'dead') AS dead,
        (SELECT max(settled_at) FROM aihandoff.event_deliveries AS d
            WHERE d.subscription_id = s.subscription_id AND d.state = 'delivered') AS delivered_at
    FROM aihandoff.event_subscriptions AS s
    WHERE state <> 'ended' AND (%(name)s::text IS NULL OR name = %(name)s) ORDER BY name"""
_CHANGES = """
    SELECT {} FROM aihandoff.event_subscription_changes WHERE subscription_id = %s ORDER BY change_id DESC LIMIT 100"""
_DEAD = """
    SELECT d.delivery_id, s.name, d.job_id, d.request_id, d.seq, d.standing, d.at, d.tries, d.error, d.settled_at
    FROM aihandoff.event_deliveries AS d JOIN aihandoff.event_subscriptions AS s USING (subscription_id)
    WHERE d.state = 'dead' AND (%(name)s::text IS NULL OR s.name = %(name)s) AND s.state <> 'ended'
    ORDER BY d.delivery_id DESC LIMIT %(limit)s"""
#: What was delivered is sent again only where it is named.
_REPLAY = """
    UPDATE aihandoff.event_deliveries SET state = 'waiting', settled_at = NULL, tries = 0, first_try_at = NULL,
        try_at = clock_timestamp()
    WHERE delivery_id = ANY(ARRAY(
        SELECT delivery_id FROM aihandoff.event_deliveries
        WHERE subscription_id = %(subscription_id)s AND (
            CASE WHEN %(named)s::bigint[] = '{}' THEN state = 'dead'
            ELSE state <> 'waiting' AND delivery_id = ANY (%(named)s) END)
        ORDER BY delivery_id LIMIT %(limit)s))"""


@dataclass(frozen=True)
class SubscriptionView:
    """A subscription, and how its events stand.

    :param waiting: how many are to be sent; of the oldest, when its job changed, is ``waiting_since``.
    :param dead: how many were given up.
    :param delivered_at: when the newest one was delivered, among those that are remembered.
    """

    subscription: EventSubscription
    waiting: int
    waiting_since: datetime | None
    dead: int
    delivered_at: datetime | None


@dataclass(frozen=True)
class SubscriptionChange:
    """One change of a subscription: how it was after it, who made it, and why."""

    change_id: int
    subscription_id: int
    at: datetime
    change: str
    url: str
    job_types: list[str]
    states: list[str]
    secret_conn_id: str
    reason: str
    actor_kind: str
    actor_name: str | None
    actor_user_id: str | None

    @property
    def by(self) -> Actor:
        """Who made it."""
        return Actor(ActorKind(self.actor_kind), self.actor_name, self.actor_user_id)


@dataclass(frozen=True)
class DeadEvent:
    """An event that was given up.

    :param name: of its subscription.
    :param error: why its last try has failed.
    """

    delivery_id: int
    name: str
    job_id: int | None
    request_id: UUID | None
    seq: int
    standing: str
    at: datetime
    tries: int
    error: str | None
    settled_at: datetime


class EventSubscriptions:
    """The subscriptions of one ledger. The callers check their addresses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def subscribe(self, wanted: WantedSubscription, *, reason: str, actor: Actor) -> EventSubscription:
        """Subscribe, or change the subscription of this name; one that was disabled is active again. Safe to repeat.

        :raises SubscriptionRefused: it cannot be kept like this, there is no reason, or there are too many.
        """
        values, why = checked_subscription(wanted), _reason(reason)

        def work(connection: LedgerConnection) -> EventSubscription:
            connection.execute(_LOCK)
            row, change = connection.execute(_CHANGE, values).fetchone(), "changed"
            if row is None:
                (counted,) = connection.execute(_COUNT).fetchall()
                if counted["known"] >= MAX_SUBSCRIPTIONS:
                    raise SubscriptionRefused(
                        f"there are {counted['known']} subscriptions, which is as many as there may be.",
                        written=NOT_RECORDED,
                        remedy="End one with `airflow aihandoff events unsubscribe`.",
                    )
                row, change = connection.execute(_SUBSCRIBE, values).fetchone(), "subscribed"
            assert row is not None
            subscription = EventSubscription(**row)
            record_change(connection, subscription, change, why, actor)
            return subscription

        return self._database.transact(work, repeatable=True, step="event.subscribe")

    def end(self, name: str, *, reason: str, actor: Actor) -> int:
        """End a subscription. What waits for it, or was given up, is removed.

        :return: how many events that were.
        :raises SubscriptionNotFound: there is none of this name.
        :raises SubscriptionRefused: there is no reason.
        """
        why = _reason(reason)

        def work(connection: LedgerConnection) -> int:
            subscription = _found(connection.execute(_END, [name]).fetchone(), name)
            record_change(connection, subscription, "ended", why, actor)
            return connection.execute(_DROP_WAITING, [subscription.subscription_id]).rowcount

        return self._database.transact(work, step="event.subscribe")

    def read(self, name: str) -> SubscriptionView:
        """Return one subscription.

        :raises SubscriptionNotFound: there is none of this name.
        """
        found = self.find(name)
        if not found:
            _found(None, name)
        return found[0]

    def find(self, name: str | None = None) -> list[SubscriptionView]:
        """Return the subscriptions that were not ended, by name.

        :param name: only this one.
        """
        rows = self._database.transact(lambda connection: connection.execute(_LIST, {"name": name}).fetchall())
        more = ("waiting", "waiting_since", "dead", "delivered_at")
        return [
            SubscriptionView(
                EventSubscription(**{key: value for key, value in row.items() if key not in more}),
                **{key: row[key] for key in more},
            )
            for row in rows
        ]

    def changes(self, subscription_id: int) -> list[SubscriptionChange]:
        """Return the newest changes of a subscription, the newest first."""
        query = _CHANGES.format(columns(SubscriptionChange))
        rows = self._database.transact(lambda connection: connection.execute(query, [subscription_id]).fetchall())
        return [SubscriptionChange(**row) for row in rows]

    def dead(self, name: str | None = None, limit: int = 100) -> list[DeadEvent]:
        """Return the events that were given up, the newest first.

        :param name: only of this subscription.
        """
        values = {"name": name, "limit": limit}
        rows = self._database.transact(lambda connection: connection.execute(_DEAD, values).fetchall())
        return [DeadEvent(**row) for row in rows]

    def replay(self, name: str, delivery_ids: Sequence[int] = (), *, reason: str, actor: Actor) -> int:
        """Have events sent again, each with the same id as before.

        :param delivery_ids: which, also ones that were delivered; none: those that were given up, the oldest first.
        :return: how many that are, at most :data:`MAX_REPLAY`.
        :raises SubscriptionNotFound: there is no subscription of this name.
        :raises SubscriptionRefused: there is no reason.
        """
        why = _reason(reason)

        def work(connection: LedgerConnection) -> int:
            subscription = _found(connection.execute(_FIND, [name]).fetchone(), name)
            values = {
                "subscription_id": subscription.subscription_id,
                "named": list(delivery_ids),
                "limit": MAX_REPLAY,
            }
            replayed = connection.execute(_REPLAY, values).rowcount
            record_change(connection, subscription, "replayed", f"{replayed} events: {why}", actor)
            return replayed

        return self._database.transact(work, step="event.replay")


def record_change(
    connection: LedgerConnection, subscription: EventSubscription, change: str, reason: str, actor: Actor
) -> None:
    """Put a change of a subscription on the record."""
    names = ("subscription_id", "url", "job_types", "states", "secret_conn_id")
    values: dict[str, Any] = {name: getattr(subscription, name) for name in names}
    who = {"actor_kind": actor.kind, "actor_name": actor.name, "actor_user_id": actor.user_id}
    connection.execute(_CHANGED, {**values, **who, "change": change, "reason": reason})


def _found(row: dict[str, Any] | None, name: str) -> EventSubscription:
    if row is None:
        raise SubscriptionNotFound(
            f"there is no subscription {name!r}.",
            written="Nothing was changed.",
            remedy="`airflow aihandoff events subscriptions` lists the ones there are.",
        )
    return EventSubscription(**row)


def _reason(reason: str) -> str:
    try:
        return reason_text("reason", reason)
    except RequestError as error:
        raise SubscriptionRefused(error.what, written="Nothing was changed.", remedy="Give a reason.") from None
