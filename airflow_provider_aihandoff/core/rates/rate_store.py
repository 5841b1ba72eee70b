"""Asks the limits of speed for one request or one external write, in the transaction that permits it.

All processes ask the same rows, so each is kept as short as can be: :func:`ask` reads the limits and who else waits,
and locks nothing; what may go by that is permitted, and as the last step of its transaction :func:`take` locks the
rows, asks again of what is free now, and takes it. So no two are permitted at the same time, on whatever host. What is
in flight is counted from what the ledger knows of responses and claims, so that what has died takes up no room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
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
    WAKE_AHEAD,
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

#: How many that wait are woken in one transaction. Where a limit still holds, the others are woken by those that go.
WOKEN_AT_ONCE = 200

#: When one asks again that found room only after it was held, in seconds.
AGAIN_AT_ONCE = 0.5

_LIMIT_FIELDS = tuple(field.name for field in fields(RateLimit))
_BUCKET = "next_at, newest_slice, slices, interactive_virtual, batch_virtual, in_a_row"
_READ = f"""
    SELECT {columns(RateLimit)}, {_BUCKET}, clock_timestamp() AS at, EXISTS (
        SELECT FROM aihandoff.rate_waits AS w WHERE w.limit_id = rate_limits.limit_id) AS waited_for
    FROM aihandoff.rate_limits
    WHERE ((kind = %(kind)s AND name = %(conn_id)s) OR (kind = 'key' AND name = %(rate_key)s))
        AND (amount IS NOT NULL OR closed_until > clock_timestamp()
            OR slowed_at > clock_timestamp() - %(remembered)s::interval)
        AND (measure <> 'tokens' OR %(tokens)s > 0)"""
#: Those on what is in flight come first: a step that ends something locks these alone, before a row of the others. The
#: clock is read when all are locked.
_LOCK = f"""
    SELECT locked.*, clock_timestamp() AS at FROM (
        SELECT {columns(RateLimit)}, {_BUCKET} FROM aihandoff.rate_limits WHERE limit_id = ANY(%s)
        ORDER BY measure <> 'in flight', limit_id FOR NO KEY UPDATE OFFSET 0) AS locked"""
#: For each limit one row: the tag of the one that asks, and who else waits.
_QUEUE = """
    SELECT asked.limit_id, queue.*
    FROM unnest(%(ids)s::bigint[], %(sizes)s::float8[], %(weights)s::float8[], %(virtual)s::float8[])
        AS asked (limit_id, size, weight, virtual)
    CROSS JOIN LATERAL (
        WITH others AS (
            SELECT wait_id, priority, tag, flow, weight, here, asks_at,
                NOT here AND asks_at <= clock_timestamp() - %(ahead)s::interval AS late
            FROM aihandoff.rate_waits
            WHERE limit_id = asked.limit_id
                AND (revision_id = %(revision_id)s OR effect_id = %(effect_id)s) IS NOT TRUE
                AND asks_at > clock_timestamp() - CASE WHEN here THEN %(late_here)s::interval
                    ELSE %(late)s::interval END
        ), own AS (
            SELECT wait_id, tag FROM aihandoff.rate_waits
            WHERE limit_id = asked.limit_id AND (revision_id = %(revision_id)s OR effect_id = %(effect_id)s)
        ), mine AS (
            SELECT coalesce((SELECT tag FROM own), asked.size / asked.weight + greatest(asked.virtual,
                    (SELECT max(tag) FROM others WHERE priority = %(priority)s AND flow = %(flow)s))) AS tag,
                coalesce((SELECT wait_id FROM own), 9223372036854775807) AS wait_id
        )
        SELECT mine.tag AS tag,
            count(*) FILTER (WHERE ahead) AS ahead, count(*) FILTER (WHERE ahead AND here) AS ahead_here,
            count(*) FILTER (WHERE other) AS others, count(*) FILTER (WHERE other AND here) AS others_here,
            count(*) FILTER (WHERE here) AS here,
            count(*) FILTER (WHERE NOT here AND NOT late
                AND asks_at <= clock_timestamp() + %(here)s::interval) AS on_the_way,
            count(*) FILTER (WHERE late AND asks_at > clock_timestamp() - 2 * %(ahead)s::interval) AS missing,
            count(wait) AS waiting, count(*) FILTER (WHERE priority = 'batch') AS batches,
            (SELECT coalesce(sum(weight), 0)::float8 FROM (
                SELECT max(weight) AS weight FROM others WHERE priority = %(priority)s AND flow <> %(flow)s
                GROUP BY flow) AS flows) AS weights
        FROM mine LEFT JOIN LATERAL (
            SELECT wait_id AS wait, here, late, asks_at, priority, priority <> %(priority)s AS other,
                priority = %(priority)s AND (others.tag, others.wait_id) < (mine.tag, mine.wait_id) AS ahead
            FROM others
        ) AS them ON true
        GROUP BY mine.tag
    ) AS queue"""
_SINCE = "SELECT since FROM aihandoff.rate_waits WHERE revision_id = %(revision_id)s OR effect_id = %(effect_id)s"
_TAKE = """
    UPDATE aihandoff.rate_limits AS it SET next_at = taken.next_at, newest_slice = taken.newest,
        slices = taken.slices::bigint[], interactive_virtual = taken.interactive, batch_virtual = taken.batch,
        in_a_row = taken.in_a_row
    FROM unnest(%(limit_id)s::bigint[], %(next_at)s::float8[], %(newest)s::bigint[], %(slices)s::text[],
        %(interactive)s::float8[], %(batch)s::float8[], %(in_a_row)s::smallint[])
        AS taken (limit_id, next_at, newest, slices, interactive, batch, in_a_row)
    WHERE it.limit_id = taken.limit_id"""
_KEEP = """
    INSERT INTO aihandoff.rate_waits
        (limit_id, job_id, revision_id, effect_id, priority, flow, weight, tag, since, asks_at, here)
    VALUES (%(limit_id)s, %(job_id)s, %(revision_id)s, %(effect_id)s, %(priority)s, %(flow)s, %(weight)s, %(tag)s,
        clock_timestamp(), %(asks_at)s, %(here)s)
    ON CONFLICT ({}) DO UPDATE SET limit_id = excluded.limit_id, priority = excluded.priority, flow = excluded.flow,
        weight = excluded.weight, tag = excluded.tag, asks_at = excluded.asks_at, here = excluded.here"""
_WAKE = """
    UPDATE aihandoff.rate_waits SET asks_at = clock_timestamp()
    WHERE wait_id = ANY(ARRAY(
        SELECT wait_id FROM aihandoff.rate_waits
        WHERE limit_id = %(limit_id)s AND NOT here AND asks_at > clock_timestamp()
        ORDER BY priority = 'batch', tag, wait_id LIMIT %(number)s FOR UPDATE SKIP LOCKED))
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
_LOCK_SLOTS = f"""
    SELECT {columns(RateLimit)} FROM aihandoff.rate_limits
    WHERE measure = 'in flight' AND ((kind = %(kind)s AND name = %(conn_id)s) OR (kind = 'key' AND name = %(rate_key)s))
    ORDER BY limit_id FOR NO KEY UPDATE"""
