"""Whether there is money for a request, in each budget that is about it; and if there is, it is reserved.

Asked in the transaction that permits the request, with its job locked. Where one budget has no room, what others have
reserved is given back (to a savepoint).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from airflow_provider_aihandoff.core.admission.hold import Hold, Refusal
from airflow_provider_aihandoff.core.budgets.budget_spec import Budget, OnFull, usd
from airflow_provider_aihandoff.core.budgets.period import span_at
from airflow_provider_aihandoff.core.budgets.reservation_store import (
    PATIENCE,
    Request,
    expire,
    lock_stripes,
    take,
    take_locked,
    write_stripes,
)
from airflow_provider_aihandoff.core.budgets.stripes import STRIPES, Stripe, room, with_room
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.database.history import now
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.models import Job, Revision, columns

#: When a job that is held asks again by itself, at the latest: it is woken when there is room. It shows so that its
#: task has not ended, and keeps its place.
ASKS_AGAIN = timedelta(minutes=15)

_NOTHING = Decimal(0)

#: The kind of the error of a revision whose request was not sent since it could cost too much.
OVER = "over budget"

STATE_A_PRICE = (
    "Bound the request (max_output_tokens, max_tool_calls), or state the most that one can cost with unpriced= of its "
    "task; then clear the task."
)
_RAISE_LIMIT = "Raise max_cost_usd of its task, or bound the request with max_output_tokens; then clear the task."

_APPLYING = f"""
    SELECT {columns(Budget, "b")}, w.window_id, EXISTS (
        SELECT FROM aihandoff.revisions WHERE held_kind = 'budget' AND held_name = b.budget_id::text
            AND state IN ('queued', 'submitting')
            AND submit_lease_until > %(at)s - interval '{PATIENCE.total_seconds():.0f} s') AS waited_for
    FROM aihandoff.budgets AS b LEFT JOIN aihandoff.budget_windows AS w ON w.budget_id = b.budget_id
        AND w.closed_at IS NULL AND w.starts_at <= %(at)s AND (w.ends_at IS NULL OR w.ends_at > %(at)s)
    WHERE b.ended_at IS NULL AND (b.conn_id IS NULL OR b.conn_id = %(conn_id)s)
        AND (b.job_type IS NULL OR b.job_type = %(job_type)s) AND (b.dag_id IS NULL OR b.dag_id = %(dag_id)s)
        AND (b.requested_by IS NULL OR b.requested_by = %(requested_by)s)
        AND (b.tag IS NULL OR b.tag = ANY(%(tags)s::text[]))
    ORDER BY b.budget_id"""
_LOCK_BUDGET = f"SELECT {columns(Budget)} FROM aihandoff.budgets WHERE budget_id = %s FOR UPDATE"
_FIND_WINDOW = """
    SELECT window_id FROM aihandoff.budget_windows
    WHERE budget_id = %(budget_id)s AND closed_at IS NULL AND starts_at <= %(at)s
        AND (ends_at IS NULL OR ends_at > %(at)s)"""
_READ_STRIPES = f"SELECT {columns(Stripe)} FROM aihandoff.budget_stripes WHERE window_id = %s"
_INSERT_WINDOW = """
    INSERT INTO aihandoff.budget_windows (budget_id, starts_at, ends_at, amount_usd)
    VALUES (%(budget_id)s, %(starts_at)s, %(ends_at)s, %(amount_usd)s) RETURNING window_id"""
_INSERT_STRIPES = """
    INSERT INTO aihandoff.budget_stripes (window_id, stripe, allotted_usd)
    SELECT %s, stripe, allotted FROM unnest(%s::smallint[], %s::numeric[]) AS given (stripe, allotted)"""
_READ_WINDOW = """
    SELECT amount_usd + raised_usd AS amount, ends_at, closed_at FROM aihandoff.budget_windows WHERE window_id = %s"""
#: What the jobs need that go before, and still ask: those for whom a person waits, then those that came first. Their
#: place is that of their revision, so that they keep it whatever else holds them meanwhile. A revision that is not
#: there yet is one for which a person will wait.
_AHEAD = """
    SELECT count(*) AS jobs, coalesce(sum(worst_cost_usd), 0) AS need FROM aihandoff.revisions
    WHERE held_kind = 'budget' AND held_name = %(name)s AND state IN ('queued', 'submitting')
        AND submit_lease_until > %(at)s - %(patience)s::interval
        AND (priority = 'batch', revision_id) < (coalesce((
            SELECT priority = 'batch' FROM aihandoff.revisions WHERE revision_id = %(revision_id)s), false),
            %(revision_id)s)"""


#: What one job has cost until now. What is not known yet, or never will be, counts as the worst case.
_SPENT_BY_JOB = """
    SELECT
        (SELECT coalesce(sum(greatest(cost_usd, CASE WHEN coalesce(response_id, batch_id::text) IS NOT NULL
                AND (cost_usd IS NULL OR usage -> 'tool_calls' IS NOT NULL) THEN worst_cost_usd END, 0)
                + unknown_submissions * coalesce(worst_cost_usd, 0)), 0)
            FROM aihandoff.revisions WHERE job_id = %(job_id)s)
        + (SELECT coalesce(sum(coalesce(s.cost_usd, r.worst_cost_usd, 0)), 0)
            FROM aihandoff.surplus_responses AS s JOIN aihandoff.revisions AS r
                ON r.job_id = s.job_id AND r.number = s.revision WHERE s.job_id = %(job_id)s) AS spent,
        (SELECT count(*) FROM aihandoff.revisions
            WHERE job_id = %(job_id)s AND (cost_usd IS NULL OR usage -> 'tool_calls' IS NOT NULL)
                AND worst_cost_usd IS NULL
                AND (coalesce(response_id, batch_id::text) IS NOT NULL OR unknown_submissions > 0)) AS unknown"""
_KEEP_WORST_CASE = "UPDATE aihandoff.revisions SET worst_cost_usd = %s WHERE revision_id = %s"


def keep_worst_case(connection: LedgerConnection, revision: Revision, worst: WorstCase) -> None:
    """Write down what the request of a revision that is held can cost at most: others count with it."""
    if revision.worst_cost_usd != worst.cost_usd:
        connection.execute(_KEEP_WORST_CASE, [worst.cost_usd, revision.revision_id])


def reserve(
    connection: LedgerConnection, job: Job, revision: Revision, worst: WorstCase, *, token: UUID, at: datetime
) -> Hold | Refusal | None:
    """Reserve what a request can cost at most in each budget that is about it. None where all have room.

    The bound of the job itself (``max_cost_usd``) is one of them, for which nothing has to be reserved: its revisions
    say what it has cost.

    :param worst: what the request can need.
    :param token: of its permission, which names the reservation.
    :param at: the database's clock.
    """
    if job.max_cost_usd is not None and (refusal := _over_job_limit(connection, job, job.max_cost_usd, worst)):
        return refusal
    return _reserve(connection, job, revision, worst, token, at)


def _over_job_limit(connection: LedgerConnection, job: Job, limit: Decimal, worst: WorstCase) -> Refusal | None:
    """Why a request could make its job cost more than its author wants; None where it cannot."""
    row = connection.execute(_SPENT_BY_JOB, {"job_id": job.job_id}).fetchone()
    assert row is not None
    bound = f"the job is not to cost more than {usd(limit)} (max_cost_usd)"
    if worst.cost_usd is None:
        why = f"What this request can cost at most is not known ({worst.unknown or 'no one has said'}), and {bound}."
        return Refusal(OVER, why, STATE_A_PRICE)
    if row["unknown"]:
        return Refusal(OVER, f"What the job has cost until now is not known, and {bound}.", _RAISE_LIMIT)
    if row["spent"] + worst.cost_usd <= limit:
        return None
    spent = f", it has cost {usd(row['spent'])} until now" if row["spent"] else ""
    why = f"This request can cost up to {usd(worst.cost_usd)}{spent}, and {bound}."
    return Refusal(OVER, why, _RAISE_LIMIT)


def _reserve(
    connection: LedgerConnection, job: Job, revision: Revision, worst: WorstCase, token: UUID, at: datetime
) -> Hold | Refusal | None:
    """Reserve in all the budgets that are about a request, or in none."""
    rows = connection.execute(_APPLYING, _about(job, revision.conn_id, at)).fetchall()
    if not rows:
        return None
    if worst.cost_usd is None:
        return _unpriced(_budget(rows[0]), worst)
    request = Request(token, job.job_id, revision.number, worst.cost_usd, revision.deadline)
    if len(rows) == 1:
        return _reserve_in(connection, rows, request, revision, at)
    connection.execute("SAVEPOINT budgets")
    full = _reserve_in(connection, rows, request, revision, at)
    if full is not None:
        connection.execute("ROLLBACK TO SAVEPOINT budgets")
    return full


def _reserve_in(
    connection: LedgerConnection, rows: Sequence[dict[str, Any]], request: Request, revision: Revision, at: datetime
) -> Hold | Refusal | None:
    """Reserve in each of some budgets, as far as the first one that is full."""
    for row in rows:
        free = row["window_id"] is not None and not row["waited_for"]
        if free and take(connection, request, budget_id=row["budget_id"], window_id=row["window_id"]):
            continue
        full = _take_what_is_left(connection, _budget(row), request, revision, at)
        if full is not None:
            return full
    return None


def _about(job: Job, conn_id: str, at: datetime) -> dict[str, Any]:
    """What decides which budgets are about a request."""
    return {
        "at": at,
        "conn_id": conn_id,
        "job_type": job.job_type,
        "dag_id": job.dag_id,
        "requested_by": job.requested_by,
        "tags": job.tags,
    }


def _budget(row: dict[str, Any]) -> Budget:
    return Budget(**{name: value for name, value in row.items() if name not in ("window_id", "waited_for")})


def _unpriced(budget: Budget, worst: WorstCase) -> Refusal:
    why = (
        f"What this request can cost at most is not known ({worst.unknown or 'no one has said'}), and {budget.label} "
        "is about it."
    )
    return Refusal(OVER, why, STATE_A_PRICE)


def _take_what_is_left(
    connection: LedgerConnection, budget: Budget, request: Request, revision: Revision, at: datetime
) -> Hold | Refusal | None:
    """Reserve with all stripes locked: no stripe has room enough by itself, others wait, or the period is new."""
    while True:
        window_id = open_window(connection, budget, at=at)
        stripes = lock_stripes(connection, window_id)
        window = connection.execute(_READ_WINDOW, [window_id]).fetchone()
        assert window is not None
        if window["closed_at"] is None:
            break  # else the budget has got other periods while this one was waited for
    while expire(connection, window_id):
        stripes = lock_stripes(connection, window_id)
    if budget.on_full is not OnFull.WARN:
        values = {
            "name": str(budget.budget_id),
            "at": at,
            "patience": PATIENCE,
            "revision_id": revision.revision_id,
        }
        ahead = connection.execute(_AHEAD, values).fetchone()
        assert ahead is not None
        full = _full(budget, request.need, stripes, window, ahead, at)
        if full is not None:
            return full
    write_stripes(connection, window_id, with_room(stripes, request.need))
    take_locked(connection, request, budget_id=budget.budget_id, window_id=window_id)
    return None


def _full(
    budget: Budget,
    need: Decimal,
    stripes: Sequence[Stripe],
    window: dict[str, Any],
    ahead: dict[str, Any],
    at: datetime,
) -> Hold | Refusal | None:
    """Why a request has to wait, or cannot be sent at all. Pure."""
    amount, ends_at, left = window["amount"], window["ends_at"], max(_NOTHING, room(stripes))
    if need > amount:
        why = (
            f"This request can cost up to {usd(need)}, and {budget.label} has {usd(amount)} {budget.per}: it could "
            "never be sent."
        )
        return Refusal(OVER, why, "Raise the budget, or bound the request with max_output_tokens; then clear the task.")
    if left - ahead["need"] >= need:
        return None
    until = f" until {ends_at:%Y-%m-%d %H:%M} UTC" if ends_at is not None else ""
    queue = f" {ahead['jobs']} wait before it." if ahead["jobs"] else ""
    why = (
        f"This request can cost up to {usd(need)}, and {budget.label} has {usd(left)} of {usd(amount)} left"
        f"{until}.{queue}"
    )
    if budget.on_full is OnFull.FAIL:
        return Refusal(OVER, why, f"{budget.owner} can raise the budget; then clear the task.")
    more = f"at the latest at {ends_at:%Y-%m-%d %H:%M} UTC" if ends_at is not None else "or the budget is raised"
    asks = at + ASKS_AGAIN if ends_at is None else min(ends_at, at + ASKS_AGAIN)
    why = f"{why} It is sent when there is room, {more}. {budget.owner} can raise it."
    return Hold("budget", str(budget.budget_id), why, asks)


def open_window(connection: LedgerConnection, budget: Budget, *, at: datetime) -> int:
    """The period of a budget that a moment belongs to; made, with its stripes, where it is new.

    Locks the budget only where it is new, and before any stripe of it.
    """
    values = {"budget_id": budget.budget_id, "at": at}
    if (row := connection.execute(_FIND_WINDOW, values).fetchone()) is not None:
        return int(row["window_id"])
    return make_window(connection, lock_budget(connection, budget.budget_id), at=at)


def lock_budget(connection: LedgerConnection, budget_id: int) -> Budget:
    """A budget, kept from others until the transaction ends."""
    row = connection.execute(_LOCK_BUDGET, [budget_id]).fetchone()
    assert row is not None
    return Budget(**row)


def make_window(connection: LedgerConnection, budget: Budget, *, at: datetime) -> int:
    """The same, with the budget locked."""
    values = {"budget_id": budget.budget_id, "at": at}
    if (row := connection.execute(_FIND_WINDOW, values).fetchone()) is not None:
        return int(row["window_id"])
    span = span_at(budget.period, budget.time_zone, at)
    row = connection.execute(_INSERT_WINDOW, {**vars(budget), **vars(span)}).fetchone()
    assert row is not None
    empty = [Stripe(number, _NOTHING, _NOTHING, _NOTHING, _NOTHING) for number in range(STRIPES)]
    stripes = with_room(empty, _NOTHING, more=budget.amount_usd)
    numbers, allotted = [each.stripe for each in stripes], [each.allotted_usd for each in stripes]
    connection.execute(_INSERT_STRIPES, [row["window_id"], numbers, allotted])
    return int(row["window_id"])


def is_bound(connection: LedgerConnection, job: Job, conn_id: str) -> bool:
    """Whether a budget is about a request of a job over a connection now."""
    return bool(connection.execute(_APPLYING, _about(job, conn_id, now(connection))).fetchall())


def would_hold(
    connection: LedgerConnection, job: Job, conn_id: str, worst: WorstCase, *, at: datetime
) -> Hold | Refusal | None:
    """What :func:`reserve` would say to a request for a new revision of a job now. Reserves nothing, locks nothing.

    :param conn_id: the connection that the request would be sent over.
    """
    if job.max_cost_usd is not None and (refusal := _over_job_limit(connection, job, job.max_cost_usd, worst)):
        return refusal
    for row in connection.execute(_APPLYING, _about(job, conn_id, at)).fetchall():
        budget = _budget(row)
        if worst.cost_usd is None:
            return _unpriced(budget, worst)
        if budget.on_full is not OnFull.WARN and (full := _is_full(connection, budget, row["window_id"], worst, at)):
            return full
    return None


def _is_full(
    connection: LedgerConnection, budget: Budget, window_id: int | None, worst: WorstCase, at: datetime
) -> Hold | Refusal | None:
    """Whether a budget has no room for a request that would be the last in its queue."""
    assert worst.cost_usd is not None
    if window_id is None:  # nothing was asked for in this period yet
        window: dict[str, Any] = {"amount": budget.amount_usd, **vars(span_at(budget.period, budget.time_zone, at))}
        stripes = [Stripe(0, budget.amount_usd, _NOTHING, _NOTHING, _NOTHING)]
    else:
        window = connection.execute(_READ_WINDOW, [window_id]).fetchone() or {}
        stripes = [Stripe(**row) for row in connection.execute(_READ_STRIPES, [window_id]).fetchall()]
    queue = {"name": str(budget.budget_id), "at": at, "patience": PATIENCE, "revision_id": _LAST}
    ahead = connection.execute(_AHEAD, queue).fetchone()
    assert ahead is not None
    return _full(budget, worst.cost_usd, stripes, window, ahead, at)


#: Comes after each revision that there is.
_LAST = 2**63 - 1
