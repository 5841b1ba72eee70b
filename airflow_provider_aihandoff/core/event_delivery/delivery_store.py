"""The outbox of one ledger, as deliverers use it: what is due, and what came of sending it.

One deliverer sends the events of a subscription at a time, by a lease with a token. What a deliverer records after
another one has taken the lease over changes nothing. Of each job, only the oldest event that waits is due.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.event_delivery.cloud_event import MAX_RESULT, OutgoingEvent
from airflow_provider_aihandoff.core.event_delivery.subscription import EventSubscription
from airflow_provider_aihandoff.core.event_delivery.subscription_store import record_change
from airflow_provider_aihandoff.core.models import Actor, columns

#: Seconds for which a deliverer has the events of a subscription for itself.
LEASE_SECONDS = 60

#: Events that a deliverer takes at once.
TAKEN_AT_ONCE = 32

#: After how many tries, or after how long, an event is given up, whichever comes first.
MAX_TRIES = 60
MAX_AGE = timedelta(days=3)

#: Between two tries of an event, in seconds.
_PAUSE_BASE, _PAUSE_CAP = 5.0, 3 * 3600.0

#: Of what a receiver names in ``Retry-After``, the most that is waited, in seconds.
_RETRY_AFTER_CAP = 6 * 3600.0

#: For how long nothing is sent to a receiver where everything fails, in seconds.
_REST_BASE, _REST_CAP = 1.0, 60.0

#: For how long what was delivered is remembered, and what was given up, or waits for a subscription that is not active.
KEPT_DELIVERED = timedelta(days=7)
KEPT_UNDELIVERED = timedelta(days=90)

#: What one round of removing takes.
REMOVED_AT_ONCE = 1000

#: Stable, and not the volatile clock_timestamp(), which no index is searched by.
_DUE = """d.state = 'waiting' AND d.try_at <= statement_timestamp() AND NOT EXISTS (
        SELECT FROM aihandoff.event_deliveries AS earlier
        WHERE earlier.subscription_id = d.subscription_id AND earlier.job_id = d.job_id AND earlier.seq < d.seq
            AND earlier.state = 'waiting')"""
_LEASE = f"""
    UPDATE aihandoff.event_subscriptions SET lease_token = %(token)s,
        lease_until = clock_timestamp() + %(lease)s
    WHERE subscription_id = (
        SELECT subscription_id FROM aihandoff.event_subscriptions AS s
        WHERE state = 'active' AND (%(name)s::text IS NULL OR name = %(name)s)
            AND (lease_token IS NULL OR lease_until <= clock_timestamp())
            AND (rest_until IS NULL OR rest_until <= clock_timestamp())
            AND EXISTS (SELECT FROM aihandoff.event_deliveries AS d
                WHERE d.subscription_id = s.subscription_id AND {_DUE})
        ORDER BY lease_until NULLS FIRST LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING {columns(EventSubscription)}"""
#: What deliverers have begun to send as often as it may be, and died.
_GIVE_UP = """
    UPDATE aihandoff.event_deliveries AS d SET state = 'dead', settled_at = clock_timestamp(),
        error = coalesce(error, 'each deliverer has died that has sent it')
    WHERE subscription_id = %(subscription_id)s AND state = 'waiting' AND try_at <= statement_timestamp()
        AND tries >= %(max_tries)s"""
#: Each try is counted before it is made: one that kills its deliverer has an end too.
_TAKE = f"""
    WITH due AS (
        UPDATE aihandoff.event_deliveries SET tries = tries + 1,
            first_try_at = coalesce(first_try_at, clock_timestamp()), try_at = %(lease_until)s
        WHERE delivery_id = ANY(ARRAY(
            SELECT delivery_id FROM aihandoff.event_deliveries AS d
            WHERE d.subscription_id = %(subscription_id)s AND {_DUE}
            ORDER BY d.try_at, d.delivery_id LIMIT {TAKEN_AT_ONCE}))
        RETURNING delivery_id, job_id, request_id, seq, revision, standing, at, tries)
    SELECT due.delivery_id, due.job_id, coalesce(due.request_id, asked.request_id) AS request_id, due.seq,
        due.standing, due.at, due.tries, coalesce(j.job_type, ended.job_type) AS job_type,
        coalesce(j.job_key, ended.job_key) AS job_key, shows.shows_result,
        CASE WHEN octet_length(r.output::text) <= {MAX_RESULT} THEN r.output END AS result,
        octet_length(r.output::text) AS result_bytes
    FROM due
    LEFT JOIN aihandoff.jobs AS j ON j.job_id = due.job_id
    LEFT JOIN aihandoff.job_requests AS asked ON asked.job_type = j.job_type AND asked.job_key = j.job_key
    LEFT JOIN aihandoff.job_requests AS ended ON ended.request_id = due.request_id
    CROSS JOIN LATERAL (
        SELECT due.standing = 'done' AND coalesce(asked.events_show_result, false) AS shows_result) AS shows
    LEFT JOIN aihandoff.revisions AS r
        ON shows.shows_result AND r.job_id = due.job_id AND r.number = due.revision
    ORDER BY due.delivery_id"""
_IS_LEASED = """EXISTS (SELECT FROM aihandoff.event_subscriptions AS s
        WHERE s.subscription_id = %(subscription_id)s AND s.lease_token = %(token)s)"""
_DELIVERED = f"""
    UPDATE aihandoff.event_deliveries SET state = 'delivered', settled_at = clock_timestamp(), error = NULL
    WHERE delivery_id = %(delivery_id)s AND state = 'waiting' AND {_IS_LEASED}
    RETURNING state"""
_FAILED = f"""
    UPDATE aihandoff.event_deliveries AS d SET error = %(error)s, try_at = clock_timestamp() + %(pause)s,
        state = CASE WHEN gives_up THEN 'dead' ELSE 'waiting' END,
        settled_at = CASE WHEN gives_up THEN clock_timestamp() END
    FROM (SELECT %(for_good)s OR tries >= %(max_tries)s OR first_try_at <= clock_timestamp() - %(max_age)s AS gives_up
        FROM aihandoff.event_deliveries WHERE delivery_id = %(delivery_id)s) AS known
    WHERE delivery_id = %(delivery_id)s AND state = 'waiting' AND {_IS_LEASED}
    RETURNING state"""
#: The later events of a job are due with the one that they wait for: what is not due is not searched for what is.
_LATER = """
    UPDATE aihandoff.event_deliveries AS later
    SET try_at = CASE WHEN this.state = 'waiting' THEN greatest(this.try_at, later.try_at) ELSE clock_timestamp() END
    FROM aihandoff.event_deliveries AS this
    WHERE this.delivery_id = %(delivery_id)s AND later.subscription_id = this.subscription_id
        AND later.job_id = this.job_id AND later.seq > this.seq AND later.state = 'waiting'"""
_UNSENT = f"""
    UPDATE aihandoff.event_deliveries SET tries = tries - 1, try_at = clock_timestamp()
    WHERE delivery_id = ANY (%(delivery_ids)s) AND state = 'waiting' AND {_IS_LEASED}"""
_RELEASE = """
    UPDATE aihandoff.event_subscriptions SET lease_token = NULL, lease_until = clock_timestamp(),
        failures = %(failures)s, rest_until = clock_timestamp() + %(rest)s
    WHERE subscription_id = %(subscription_id)s AND lease_token = %(token)s"""
_DISABLE = f"""
    UPDATE aihandoff.event_subscriptions SET state = 'disabled', state_reason = %(reason)s,
        updated_at = clock_timestamp()
    WHERE subscription_id = %(subscription_id)s AND state = 'active' AND lease_token = %(token)s
    RETURNING {columns(EventSubscription)}"""
_REMOVE = f"""
    DELETE FROM aihandoff.event_deliveries WHERE delivery_id = ANY(ARRAY(
        SELECT delivery_id FROM aihandoff.event_deliveries
        WHERE state = 'delivered' AND settled_at < statement_timestamp() - %(delivered)s
        UNION ALL
        SELECT delivery_id FROM aihandoff.event_deliveries
        WHERE state = 'dead' AND settled_at < statement_timestamp() - %(undelivered)s
        UNION ALL
        SELECT delivery_id FROM aihandoff.event_deliveries AS d
        JOIN aihandoff.event_subscriptions AS s USING (subscription_id)
        WHERE d.state = 'waiting' AND s.state <> 'active' AND d.at < clock_timestamp() - %(undelivered)s
        LIMIT {REMOVED_AT_ONCE}))"""

#: Who ends a subscription by answering 410.
_RECEIVER = Actor.program("the receiver")


@dataclass(frozen=True)
class Taken:
    """What a deliverer may send now, and for whom.

    :param events: of different jobs each.
    """

    subscription: EventSubscription
    ledger_id: UUID
    events: list[OutgoingEvent]

    @property
    def lease(self) -> dict[str, Any]:
        """What the lease is known by."""
        return {"subscription_id": self.subscription.subscription_id, "token": self.subscription.lease_token}


class Outbox:
    """The outbox of one ledger. Every method is one short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, *, name: str | None = None, lease_seconds: float = LEASE_SECONDS) -> Taken | None:
        """Lease the subscription that has waited longest among those with something due, and take that.

        :param name: only this subscription.
        :param lease_seconds: for how long others leave it alone.
        :return: None where nothing is due, or others are sending it.
        """

        def work(connection: LedgerConnection) -> Taken | None:
            lease = {"token": uuid4(), "lease": timedelta(seconds=lease_seconds), "name": name}
            row = connection.execute(_LEASE, lease).fetchone()
            if row is None:
                return None
            subscription = EventSubscription(**row)
            values = {
                "subscription_id": subscription.subscription_id,
                "lease_until": subscription.lease_until,
                "max_tries": MAX_TRIES,
            }
            given_up = connection.execute(_GIVE_UP, values).rowcount
            connection.count(signals.EVENTS, given_up, outcome="dead")
            events = [OutgoingEvent(**row) for row in connection.execute(_TAKE, values).fetchall()]
            (ledger,) = connection.execute("SELECT ledger_id FROM aihandoff.ledger").fetchall()
            return Taken(subscription, ledger["ledger_id"], events)

        return self._database.transact(work, repeatable=True, step="event.take")

    def delivered(self, taken: Taken, event: OutgoingEvent) -> bool:
        """Record that a receiver has taken an event; whether that still counts."""
        values = {**taken.lease, "delivery_id": event.delivery_id}
        return self._settle(_DELIVERED, values, moves_later=event.tries > 1)

    def failed(self, taken: Taken, event: OutgoingEvent, why: str, *, retry_after: float | None = None) -> bool:
        """Record that sending an event has failed: it is sent again later, or given up.

        :param why: as a clause, without content of the answer.
        :param retry_after: seconds that the receiver asks for.
        :return: whether that still counts.
        """
        return self._settle(_FAILED, _failure(taken, event, why, retry_after), moves_later=True)

    def gone(self, taken: Taken, event: OutgoingEvent) -> bool:
        """Record that a receiver wants nothing any more: the subscription is disabled, and this event given up."""
        why = "the receiver has answered 410: it wants no events any more"

        def work(connection: LedgerConnection) -> bool:
            row = connection.execute(_DISABLE, {**taken.lease, "reason": why}).fetchone()
            if row is None:
                return False
            record_change(connection, EventSubscription(**row), "disabled", why, _RECEIVER)
            values = _failure(taken, event, why, None, for_good=True)
            connection.execute(_FAILED, values)
            connection.execute(_LATER, values)
            connection.count(signals.EVENTS, outcome="dead")
            return True

        return self._database.transact(work, repeatable=True, step="event.record")

    def end(self, taken: Taken, unsent: list[OutgoingEvent], *, all_failed: bool, some_delivered: bool) -> None:
        """Give the lease back. Safe to leave out: it ends by itself.

        :param unsent: what was taken and not sent.
        :param all_failed: so much has failed that the receiver is left alone for a while.
        """
        failures = taken.subscription.failures + 1 if all_failed else 0 if some_delivered else None
        rest = backoff(failures, base=_REST_BASE, cap=_REST_CAP) if all_failed and failures else 0.0
        values = {
            **taken.lease,
            "delivery_ids": [event.delivery_id for event in unsent],
            "failures": taken.subscription.failures if failures is None else failures,
            "rest": timedelta(seconds=rest),
        }

        def work(connection: LedgerConnection) -> None:
            if unsent:
                connection.execute(_UNSENT, values)
            connection.execute(_RELEASE, values)

        self._database.transact(work, repeatable=True, step="event.end")

    def remove_old(self) -> int:
        """Remove what was delivered long ago, or given up even longer; return how many rows that were."""
        values = {"delivered": KEPT_DELIVERED, "undelivered": KEPT_UNDELIVERED}
        return self._database.transact(
            lambda connection: connection.execute(_REMOVE, values).rowcount, repeatable=True, step="event.remove"
        )

    def _settle(self, statement: str, values: dict[str, Any], *, moves_later: bool) -> bool:
        def work(connection: LedgerConnection) -> bool:
            row = connection.execute(statement, values).fetchone()
            if row is None:
                return False
            if moves_later:
                connection.execute(_LATER, values)
            connection.count(signals.EVENTS, outcome="failed" if row["state"] == "waiting" else row["state"])
            return True

        return self._database.transact(work, repeatable=True, step="event.record")


def _failure(
    taken: Taken, event: OutgoingEvent, why: str, retry_after: float | None, *, for_good: bool = False
) -> dict[str, Any]:
    return {
        **taken.lease,
        "delivery_id": event.delivery_id,
        "error": why,
        "pause": timedelta(seconds=pause_seconds(event.tries, retry_after)),
        "max_tries": MAX_TRIES,
        "max_age": MAX_AGE,
        "for_good": for_good,
    }


def pause_seconds(tries: int, retry_after: float | None) -> float:
    """Until an event is tried again: longer each time, and not before the receiver wants it, within bounds."""
    return max(backoff(tries, base=_PAUSE_BASE, cap=_PAUSE_CAP), min(retry_after or 0.0, _RETRY_AFTER_CAP))
