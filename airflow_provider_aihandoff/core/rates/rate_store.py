"""Asks the limits of speed for one request or one external write, in the transaction that permits it.

The rows of its limits are locked, in the order of their ids, until that transaction ends. So no two are permitted at
the same time, on whatever host. What is in flight is counted from what the ledger knows of responses and claims, so
that what has died takes up no room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.models import Effect, EffectPlan, Job, Revision, columns
from airflow_provider_aihandoff.core.moments import lasting, moment
from airflow_provider_aihandoff.core.rates.bucket import Bucket
from airflow_provider_aihandoff.core.rates.fair_order import (
    HERE,
    LATE,
    LATE_HERE,
    ON_ITS_WAY,
    Queue,
    Wait,
    row_after,
    to_wake,
    virtual_after,
    wait_for_room,
    wait_for_slot,
)
from airflow_provider_aihandoff.core.rates.rate_limit import (
    LimitKind,
    Measure,
    Priority,
    RateLimit,
    in_words,
    weight_of,
)
from airflow_provider_aihandoff.core.rates.slowdown import FACTOR, FORGOTTEN, STEP

#: After so long without being asked for less again, that is forgotten where no one has set a limit.
_REMEMBERED = timedelta(minutes=(FORGOTTEN - FACTOR) / STEP)

#: How long a response that no revision waits for may run.
_SURPLUS_RUNS = timedelta(days=1)

#: How many that wait are woken in one transaction. The others are woken by those that go.
_WOKEN_AT_ONCE = 200

_BUCKET = "next_at, newest_slice, slices, interactive_virtual, batch_virtual, in_a_row"
_LOCK = f"""
    SELECT {columns(RateLimit)}, {_BUCKET} FROM aihandoff.rate_limits
    WHERE ((kind = %(kind)s AND name = %(conn_id)s) OR (kind = 'key' AND name = %(rate_key)s))
        AND (amount IS NOT NULL OR closed_until > clock_timestamp()
            OR slowed_at > clock_timestamp() - %(remembered)s::interval)
        AND (measure <> 'tokens' OR %(tokens)s > 0)
    ORDER BY limit_id FOR NO KEY UPDATE"""
#: One row: the clock, the tag of the one that asks, and who else waits.
_QUEUE = """
    WITH others AS (
        SELECT wait_id, priority, tag, flow, weight, here, asks_at FROM aihandoff.rate_waits
        WHERE limit_id = %(limit_id)s
            AND (revision_id = %(revision_id)s OR effect_id = %(effect_id)s) IS NOT TRUE
            AND asks_at > clock_timestamp() - CASE WHEN here THEN %(late_here)s::interval ELSE %(late)s::interval END
    ), own AS (
        SELECT wait_id, tag FROM aihandoff.rate_waits
        WHERE limit_id = %(limit_id)s AND (revision_id = %(revision_id)s OR effect_id = %(effect_id)s)
    ), mine AS (
        SELECT coalesce((SELECT tag FROM own), %(size)s::float8 / %(weight)s::float8 + greatest(%(virtual)s::float8,
                (SELECT max(tag) FROM others WHERE priority = %(priority)s AND flow = %(flow)s))) AS tag,
            coalesce((SELECT wait_id FROM own), 9223372036854775807) AS wait_id
    )
    SELECT clock_timestamp() AS at, mine.tag AS tag,
        count(*) FILTER (WHERE ahead) AS ahead, count(*) FILTER (WHERE ahead AND here) AS ahead_here,
        count(*) FILTER (WHERE other) AS others, count(*) FILTER (WHERE other AND here) AS others_here,
        count(*) FILTER (WHERE here OR (asks_at > clock_timestamp() - %(on_its_way)s::interval
            AND asks_at <= clock_timestamp() + %(here)s::interval)) AS coming,
        count(wait) AS waiting, count(*) FILTER (WHERE priority = 'batch') AS batches,
        (SELECT coalesce(sum(weight), 0)::float8 FROM (
            SELECT max(weight) AS weight FROM others WHERE priority = %(priority)s AND flow <> %(flow)s GROUP BY flow
        ) AS flows) AS weights
    FROM mine LEFT JOIN LATERAL (
        SELECT wait_id AS wait, here, asks_at, priority, priority <> %(priority)s AS other,
            priority = %(priority)s AND (others.tag, others.wait_id) < (mine.tag, mine.wait_id) AS ahead
        FROM others
    ) AS them ON true
    GROUP BY mine.tag"""
_SINCE = "SELECT since FROM aihandoff.rate_waits WHERE revision_id = %(revision_id)s OR effect_id = %(effect_id)s"
_WAITS_NO_LONGER = """
    DELETE FROM aihandoff.rate_waits WHERE revision_id = %(revision_id)s OR effect_id = %(effect_id)s"""
_TAKE = """
    UPDATE aihandoff.rate_limits SET next_at = %(next_at)s, newest_slice = %(newest)s, slices = %(counts)s,
        interactive_virtual = %(interactive)s, batch_virtual = %(batch)s, in_a_row = %(in_a_row)s
    WHERE limit_id = %(limit_id)s"""
_KEEP = """
    INSERT INTO aihandoff.rate_waits
        (limit_id, job_id, revision_id, effect_id, priority, flow, weight, tag, since, asks_at, here)
    VALUES (%(limit_id)s, %(job_id)s, %(revision_id)s, %(effect_id)s, %(priority)s, %(flow)s, %(weight)s, %(tag)s,
        clock_timestamp(), %(asks_at)s, %(here)s)
    ON CONFLICT ({}) DO UPDATE SET limit_id = excluded.limit_id, priority = excluded.priority, flow = excluded.flow,
        weight = excluded.weight, tag = excluded.tag, asks_at = excluded.asks_at, here = excluded.here"""
_WAKE = """
    UPDATE aihandoff.rate_waits SET asks_at = clock_timestamp()
    WHERE wait_id IN (
        SELECT wait_id FROM aihandoff.rate_waits
        WHERE limit_id = %(limit_id)s AND NOT here AND asks_at > clock_timestamp()
        ORDER BY priority = 'batch', tag, wait_id LIMIT %(number)s FOR UPDATE SKIP LOCKED)
    RETURNING job_id, revision_id, effect_id"""
#: What another transaction has locked is being moved: it is not waiting, or asks again by itself.
_ASK_REQUESTS_AGAIN = """
    UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp()
    WHERE revision_id IN (
        SELECT revision_id FROM aihandoff.revisions WHERE revision_id = ANY(%s) AND held_kind = 'rate'
            AND state IN ('queued', 'submitting') AND submit_lease_until > clock_timestamp() FOR UPDATE SKIP LOCKED)"""
_ASK_WRITES_AGAIN = """
    UPDATE aihandoff.effects SET held_until = clock_timestamp()
    WHERE effect_id IN (
        SELECT effect_id FROM aihandoff.effects WHERE effect_id = ANY(%s) AND held_kind = 'rate'
            AND held_until > clock_timestamp() FOR UPDATE SKIP LOCKED)"""
_WITH_SLOTS = """
    SELECT limit_id FROM aihandoff.rate_limits
    WHERE measure = 'in flight' AND ((kind = %(kind)s AND name = %(conn_id)s) OR (kind = 'key' AND name = %(rate_key)s))
        AND EXISTS (SELECT FROM aihandoff.rate_waits WHERE rate_waits.limit_id = rate_limits.limit_id)"""
_IN_FLIGHT_OF = """
    SELECT (SELECT count(*) FROM aihandoff.revisions WHERE {request} AND state IN ('submitting', 'running')
            AND deadline > clock_timestamp() AND revision_id IS DISTINCT FROM %(revision_id)s)
        + (SELECT count(*) FROM aihandoff.revisions WHERE {request} AND state = 'cancelled'
            AND response_id IS NOT NULL AND completed_at IS NULL AND deadline > clock_timestamp())
        + (SELECT count(*) FROM aihandoff.surplus_responses WHERE {surplus} AND settled_at IS NULL
            AND created_at > clock_timestamp() - %(surplus_runs)s::interval)
        + (SELECT count(*) FROM aihandoff.effects WHERE {write} AND state = 'claimed'
            AND claim_until > clock_timestamp() AND effect_id IS DISTINCT FROM %(effect_id)s) AS in_use"""
_IN_FLIGHT = {
    LimitKind.OPENAI: _IN_FLIGHT_OF.format(request="conn_id = %(name)s", surplus="conn_id = %(name)s", write="false"),
    LimitKind.TARGET: _IN_FLIGHT_OF.format(request="false", surplus="false", write="conn_id = %(name)s"),
    LimitKind.KEY: _IN_FLIGHT_OF.format(request="rate_key = %(name)s", surplus="false", write="rate_key = %(name)s"),
}


@dataclass(frozen=True)
class Ask:
    """One request, or one external write, that may be sent if its limits let it through.

    :param kind: of its connection.
    :param tokens: how many it may need at most; 0 of a write.
    :param flow: what shares a weight: a job type of a requester.
    """

    kind: LimitKind
    conn_id: str | None
    rate_key: str | None
    job_id: int
    revision_id: int | None
    effect_id: int | None
    priority: Priority
    job_type: str
    requester: str
    tokens: int
    max_wait: timedelta | None

    @classmethod
    def of_request(cls, job: Job, revision: Revision, tokens: int) -> Ask:
        """The request of a revision.

        :param tokens: how many it may need at most.
        """
        return cls(
            kind=LimitKind.OPENAI,
            conn_id=revision.conn_id,
            rate_key=revision.rate_key,
            job_id=job.job_id,
            revision_id=revision.revision_id,
            effect_id=None,
            priority=Priority(revision.priority),
            job_type=job.job_type,
            requester=job.requested_by,
            tokens=tokens,
            max_wait=revision.max_wait,
        )

    @classmethod
    def of_write(cls, job: Job, effect: Effect, plan: EffectPlan) -> Ask:
        """The write of an effect.

        :param plan: as its task has it now.
        """
        return cls(
            kind=LimitKind.TARGET,
            conn_id=connection_of(effect),
            rate_key=plan.rate_key,
            job_id=job.job_id,
            revision_id=None,
            effect_id=effect.effect_id,
            priority=Priority(plan.priority),
            job_type=job.job_type,
            requester=job.requested_by,
            tokens=0,
            max_wait=None,
        )

    @property
    def flow(self) -> str:
        """What shares a weight."""
        return f"{self.job_type}\n{self.requester}"


def connection_of(effect: Effect) -> str | None:
    """The connection of an effect's target; None where its plan names none."""
    conn_id = effect.plan.get("connection")
    return conn_id if isinstance(conn_id, str) else None