_WAITING_FOR_SLOTS = """
    SELECT count(*) AS waiting, count(*) FILTER (WHERE asks_at <= clock_timestamp()
        AND asks_at > clock_timestamp() - %(ahead)s::interval) AS on_the_way
    FROM aihandoff.rate_waits WHERE limit_id = %(limit_id)s"""
_IN_FLIGHT_OF = """
    SELECT (SELECT count(*) FROM aihandoff.revisions WHERE {request} AND state IN ('submitting', 'running')
            AND batch_id IS NULL AND deadline > clock_timestamp() AND revision_id IS DISTINCT FROM %(revision_id)s)
        + (SELECT count(*) FROM aihandoff.revisions WHERE {request} AND state = 'cancelled'
            AND response_id IS NOT NULL AND batch_id IS NULL AND completed_at IS NULL AND deadline > clock_timestamp())
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
class Asked:
    """A limit that was asked, with its bucket, and who else waits."""

    limit: RateLimit
    bucket: Bucket
    virtual: dict[Priority, float]
    size: int
    queue: Queue
    at: float
    tag: float

    @property
    def amount(self) -> int | None:
        """How much goes through in a period now, or at once."""
        return self.limit.amount_at(self.at)


def ask(connection: LedgerConnection, ask: Ask, *, held: bool = False) -> RateHold | RateRefusal | list[Asked]:
    """Whether one request may go by all of its limits, as they are at this moment. Nothing is taken.

    :param held: it was held just now: what is in flight is counted here, too.
    :return: the limits that :func:`take` asks again; or which one holds it: the caller calls :func:`keep_wait` then.
    """
    values = {
        "kind": ask.kind,
        "conn_id": ask.conn_id,
        "rate_key": ask.rate_key,
        "tokens": ask.tokens,
        "remembered": _REMEMBERED,
    }
    rows = connection.execute(_READ, values).fetchall()
    asked = _asked(connection, ask, rows) if rows else []
    for one in asked:
        if one.amount is not None and 0 < one.amount < one.size and one.limit.amount == one.amount:
            return RateRefusal(
                f"The request may need {one.size} {one.limit.measure.value}, and the limit is "
                f"{one.limit.words} ({one.limit.called}): it could never be sent.",
                "Raise the limit, or let the request need less (max_output_tokens); then clear the task.",
            )
    slots = [one for one in asked if one.limit.period is None]
    timed = [one for one in asked if one.limit.period is not None]
    if not held and not any(row["waited_for"] for row in rows):
        # What is in flight is then counted once, when its row is locked: at most the first one that has to wait for it
        # is permitted in vain.
        checked = timed
    elif any(_wait(connection, ask, one) for one in slots):
        # What is in flight ends with these rows locked: so no one waits for what has ended just now.
        checked = asked = [*_locked(connection, slots), *timed]
    else:
        checked = asked
    for one in checked:
        wait = _wait(connection, ask, one)
        if wait is not None:
            return _hold(connection, ask, one, wait)
    return asked


def take(connection: LedgerConnection, ask: Ask, asked: Sequence[Asked]) -> RateHold | RateRefusal | None:
    """Take what one request needs of each of its limits, as the last step of the transaction that permits it.

    :param asked: what :func:`ask` has returned.
    :return: which limit holds it, since another one was sooner; nothing is taken then. The caller undoes the
        permission, and calls :func:`keep_wait`.
    """
    if not asked:
        return None
    now = _locked(connection, asked)
    for one in now:
        wait = _wait(connection, ask, one)
        if wait is not None:
            return _hold(connection, ask, one, wait)
    taken = [_taken(ask, one) for one in now]
    connection.execute(_TAKE, {name: [row[name] for row in taken] for name in taken[0]})
    for one in now:
        if one.queue.waiting and one.limit.period is None:
            wake_for_slots(connection, one.limit)
        elif one.queue.waiting:
            wake(connection, one.limit.limit_id, to_wake(_per_second(one), one.queue))
    return None


def still_held(connection: LedgerConnection, hold: RateHold) -> RateHold | RateRefusal:
    """What holds it now that its permission is undone, and the locks with it.

    Those on what is in flight are taken again until the transaction ends: so what ends from now on sees that this one
    waits, and it sees what has ended before.
    """
    if hold.limit.period is not None:
        return hold
    now = ask(connection, hold.ask, held=True)
    if not isinstance(now, list):
        return now
    return replace(hold, wait=replace(hold.wait, until=now[0].at + AGAIN_AT_ONCE)) if now else hold


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


def wake(connection: LedgerConnection, limit_id: int, number: int) -> int:
    """Let the next ones ask that wait in the triggerer, in their order.

    :param number: how many; :data:`WOKEN_AT_ONCE` at most.
    :return: how many there were.
    """
    rows: Sequence[dict[str, Any]] = ()
    if number > 0:
        values = {"limit_id": limit_id, "number": min(number, WOKEN_AT_ONCE)}
        rows = connection.execute(_WAKE, values).fetchall()
    if rows:
        connection.execute(_ASK_REQUESTS_AGAIN, [[row["revision_id"] for row in rows]])
        connection.execute(_ASK_WRITES_AGAIN, [[row["effect_id"] for row in rows]])
        connection.woken.update(row["job_id"] for row in rows)
    return len(rows)


def slot_freed(connection: LedgerConnection, kind: LimitKind, conn_id: str | None, rate_key: str | None) -> None:
    """Let the next ones ask for each limit on what is in flight that this has counted for: it has ended."""
    values = {"kind": kind, "conn_id": conn_id, "rate_key": rate_key}
    for row in connection.execute(_LOCK_SLOTS, values).fetchall():
        wake_for_slots(connection, RateLimit(**row))


def wake_for_slots(connection: LedgerConnection, limit: RateLimit) -> None:
    """Let as many ask for a limit on what is in flight as there is room for, also what one that died has left."""
    values = {"limit_id": limit.limit_id, "ahead": timedelta(seconds=WAKE_AHEAD)}
    row = connection.execute(_WAITING_FOR_SLOTS, values).fetchone()
    if row is None or not row["waiting"]:
        return
    free = WOKEN_AT_ONCE if limit.amount is None else max(0, limit.amount - in_use(connection, limit))
    wake(connection, limit.limit_id, max(min(free, 1), free - row["on_the_way"]))


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


def _asked(connection: LedgerConnection, ask: Ask, rows: Sequence[dict[str, Any]]) -> list[Asked]:
    """The limits that have been read, with who else waits for them."""
    limits = [_limit(row) for row in rows]
    sizes = [ask.tokens if limit.measure is Measure.TOKENS else 1 for limit in limits]
    tags, queues = _queues(connection, ask, rows, limits, sizes)
    return [
        Asked(
            limit,
            _bucket(row),
            _virtual(row),
            size,
            replace(queues[limit.limit_id], in_a_row=row["in_a_row"]),
            at,
            tags[limit.limit_id],
        )
        for limit, row, size in zip(limits, rows, sizes, strict=True)
        if (at := row["at"].timestamp())
    ]


def _queues(
    connection: LedgerConnection,
    ask: Ask,
    rows: Sequence[dict[str, Any]],
    limits: Sequence[RateLimit],
    sizes: Sequence[int],
) -> tuple[dict[int, float], dict[int, Queue]]:
    """The tag of the one that asks, and who else waits, for each limit that has been read."""
    ids, weights = [limit.limit_id for limit in limits], [_weight(ask, limit) for limit in limits]
    virtual = [_virtual(row)[ask.priority] for row in rows]
    if not any(row["waited_for"] for row in rows):
        tags = [size / weight + each for size, weight, each in zip(sizes, weights, virtual, strict=True)]
        return dict(zip(ids, tags, strict=True)), dict.fromkeys(ids, Queue())
    values = {
        "ids": ids,
        "sizes": [float(size) for size in sizes],
        "weights": weights,
        "virtual": virtual,
        "revision_id": ask.revision_id,
        "effect_id": ask.effect_id,
        "priority": ask.priority,
        "flow": ask.flow,
        "late_here": timedelta(seconds=LATE_HERE),
        "late": timedelta(seconds=LATE),
        "here": timedelta(seconds=HERE),
        "ahead": timedelta(seconds=WAKE_AHEAD),
    }
    found = connection.execute(_QUEUE, values).fetchall()
    known = {queue.pop("limit_id"): (queue.pop("tag"), Queue(**queue)) for queue in found}
    return {each: tag for each, (tag, _) in known.items()}, {each: queue for each, (_, queue) in known.items()}


def _locked(connection: LedgerConnection, asked: Sequence[Asked]) -> list[Asked]:
    """The same limits as they are now. Another one that asks for one of them waits until this transaction ends."""
    known = {one.limit.limit_id: one for one in asked}
    rows = connection.execute(_LOCK, [list(known)]).fetchall()
    return [
        replace(
            one,
            limit=_limit(row),
            bucket=_bucket(row),
            virtual=_virtual(row),
            queue=replace(one.queue, in_a_row=row["in_a_row"]),
            at=row["at"].timestamp(),
        )
        for row in rows
        if (one := known[row["limit_id"]])
    ]


def _limit(row: dict[str, Any]) -> RateLimit:
    return RateLimit(**{name: row[name] for name in _LIMIT_FIELDS})


def _bucket(row: dict[str, Any]) -> Bucket:
    return Bucket(row["next_at"], row["newest_slice"], tuple(row["slices"]))


def _virtual(row: dict[str, Any]) -> dict[Priority, float]:
    return {Priority.INTERACTIVE: row["interactive_virtual"], Priority.BATCH: row["batch_virtual"]}


def _hold(connection: LedgerConnection, ask: Ask, one: Asked, wait: Wait) -> RateHold | RateRefusal:
    hold = RateHold(ask, one.limit, wait, one.tag, _why(one, wait))
    return _waited_too_long(connection, hold, one) or hold


def _wait(connection: LedgerConnection, ask: Ask, one: Asked) -> Wait | None:
    limit = one.limit
    if limit.period is None:
        if one.amount is None:  # it has been ended meanwhile
            return None
        return wait_for_slot(one.amount, in_use(connection, limit, ask), one.at, ask.priority, one.queue)
    closed = 0.0 if limit.closed_until is None else limit.closed_until.timestamp()
    if one.amount is None:
        return None if closed <= one.at else Wait(closed, closed <= one.at + HERE, one.queue.ahead, closed)
    return wait_for_room(one.bucket, one.amount, limit.period, one.size, one.at, ask.priority, one.queue, closed)


def _taken(ask: Ask, one: Asked) -> dict[str, Any]:
    """The bucket of a limit after one has gone, as columns."""
    limit, bucket, priority = one.limit, one.bucket, ask.priority
    if limit.period is not None and one.amount:
        bucket = bucket.take(one.amount, limit.period, one.size, one.at)
    weights = one.queue.weights + _weight(ask, limit)
    virtual = {**one.virtual, priority: virtual_after(one.virtual[priority], one.size, weights)}
    return {
        "next_at": bucket.next_at,
        "newest": bucket.newest,
        "slices": f"{{{','.join(map(str, bucket.counts))}}}",
        "interactive": virtual[Priority.INTERACTIVE],
        "batch": virtual[Priority.BATCH],
        "in_a_row": row_after(priority, one.queue.in_a_row, batch_waits=one.queue.batches > 0),
        "limit_id": limit.limit_id,
    }


def _per_second(one: Asked) -> float:
    """How many such requests a second can go now, of a limit that has a period."""
    assert one.limit.period is not None
    return WOKEN_AT_ONCE if not one.amount else one.amount / one.size / one.limit.period


def _weight(ask: Ask, limit: RateLimit) -> float:
    return weight_of(limit.weights, ask.job_type, ask.requester)


def _waited_too_long(connection: LedgerConnection, hold: RateHold, one: Asked) -> RateRefusal | None:
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


def _why(one: Asked, wait: Wait) -> str:
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
