"""Money is reserved before a request leaves, and settled or given back at each of its ends.

All of it happens in the transactions of the submit protocol that record these ends, so that no process can die between
the two. What may not be sent is decided in :mod:`.reserve`.

A reservation has one row for each budget that it counts for. Its request may bring a response at any time until
``expires_at``; a response that is known names its reservation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from airflow_provider_aihandoff.core.budgets.stripes import STRIPES, Stripe, shared_out, with_room
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.generation.lost import SEARCHED_FOR
from airflow_provider_aihandoff.core.models import columns

_NOTHING = Decimal(0)

#: How many waiting tasks are woken when there is room again. Each settlement, and each sweep, wakes more.
_WOKEN = 100

#: How long after its time one that waits is expected to ask, before it loses its place: its task may have ended.
PATIENCE = timedelta(minutes=2)


class ReservationState(StrEnum):
    """What has become of a reservation."""

    RESERVED = "reserved"
    SETTLED = "settled"  # its response has ended, and this is what it cost
    RELEASED = "released"  # its request was refused, or never sent
    EXPIRED = "expired"  # no response to its request was ever found, and none can run any longer


@dataclass(frozen=True)
class Reservation:
    """What one request has reserved in one budget.

    :param reservation: the same in each budget that it counts for.
    :param stripe: of the period ``window_id``.
    :param cost_usd: what counts as spent; None while it is not settled.
    :param assumed: the price is not known, so that what was reserved counts.
    """

    reservation: UUID
    budget_id: int
    window_id: int
    stripe: int
    job_id: int
    revision: int
    response_id: str | None
    amount_usd: Decimal
    cost_usd: Decimal | None
    assumed: bool
    state: ReservationState
    reserved_at: datetime
    expires_at: datetime
    ended_at: datetime | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", ReservationState(self.state))


_COLUMNS = columns(Reservation)
#: Each connection starts with another stripe, so that few meet at one.
_TAKE = f"""
    WITH free AS (
        SELECT stripe FROM aihandoff.budget_stripes
        WHERE window_id = %(window_id)s AND allotted_usd - reserved_usd - settled_usd >= %(need)s AND NOT EXISTS (
            SELECT FROM aihandoff.budget_stripes WHERE window_id = %(window_id)s AND beyond_usd > 0)
        ORDER BY (stripe + pg_backend_pid()) %% {STRIPES} LIMIT 1 FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE aihandoff.budget_stripes SET reserved_usd = reserved_usd + %(need)s
        WHERE window_id = %(window_id)s AND stripe = (SELECT stripe FROM free) RETURNING stripe
    )
    INSERT INTO aihandoff.budget_reservations (reservation, budget_id, window_id, stripe, job_id, revision, amount_usd,
        state, assumed, reserved_at, expires_at)
    SELECT %(reservation)s, %(budget_id)s, %(window_id)s, stripe, %(job_id)s, %(revision)s, %(need)s, 'reserved', false,
        clock_timestamp(), %(deadline)s::timestamptz + %(searched_for)s
    FROM taken"""
#: The same from the first stripe, with all of them locked, and enough room in it.
_TAKE_LOCKED = """
    WITH taken AS (
        UPDATE aihandoff.budget_stripes SET reserved_usd = reserved_usd + %(need)s
        WHERE window_id = %(window_id)s AND stripe = 0 RETURNING stripe
    )"""
_TAKE_LOCKED += _TAKE[_TAKE.index("\n    INSERT") :]
_LOCK_STRIPES = f"""
    SELECT {columns(Stripe)} FROM aihandoff.budget_stripes WHERE window_id = %s ORDER BY stripe FOR UPDATE"""
_LOCK_STRIPE = "SELECT FROM aihandoff.budget_stripes WHERE window_id = %(window_id)s AND stripe = %(stripe)s FOR UPDATE"
_LOCK_FREE_STRIPES = f"{_LOCK_STRIPES} SKIP LOCKED"
_WRITE_STRIPES = """
    UPDATE aihandoff.budget_stripes AS s SET allotted_usd = given.allotted, beyond_usd = given.beyond
    FROM unnest(%(stripes)s::smallint[], %(allotted)s::numeric[], %(beyond)s::numeric[])
        AS given (stripe, allotted, beyond)
    WHERE s.window_id = %(window_id)s AND s.stripe = given.stripe"""
#: Which reservation a response belongs to: its own; else that of the request which was sent first and has no response.
_OF_RESPONSE = f"""
    SELECT {_COLUMNS} FROM aihandoff.budget_reservations
    WHERE job_id = %(job_id)s AND revision = %(revision)s AND reservation = (
        SELECT reservation FROM aihandoff.budget_reservations
        WHERE job_id = %(job_id)s AND revision = %(revision)s AND state <> 'released'
            AND (response_id IS NULL OR response_id = %(response_id)s)
        ORDER BY response_id = %(response_id)s DESC NULLS LAST,
            array_position('{{reserved,settled,expired}}', state), reserved_at
        LIMIT 1)
    ORDER BY budget_id"""
_OPEN = f"""
    SELECT {_COLUMNS} FROM aihandoff.budget_reservations
    WHERE job_id = %(job_id)s AND revision = %(revision)s AND state = 'reserved' AND response_id IS NULL
        AND (%(token)s::uuid IS NULL OR reservation = %(token)s)
    ORDER BY budget_id"""
#: To that of the request which it answers, or of the one that was sent first; to none where one has the response.
_NAME_RESPONSE = """
    UPDATE aihandoff.budget_reservations SET response_id = %(response_id)s
    WHERE job_id = %(job_id)s AND revision = %(revision)s AND reservation = (
        SELECT reservation FROM aihandoff.budget_reservations
        WHERE job_id = %(job_id)s AND revision = %(revision)s AND state <> 'released' AND response_id IS NULL
        ORDER BY reservation = %(token)s DESC NULLS LAST, array_position('{reserved,settled,expired}', state),
            reserved_at
        LIMIT 1)
    AND NOT EXISTS (
        SELECT FROM aihandoff.budget_reservations
        WHERE job_id = %(job_id)s AND revision = %(revision)s AND response_id = %(response_id)s)"""
_EXPIRED = f"""
    SELECT {_COLUMNS} FROM aihandoff.budget_reservations
    WHERE state = 'reserved' AND expires_at < clock_timestamp() AND (%(window_id)s::bigint IS NULL
        OR window_id = %(window_id)s)
    ORDER BY expires_at LIMIT 1"""
_COUNT_EXPIRED = """
    SELECT count(*) AS number FROM aihandoff.budget_reservations
    WHERE state = 'reserved' AND expires_at < clock_timestamp()"""
#: Its stripe first, as all who change both.
_END = """
    WITH held AS MATERIALIZED (
        SELECT stripe FROM aihandoff.budget_stripes WHERE window_id = %(window_id)s AND stripe = %(stripe)s FOR UPDATE
    ), ended AS (
        UPDATE aihandoff.budget_reservations SET state = %(state)s, cost_usd = %(cost)s, assumed = %(assumed)s,
            response_id = coalesce(response_id, %(response_id)s), ended_at = clock_timestamp()
        FROM held WHERE reservation = %(reservation)s AND budget_id = %(budget_id)s AND window_id = %(window_id)s
            AND budget_reservations.stripe = held.stripe AND state = %(was)s RETURNING budget_id
    )
    UPDATE aihandoff.budget_stripes AS s SET reserved_usd = reserved_usd - %(freed)s,
        settled_usd = settled_usd + %(spent)s
    FROM ended WHERE s.window_id = %(window_id)s AND s.stripe = %(stripe)s
    RETURNING EXISTS (
            SELECT FROM aihandoff.budget_stripes WHERE window_id = %(window_id)s AND beyond_usd > 0) AS beyond,
        EXISTS (SELECT FROM aihandoff.revisions WHERE held_kind = 'budget' AND held_name = %(budget_id)s::text
            AND state IN ('queued', 'submitting')) AS waited_for"""
_REREAD = f"""
    SELECT {_COLUMNS} FROM aihandoff.budget_reservations WHERE reservation = %s AND budget_id = %s"""
#: Of each of these periods, those for whom there is room together, in their order. They keep their place until they
#: have asked, and for :data:`PATIENCE` at most: their task may have ended.
_ASK_NOW = f"""
    UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp() WHERE revision_id IN (
        SELECT revision_id FROM aihandoff.revisions WHERE submit_lease_until > clock_timestamp() AND revision_id IN (
            SELECT first.revision_id
            FROM aihandoff.budget_windows AS w
            CROSS JOIN LATERAL (
                SELECT sum(allotted_usd - reserved_usd - settled_usd - beyond_usd) AS usd
                FROM aihandoff.budget_stripes WHERE window_id = w.window_id) AS room
            CROSS JOIN LATERAL (
                SELECT revision_id, sum(worst_cost_usd) OVER (ORDER BY priority = 'batch', revision_id) AS need FROM (
                    SELECT revision_id, worst_cost_usd, priority FROM aihandoff.revisions
                    WHERE held_kind = 'budget' AND held_name = w.budget_id::text AND state IN ('queued', 'submitting')
                        AND submit_lease_until > clock_timestamp() - %(patience)s::interval
                    ORDER BY priority = 'batch', revision_id LIMIT {_WOKEN}) AS waiting) AS first
            WHERE {{}} AND first.need <= room.usd)
        FOR UPDATE SKIP LOCKED)
    RETURNING job_id"""
_ASK_NOW_OF_ONE = _ASK_NOW.format("w.window_id = %(window_id)s")

#: The same of all budgets that someone waits for: no event says that one who was before others no longer asks.
ASK_NOW_OF_ALL = _ASK_NOW.format("""w.closed_at IS NULL AND w.starts_at <= clock_timestamp()
                AND (w.ends_at IS NULL OR w.ends_at > clock_timestamp()) AND w.budget_id IN (
                    SELECT held_name::bigint FROM aihandoff.revisions
                    WHERE held_kind = 'budget' AND state IN ('queued', 'submitting'))""")


@dataclass(frozen=True)
class Request:
    """The request that is about to be sent, as far as budgets are concerned.

    :param need: what it may cost at most, in US dollars.
    :param deadline: of its revision.
    """

    reservation: UUID
    job_id: int
    revision: int
    need: Decimal
    deadline: datetime


def take(connection: LedgerConnection, request: Request, *, budget_id: int, window_id: int) -> bool:
    """Reserve what a request needs in one period of a budget. False where no stripe that is free has as much room."""
    values = {**vars(request), "budget_id": budget_id, "window_id": window_id, "searched_for": SEARCHED_FOR}
    return connection.execute(_TAKE, values).rowcount == 1


def take_locked(connection: LedgerConnection, request: Request, *, budget_id: int, window_id: int) -> None:
    """The same from the first stripe: all of them are locked, and it was given as much room."""
    values = {**vars(request), "budget_id": budget_id, "window_id": window_id, "searched_for": SEARCHED_FOR}
    connection.execute(_TAKE_LOCKED, values)


def lock_stripes(connection: LedgerConnection, window_id: int) -> list[Stripe]:
    """The stripes of a period, kept from others until the transaction ends."""
    return [Stripe(**row) for row in connection.execute(_LOCK_STRIPES, [window_id]).fetchall()]


def write_stripes(connection: LedgerConnection, window_id: int, stripes: Sequence[Stripe]) -> None:
    """Write what locked stripes were given."""
    values = {
        "window_id": window_id,
        "stripes": [each.stripe for each in stripes],
        "allotted": [each.allotted_usd for each in stripes],
        "beyond": [each.beyond_usd for each in stripes],
    }
    connection.execute(_WRITE_STRIPES, values)


def name_response(
    connection: LedgerConnection, job_id: int, revision: int, response_id: str, *, token: UUID | None
) -> None:
    """Write down whose response it is: until it is settled, its reservation stays.

    :param token: of the permission of the request that it answers; None where that is not known: it answers one whose
        answer was lost.
    """
    values = {"job_id": job_id, "revision": revision, "response_id": response_id, "token": token}
    connection.execute(_NAME_RESPONSE, values)


def settle(
    connection: LedgerConnection,
    job_id: int,
    revision: int,
    response_id: str | None,
    cost_usd: Decimal | None,
    *,
    usage: Mapping[str, Any] | None = None,
) -> None:
    """Count what a response has cost in place of what was reserved for it. Safe to repeat, with the same cost or a
    better one.

    :param response_id: None where it is not known: then it answers the first request of the revision without one.
    :param cost_usd: None where the price is not known: then what was reserved counts.
    :param usage: of the response. Where it names calls of tools that are in no price, at least what was reserved
        counts.
    """
    values = {"job_id": job_id, "revision": revision, "response_id": response_id}
    for row in connection.execute(_OF_RESPONSE, values).fetchall():
        found = Reservation(**row)
        is_part = bool((usage or {}).get("tool_calls"))
        known = None if cost_usd is None or (is_part and cost_usd <= found.amount_usd) else cost_usd
        if known is None and found.state is ReservationState.SETTLED:
            continue
        _end(connection, found, ReservationState.SETTLED, known, response_id=response_id)


def release(connection: LedgerConnection, job_id: int, revision: int, token: UUID | None) -> None:
    """Give back what a request has reserved that was refused, or never sent.

    :param token: of its permission; None for one in a batch: its revision has sent no other.
    """
    values = {"job_id": job_id, "revision": revision, "token": token}
    for row in connection.execute(_OPEN, values).fetchall():
        _end(connection, Reservation(**row), ReservationState.RELEASED, None)


def expire(connection: LedgerConnection, window_id: int | None = None) -> bool:
    """Give back what was reserved for a lost request whose response can no longer run, if there is one.

    A response that is known to have run, and of which nothing more was heard, counts as what was reserved for it.

    :param window_id: in this period alone, whose stripes are locked; None: in any.
    :return: whether there was one.
    """
    row = connection.execute(_EXPIRED, {"window_id": window_id}).fetchone()
    if row is None:
        return False
    found = Reservation(**row)
    connection.execute(_LOCK_STRIPE, vars(found))
    row = connection.execute(f"{_REREAD} FOR UPDATE", [found.reservation, found.budget_id]).fetchone()
    assert row is not None
    if Reservation(**row) != found:
        return True  # another one was sooner
    known = found.response_id is not None
    _end(connection, found, ReservationState.SETTLED if known else ReservationState.EXPIRED, None)
    return True


def _end(
    connection: LedgerConnection,
    found: Reservation,
    state: ReservationState,
    cost_usd: Decimal | None,
    *,
    response_id: str | None = None,
) -> None:
    """Move one reservation into a state, and the money with it."""
    settles = state is ReservationState.SETTLED
    counts = (found.amount_usd if cost_usd is None else cost_usd) if settles else _NOTHING
    while True:
        freed = found.amount_usd if found.state is ReservationState.RESERVED else _NOTHING
        spent = counts - (found.cost_usd or _NOTHING)
        if spent > freed:
            stripes = lock_stripes(connection, found.window_id)
            write_stripes(connection, found.window_id, with_room(stripes, spent - freed, at=found.stripe))
        values = {
            **vars(found),
            "was": found.state,
            "state": state,
            "cost": counts if settles else None,
            "assumed": settles and cost_usd is None,
            "response_id": response_id,
            "freed": freed,
            "spent": spent,
        }
        ended = connection.execute(_END, values).fetchone()
        if ended is not None:
            break
        row = connection.execute(_REREAD, [found.reservation, found.budget_id]).fetchone()
        assert row is not None
        if Reservation(**row) == found:
            raise AssertionError("a reservation without its stripe")
        found = Reservation(**row)  # the budget has got other periods meanwhile
    if spent < freed:
        if ended["beyond"]:
            _make_up(connection, found.window_id)
        if ended["waited_for"]:
            wake(connection, found.window_id)


def _make_up(connection: LedgerConnection, window_id: int) -> None:
    """Use the room that there is now to make up for what was spent beyond the amount.

    Waits for no one, since this transaction holds a stripe: where others hold some, the next one does it.
    """
    stripes = [Stripe(**row) for row in connection.execute(_LOCK_FREE_STRIPES, [window_id]).fetchall()]
    if len(stripes) == STRIPES:
        write_stripes(connection, window_id, shared_out(stripes))


def wake(connection: LedgerConnection, window_id: int) -> None:
    """Let the jobs ask again for which a period has room now, in their order. After the commit.

    A job that is being held at this moment is found by the triggerers' next sweep.
    """
    rows = connection.execute(_ASK_NOW_OF_ONE, {"window_id": window_id, "patience": PATIENCE}).fetchall()
    connection.woken.update(row["job_id"] for row in rows)


class Reservations:
    """What is reserved on one ledger, as the maintenance Dag sees it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def expired(self) -> int:
        """How many reservations there are that no response can need any longer."""
        row = self._database.transact(lambda connection: connection.execute(_COUNT_EXPIRED).fetchone())
        assert row is not None
        return int(row["number"])

    def expire(self) -> int:
        """Give back, for good, what no response can need any longer; return how many reservations that were."""
        ended = 0
        while self._database.transact(expire, step="budget.expire"):
            ended += 1
        return ended