@dataclass(frozen=True)
class RateHold:
    """It waits for a limit.

    :param tag: its place in the order.
    :param why: a sentence for people.
    """

    ask: Ask
    limit: RateLimit
    wait: Wait
    tag: float
    why: str

    @property
    def until(self) -> datetime:
        """When it asks again."""
        return datetime.fromtimestamp(self.wait.until, UTC)


@dataclass(frozen=True)
class RateRefusal:
    """It is never sent.

    :param why: a sentence for people.
    :param remedy: what to do, as a sentence.
    """

    why: str
    remedy: str


@dataclass(frozen=True)
class _Asked:
    """A limit that was asked, with its bucket."""

    limit: RateLimit
    bucket: Bucket
    virtual: dict[Priority, float]
    in_a_row: int
    amount: int | None
    size: int
    queue: Queue
    at: float
    tag: float


def take(connection: LedgerConnection, ask: Ask) -> RateHold | RateRefusal | None:
    """Take what one request needs of each of its limits; or say which one holds it, and take nothing.

    The caller has locked its job, and moves it in the same transaction, or calls :func:`keep_wait`.
    """
    values = {
        "kind": ask.kind,
        "conn_id": ask.conn_id,
        "rate_key": ask.rate_key,
        "tokens": ask.tokens,
        "remembered": _REMEMBERED,
    }
    rows = connection.execute(_LOCK, values).fetchall()
    asked = []
    for row in rows:
        one = _ask(connection, ask, row)
        if one.amount is not None and 0 < one.amount < one.size and one.limit.amount == one.amount:
            return RateRefusal(
                f"The request may need {one.size} {one.limit.measure.value}, and the limit is "
                f"{one.limit.words} ({one.limit.called}): it could never be sent.",
                "Raise the limit, or let the request need less (max_output_tokens); then clear the task.",
            )
        wait = _wait(connection, ask, one)
        if wait is not None:
            hold = RateHold(ask, one.limit, wait, one.tag, _why(one, wait))
            return _waited_too_long(connection, hold, one) or hold
        asked.append(one)
    if asked:
        connection.execute(_WAITS_NO_LONGER, {"revision_id": ask.revision_id, "effect_id": ask.effect_id})
    for one in asked:
        _take(connection, ask, one)
    return None


