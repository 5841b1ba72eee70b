"""The limits of speed of one ledger: set, changed and ended by people, with who and why; and what waits for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.database.history import as_json
from airflow_provider_aihandoff.core.errors import LimitNotFound, LimitRefused
from airflow_provider_aihandoff.core.models import Actor, ActorKind, columns
from airflow_provider_aihandoff.core.rates.bucket import Bucket
from airflow_provider_aihandoff.core.rates.fair_order import WAKE_AHEAD
from airflow_provider_aihandoff.core.rates.rate_limit import (
    LimitKind,
    Measure,
    RateLimit,
    checked_limit,
    checked_name,
    checked_weights,
)
from airflow_provider_aihandoff.core.rates.rate_store import WOKEN_AT_ONCE, in_use, wake, wake_for_slots
from airflow_provider_aihandoff.core.text import plain

_SET = f"""
    INSERT INTO aihandoff.rate_limits AS known (kind, name, measure, amount, period, weights)
    VALUES (%(kind)s, %(name)s, %(measure)s, %(amount)s, %(period)s, %(weights)s)
    ON CONFLICT (kind, name, measure) DO UPDATE SET amount = excluded.amount, weights = excluded.weights,
        period = excluded.period,
        -- What went through, and what was learned, is counted by the period.
        next_at = CASE WHEN known.period = excluded.period THEN least(known.next_at, extract(epoch FROM
            clock_timestamp()) + coalesce(excluded.period, 0)) ELSE 0 END,
        newest_slice = CASE WHEN known.period = excluded.period THEN known.newest_slice ELSE 0 END,
        slices = CASE WHEN known.period = excluded.period THEN known.slices ELSE '{{}}' END,
        base = CASE WHEN known.period = excluded.period THEN known.base END,
        slowed_at = CASE WHEN known.period = excluded.period THEN known.slowed_at END
    RETURNING {columns(RateLimit)}"""
_END = f"""
    UPDATE aihandoff.rate_limits SET amount = NULL, weights = '{{}}'
    WHERE kind = %(kind)s AND name = %(name)s AND measure = %(measure)s AND amount IS NOT NULL
    RETURNING {columns(RateLimit)}"""
_COUNT_WAITING = "SELECT count(*) AS waiting FROM aihandoff.rate_waits WHERE limit_id = %s"
_READ = f"""
    SELECT {columns(RateLimit)} FROM aihandoff.rate_limits
    WHERE kind = %(kind)s AND name = %(name)s AND measure = %(measure)s"""
_CHANGED = """
    INSERT INTO aihandoff.rate_limit_changes
        (limit_id, at, amount, period, weights, reason, actor_kind, actor_name, actor_user_id)
    VALUES (%(limit_id)s, clock_timestamp(), %(amount)s, %(period)s, %(weights)s, %(reason)s, %(actor_kind)s,
        %(actor_name)s, %(actor_user_id)s)"""
_LIST = f"""
    SELECT {columns(RateLimit)}, next_at, newest_slice, slices, clock_timestamp() AS at,
        (SELECT count(*) FROM aihandoff.rate_waits AS w WHERE w.limit_id = found.limit_id) AS waiting,
        (SELECT min(since) FROM aihandoff.rate_waits AS w WHERE w.limit_id = found.limit_id) AS waiting_since,
        (SELECT max(at) FROM aihandoff.rate_limit_changes AS c WHERE c.limit_id = found.limit_id) AS changed_at
    FROM aihandoff.rate_limits AS found
    WHERE %(ended)s OR amount IS NOT NULL OR closed_until > clock_timestamp() OR slowed_at IS NOT NULL
        OR EXISTS (SELECT FROM aihandoff.rate_waits AS w WHERE w.limit_id = found.limit_id)
    ORDER BY kind, name, measure LIMIT %(limit)s"""
_CHANGES = """
    SELECT {} FROM aihandoff.rate_limit_changes WHERE limit_id = %s ORDER BY change_id DESC LIMIT %s"""


@dataclass(frozen=True)
class LimitChange:
    """One change of a limit.

    :param amount: what it was set to; None: it was ended.
    :param actor_kind: with the two after it, who changed it.
    """

    change_id: int
    limit_id: int
    at: datetime
    amount: int | None
    period: int | None
    weights: dict[str, float]
    reason: str
    actor_kind: str
    actor_name: str
    actor_user_id: str | None

    @property
    def by(self) -> Actor:
        """Who changed it."""
        return Actor(ActorKind(self.actor_kind), self.actor_name, self.actor_user_id)


@dataclass(frozen=True)
class LimitState:
    """A limit, and how much of it is used.

    :param now: how much goes through now; less than was set where the other side has asked for less; None: no limit.
    :param used: how much went through in the last period, or is in flight.
    :param waiting: how many wait for it, the first one since ``waiting_since``.
    :param paused: nothing is sent now, since the other side has asked for it.
    """

    limit: RateLimit
    now: int | None
    used: int
    waiting: int
    waiting_since: datetime | None
    changed_at: datetime | None
    paused: bool
    at: datetime

    @property
    def slowed(self) -> bool:
        """Whether less goes through than was set, since the other side has asked for it."""
        return self.paused or self.now != self.limit.amount


class RateLimits:
    """The limits of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(
        self,
        kind: LimitKind,
        name: str,
        measure: Measure,
        amount: int,
        *,
        reason: str,
        actor: Actor,
        period: int | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> RateLimit:
        """Set a limit, or change it. It holds from the next request on, and wakes what can go now.

        :param amount: how much in a period, or at once; 0 stops.
        :param period: seconds: that of a second, a minute or an hour. By default that of its kind.
        :param weights: of job types and requesters (:func:`rate_limit.checked_weights`); None leaves them as they are.
        :raises LimitRefused: it cannot be set like this, or there is no reason; nothing was set.
        """
        values = checked_limit(kind, name, measure, amount, period)
        given = None if weights is None else checked_weights(weights)
        why = _reason(reason)

        def work(connection: LedgerConnection) -> RateLimit:
            known = connection.execute(f"{_READ} FOR NO KEY UPDATE", values).fetchone()
            kept = given if given is not None else (known["weights"] if known is not None else {})
            row = connection.execute(_SET, {**values, "weights": as_json(kept)}).fetchone()
            assert row is not None
            limit = RateLimit(**row)
            _record(connection, limit, why, actor)
            if limit.period is None:
                wake_for_slots(connection, limit)
            else:
                wake(connection, limit.limit_id, math.ceil(amount / limit.period * WAKE_AHEAD))
            return limit

        return self._database.transact(work, step="limit.change")

    def end(self, kind: LimitKind, name: str, measure: Measure, *, reason: str, actor: Actor) -> RateLimit:
        """End a limit, and wake what waits for it. What the other side has asked for still counts.

        :raises LimitNotFound: no one has set it, or it was ended.
        :raises LimitRefused: there is no reason.
        """
        called = checked_name(kind, name, measure)
        why = _reason(reason)

        def work(connection: LedgerConnection) -> tuple[RateLimit, int]:
            row = connection.execute(_END, vars(called)).fetchone()
            if row is None:
                raise LimitNotFound(
                    f"there is no limit on the {called}.",
                    written="Nothing was changed.",
                    remedy="`airflow aihandoff limits list` shows the ones there are.",
                )
            limit = RateLimit(**row)
            _record(connection, limit, why, actor)
            (counted,) = connection.execute(_COUNT_WAITING, [limit.limit_id]).fetchall()
            return limit, int(counted["waiting"])

        limit, waiting = self._database.transact(work, step="limit.change")
        # What goes without a limit wakes no other. A process that dies here leaves them to ask when they would have.
        # A pause that the other side has asked for may hold them again: so each is woken once.
        for _ in range(0, waiting, WOKEN_AT_ONCE):
            self._database.transact(lambda connection: wake(connection, limit.limit_id, WOKEN_AT_ONCE))
        return limit

    def find(self, *, ended: bool = False, limit: int = 1000) -> list[LimitState]:
        """Return the limits in force, also those that were learned alone, with what is used of them.

        :param ended: also those that were ended.
        """

        def work(connection: LedgerConnection) -> list[LimitState]:
            rows = connection.execute(_LIST, {"ended": ended, "limit": limit}).fetchall()
            return [_state(connection, row) for row in rows]

        return self._database.transact(work)

    def changes(self, limit_id: int, limit: int = 100) -> list[LimitChange]:
        """Return the changes of a limit, the newest first."""
        query = _CHANGES.format(columns(LimitChange))
        rows = self._database.transact(lambda connection: connection.execute(query, [limit_id, limit]).fetchall())
        return [LimitChange(**row) for row in rows]


def _state(connection: LedgerConnection, row: dict[str, Any]) -> LimitState:
    own = ("next_at", "newest_slice", "slices", "at", "waiting", "waiting_since", "changed_at")
    limit = RateLimit(**{name: value for name, value in row.items() if name not in own})
    at = row["at"].timestamp()
    bucket = Bucket(row["next_at"], row["newest_slice"], tuple(row["slices"]))
    return LimitState(
        limit,
        now=limit.amount_at(at),
        used=in_use(connection, limit) if limit.period is None else bucket.used(limit.period, at),
        waiting=row["waiting"],
        waiting_since=row["waiting_since"],
        changed_at=row["changed_at"],
        paused=limit.closed_until is not None and limit.closed_until > row["at"],
        at=row["at"],
    )


def _reason(reason: str) -> str:
    text = plain(reason).strip()
    if not text:
        raise LimitRefused(
            "a limit needs a reason: it goes on the record.", written="Nothing was changed.", remedy="Give a reason."
        )
    return text


def _record(connection: LedgerConnection, limit: RateLimit, reason: str, actor: Actor) -> None:
    connection.execute(
        _CHANGED,
        {
            "limit_id": limit.limit_id,
            "amount": limit.amount,
            "period": limit.period,
            "weights": as_json(limit.weights),
            "reason": reason,
            "actor_kind": actor.kind,
            "actor_name": actor.name,
            "actor_user_id": actor.user_id,
        },
    )