def keep_wait(connection: LedgerConnection, hold: RateHold) -> None:
    """Write down that something waits for a limit, and when it asks again."""
    ask = hold.ask
    column = "revision_id" if ask.effect_id is None else "effect_id"
    connection.execute(
        _KEEP.format(column),
        {
            "limit_id": hold.limit.limit_id,
            "job_id": ask.job_id,
            "revision_id": ask.revision_id,
            "effect_id": ask.effect_id,
            "priority": ask.priority,
            "flow": ask.flow,
            "weight": _weight(ask, hold.limit),
            "tag": hold.tag,
            "asks_at": hold.until,
            "here": hold.wait.here,
        },
    )


def wake(connection: LedgerConnection, limit_id: int, number: int) -> None:
    """Let the next ones ask that wait in the triggerer, in their order.

    :param number: how many.
    """
    rows: Sequence[dict[str, Any]] = ()
    if number > 0:
        values = {"limit_id": limit_id, "number": min(number, _WOKEN_AT_ONCE)}
        rows = connection.execute(_WAKE, values).fetchall()
    if rows:
        connection.execute(_ASK_REQUESTS_AGAIN, [[row["revision_id"] for row in rows]])
        connection.execute(_ASK_WRITES_AGAIN, [[row["effect_id"] for row in rows]])
        connection.woken.update(row["job_id"] for row in rows)


def slot_freed(connection: LedgerConnection, kind: LimitKind, conn_id: str | None, rate_key: str | None) -> None:
    """Let the next one ask for each limit on what is in flight that this has counted for: it has ended."""
    values = {"kind": kind, "conn_id": conn_id, "rate_key": rate_key}
    for row in connection.execute(_WITH_SLOTS, values).fetchall():
        wake(connection, row["limit_id"], 1)


def in_use(connection: LedgerConnection, limit: RateLimit, ask: Ask | None = None) -> int:
    """How much is in flight of what a limit counts.

    :param ask: which is not counted itself.
    """
    values = {
        "name": limit.name,
        "revision_id": ask.revision_id if ask else None,
        "effect_id": ask.effect_id if ask else None,
        "surplus_runs": _SURPLUS_RUNS,
    }
    row = connection.execute(_IN_FLIGHT[limit.kind], values).fetchone()
    assert row is not None
    return int(row["in_use"])


def _ask(connection: LedgerConnection, ask: Ask, row: dict[str, Any]) -> _Asked:
    own = ("next_at", "newest_slice", "slices", "interactive_virtual", "batch_virtual", "in_a_row")
    limit = RateLimit(**{name: value for name, value in row.items() if name not in own})
    virtual = {Priority.INTERACTIVE: row["interactive_virtual"], Priority.BATCH: row["batch_virtual"]}
    size = ask.tokens if limit.measure is Measure.TOKENS else 1
    queue = connection.execute(
        _QUEUE,
        {
            "limit_id": limit.limit_id,
            "revision_id": ask.revision_id,
            "effect_id": ask.effect_id,
            "priority": ask.priority,
            "flow": ask.flow,
            "size": size,
            "weight": _weight(ask, limit),
            "virtual": virtual[ask.priority],
            "late_here": timedelta(seconds=LATE_HERE),
            "late": timedelta(seconds=LATE),
            "here": timedelta(seconds=HERE),
            "on_its_way": timedelta(seconds=ON_ITS_WAY),
        },
    ).fetchone()
    assert queue is not None
    at = queue["at"].timestamp()
    counts = ("ahead", "ahead_here", "others", "others_here", "coming", "waiting", "batches", "weights")
    return _Asked(
        limit,
        Bucket(row["next_at"], row["newest_slice"], tuple(row["slices"])),
        virtual,
        row["in_a_row"],
        limit.amount_at(at),
        size,
        Queue(**{name: queue[name] for name in counts}, in_a_row=row["in_a_row"]),
        at,
        queue["tag"],
    )


def _wait(connection: LedgerConnection, ask: Ask, one: _Asked) -> Wait | None:
    limit = one.limit
    if limit.period is None:
        assert one.amount is not None
        return wait_for_slot(one.amount, in_use(connection, limit, ask), one.at, ask.priority, one.queue)
    closed = 0.0 if limit.closed_until is None else limit.closed_until.timestamp()
    if one.amount is None:
        return None if closed <= one.at else Wait(closed, closed <= one.at + HERE, one.queue.ahead, closed)
    return wait_for_room(one.bucket, one.amount, limit.period, one.size, one.at, ask.priority, one.queue, closed)


def _take(connection: LedgerConnection, ask: Ask, one: _Asked) -> None:
    limit, bucket, priority, per_second = one.limit, one.bucket, ask.priority, 1.0
    if limit.period is not None:
        amount = one.amount if one.amount is not None else 0
        bucket = bucket.take(amount, limit.period, one.size, one.at) if amount else bucket
        per_second = amount / one.size / limit.period if amount else _WOKEN_AT_ONCE
    weights = one.queue.weights + _weight(ask, limit)
    virtual = {**one.virtual, priority: virtual_after(one.virtual[priority], one.size, weights)}
    connection.execute(
        _TAKE,
        {
            "next_at": bucket.next_at,
            "newest": bucket.newest,
            "counts": list(bucket.counts),
            "interactive": virtual[Priority.INTERACTIVE],
            "batch": virtual[Priority.BATCH],
            "in_a_row": row_after(priority, one.in_a_row, batch_waits=one.queue.batches > 0),
            "limit_id": limit.limit_id,
        },
    )
    if one.queue.waiting:
        wake(connection, limit.limit_id, to_wake(per_second, one.queue))


def _weight(ask: Ask, limit: RateLimit) -> float:
    return weight_of(limit.weights, ask.job_type, ask.requester)


def _waited_too_long(connection: LedgerConnection, hold: RateHold, one: _Asked) -> RateRefusal | None:
    if hold.ask.max_wait is None:
        return None
    ids = {"revision_id": hold.ask.revision_id, "effect_id": hold.ask.effect_id}
    row = connection.execute(_SINCE, ids).fetchone()
    if row is None or one.at - row["since"].timestamp() < hold.ask.max_wait.total_seconds():
        return None
    return RateRefusal(
        f"It has waited for {lasting(hold.ask.max_wait)}, as long as its author allows (max_wait), for a limit: "
        f"{hold.limit.words} ({hold.limit.called}).",
        "Raise the limit, or max_wait; then clear the task.",
    )


def _why(one: _Asked, wait: Wait) -> str:
    """Why it waits, as a sentence for people."""
    limit = one.limit
    if limit.amount == 0:
        return f"It waits: a limit of 0 has stopped the {limit.called}."
    before = f"{wait.before} before it" if wait.before else "it is the next"
    when = "" if wait.earliest is None else f"; it goes on at {_time(wait.earliest)} at the earliest"
    if limit.closed_until is not None and limit.closed_until.timestamp() > one.at:
        said = f" ({limit.said})" if limit.said else ""
        return f"It waits: the other side has asked for a pause on the connection {limit.name}{said}; {before}{when}."
    learned = limit.amount is None or (one.amount is not None and one.amount < limit.amount)
    words = in_words(limit.measure, one.amount, limit.period)
    asked = ", since the other side has asked for less" if learned and limit.period is not None else ""
    return f"It waits for a limit, {words} ({limit.called}){asked}; {before}{when}."


def _time(at: float) -> str:
    return moment(datetime.fromtimestamp(at, UTC))
