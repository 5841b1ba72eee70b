"""The budgets of a ledger: made, changed, raised for once and ended, each by a person, for a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg

from airflow_provider_aihandoff.core.admission.hold import Hold, Refusal
from airflow_provider_aihandoff.core.admission.hold_store import release
from airflow_provider_aihandoff.core.amounts import checked_amount
from airflow_provider_aihandoff.core.budgets.budget_spec import (
    Budget,
    BudgetEvent,
    BudgetSpec,
    Use,
    checked_why,
    usd,
)
from airflow_provider_aihandoff.core.budgets.period import Span, span_at
from airflow_provider_aihandoff.core.budgets.reservation_store import lock_stripes, wake, write_stripes
from airflow_provider_aihandoff.core.budgets.reserve import is_bound, lock_budget, make_window, would_hold
from airflow_provider_aihandoff.core.budgets.stripes import shared_out
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.database.history import as_json
from airflow_provider_aihandoff.core.errors import BudgetNotFound, BudgetRefused
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.models import Actor, Job, columns
from airflow_provider_aihandoff.core.text import plain

_NOTHING = Decimal(0)

_INSERT = f"""
    INSERT INTO aihandoff.budgets (name, conn_id, job_type, dag_id, requested_by, tag, amount_usd, period, time_zone,
        thresholds, on_full, owner, created_at)
    VALUES (%(name)s, %(conn_id)s, %(job_type)s, %(dag_id)s, %(requested_by)s, %(tag)s, %(amount_usd)s, %(period)s,
        %(time_zone)s, %(thresholds)s, %(on_full)s, %(owner)s, clock_timestamp())
    RETURNING {columns(Budget)}"""
#: By its id; else by the name of one that has not ended, or of the one that has ended last.
_FIND = f"""
    SELECT {columns(Budget)} FROM aihandoff.budgets WHERE budget_id::text = %(which)s OR name = %(which)s
    ORDER BY (budget_id::text = %(which)s) DESC, (ended_at IS NULL) DESC, budget_id DESC LIMIT 1"""
_LIST = f"""
    SELECT {columns(Budget)} FROM aihandoff.budgets WHERE %(ended)s OR ended_at IS NULL
    ORDER BY (ended_at IS NOT NULL), name, budget_id DESC LIMIT %(limit)s"""
_UPDATE = f"""
    UPDATE aihandoff.budgets SET amount_usd = %(amount_usd)s, period = %(period)s, time_zone = %(time_zone)s,
        thresholds = %(thresholds)s, on_full = %(on_full)s, owner = %(owner)s
    WHERE budget_id = %(budget_id)s RETURNING {columns(Budget)}"""
_END = f"UPDATE aihandoff.budgets SET ended_at = clock_timestamp() WHERE budget_id = %s RETURNING {columns(Budget)}"
_RECORD_EVENT = """
    INSERT INTO aihandoff.budget_events (budget_id, seq, at, event, why, detail, actor_kind, actor_name, actor_user_id)
    SELECT %(budget_id)s, coalesce(max(seq), 0) + 1, clock_timestamp(), %(event)s, %(why)s, %(detail)s, %(kind)s,
        %(name)s, %(user_id)s
    FROM aihandoff.budget_events WHERE budget_id = %(budget_id)s"""
_EVENTS = f"SELECT {columns(BudgetEvent)} FROM aihandoff.budget_events WHERE budget_id = %s ORDER BY seq"
#: Of more room, each threshold is another amount: it is notified again.
_RAISE_WINDOW = """
    UPDATE aihandoff.budget_windows SET raised_usd = raised_usd + %s, notified = '{}' WHERE window_id = %s"""
_CHANGE_WINDOW = """
    UPDATE aihandoff.budget_windows SET amount_usd = %(amount_usd)s,
        notified = CASE WHEN amount_usd = %(amount_usd)s THEN notified ELSE '{}' END
    WHERE window_id = %(window_id)s"""
_USES = """
    SELECT w.budget_id, w.starts_at, w.ends_at, w.amount_usd + w.raised_usd AS amount_usd, w.raised_usd,
        sum(s.settled_usd) AS settled_usd, sum(s.reserved_usd) AS reserved_usd, sum(s.beyond_usd) AS beyond_usd,
        (SELECT coalesce(sum(r.cost_usd), 0) FROM aihandoff.budget_reservations AS r
            WHERE r.window_id = w.window_id AND r.assumed) AS assumed_usd
    FROM aihandoff.budget_windows AS w JOIN aihandoff.budget_stripes AS s USING (window_id)
    WHERE w.budget_id = ANY(%(ids)s) AND w.closed_at IS NULL AND (%(all)s OR (
        w.starts_at <= %(at)s AND (w.ends_at IS NULL OR w.ends_at > %(at)s)))
    GROUP BY w.window_id ORDER BY w.starts_at DESC LIMIT %(limit)s"""
_HELD = """
    SELECT held_name, count(*) AS jobs, min(held_since) AS since FROM aihandoff.revisions
    WHERE held_kind = 'budget' AND held_name = ANY(%s) AND state IN ('queued', 'submitting') GROUP BY held_name"""
_WAITED_FOR = f"""
    SELECT {columns(Budget)} FROM aihandoff.budgets
    WHERE budget_id IN (
            SELECT held_name::bigint FROM aihandoff.revisions
            WHERE held_kind = 'budget' AND state IN ('queued', 'submitting'))
        AND (%(dag_ids)s::text[] IS NULL OR dag_id IS NULL OR dag_id = ANY(%(dag_ids)s))
    ORDER BY name, budget_id"""
#: The dearest of the newest requests in a scope, as far as they are known.
_DEAREST = """
    SELECT max(worst_cost_usd) AS worst FROM (
        SELECT r.worst_cost_usd FROM aihandoff.revisions AS r JOIN aihandoff.jobs AS j USING (job_id)
        WHERE r.worst_cost_usd IS NOT NULL AND (%(conn_id)s::text IS NULL OR r.conn_id = %(conn_id)s)
            AND (%(job_type)s::text IS NULL OR j.job_type = %(job_type)s)
            AND (%(dag_id)s::text IS NULL OR j.dag_id = %(dag_id)s)
            AND (%(requested_by)s::text IS NULL OR j.requested_by = %(requested_by)s)
            AND (%(tag)s::text IS NULL OR %(tag)s = ANY(j.tags))
        ORDER BY r.revision_id DESC LIMIT 1000) AS newest"""
#: What of the reservations of a budget belongs to a new period of it, in one stripe.
_MOVE_RESERVATIONS = """
    UPDATE aihandoff.budget_reservations SET window_id = %(window_id)s, stripe = 0
    WHERE window_id = ANY(%(old)s) AND reserved_at >= %(starts_at)s"""
#: What a period has used, by its reservations.
_RECOUNT = """
    UPDATE aihandoff.budget_stripes AS s SET reserved_usd = used.reserved, settled_usd = used.settled,
        allotted_usd = used.reserved + used.settled, beyond_usd = 0
    FROM (
        SELECT each.stripe, coalesce(sum(r.amount_usd) FILTER (WHERE r.state = 'reserved'), 0) AS reserved,
            coalesce(sum(r.cost_usd), 0) AS settled
        FROM aihandoff.budget_stripes AS each LEFT JOIN aihandoff.budget_reservations AS r
            ON r.window_id = each.window_id AND r.stripe = each.stripe
        WHERE each.window_id = %(window_id)s GROUP BY each.stripe
    ) AS used
    WHERE s.window_id = %(window_id)s AND s.stripe = used.stripe"""
#: Also those that an earlier change has closed: what came before it is still there.
_WINDOWS_SINCE = """
    SELECT window_id FROM aihandoff.budget_windows WHERE budget_id = %(budget_id)s
        AND (ends_at IS NULL OR ends_at > %(starts_at)s) ORDER BY window_id"""
#: The current period of each of these budgets, and which thresholds were notified in it.
_NOTIFIED = """
    SELECT budget_id, window_id, notified FROM aihandoff.budget_windows
    WHERE budget_id = ANY(%(ids)s) AND closed_at IS NULL AND starts_at <= %(at)s
        AND (ends_at IS NULL OR ends_at > %(at)s)"""
_NOTIFY = "UPDATE aihandoff.budget_windows SET notified = %s WHERE window_id = %s"
_CLOSE = """
    UPDATE aihandoff.budget_windows SET closed_at = coalesce(closed_at, clock_timestamp())
    WHERE window_id = ANY(%s)"""


@dataclass(frozen=True)
class BudgetView:
    """A budget as it is now.

    :param use: of the current period.
    :param held: jobs that wait for room in it, and since when the first of them does.
    """

    budget: Budget
    use: Use
    held: int
    held_since: datetime | None
    at: datetime


@dataclass(frozen=True)
class Reached:
    """A threshold of a budget that is reached in its current period, and was not notified yet.

    :param threshold: the highest such percentage.
    """

    view: BudgetView
    window_id: int
    threshold: int


class Budgets:
    """The budgets of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, spec: BudgetSpec, *, why: str, actor: Actor) -> Budget:
        """Make a budget. It is kept from now on: what was sent before does not count for it.

        :raises BudgetRefused: there is one of that name, or there is no reason.
        """
        why = checked_why(plain(why))

        def work(connection: LedgerConnection) -> Budget:
            values = {**vars(spec), **vars(spec.scope), "thresholds": list(spec.thresholds)}
            row = connection.execute(_INSERT, values).fetchone()
            assert row is not None
            budget = Budget(**row)
            _record(connection, budget, "added", why, actor, _as_detail(budget))
            return budget

        try:
            return self._database.transact(work, step="budget.change")
        except psycopg.errors.UniqueViolation:
            raise BudgetRefused(
                f"there is a budget {spec.name!r} already.",
                field="name",
                written="Nothing was changed.",
                remedy="Change that one, end it, or choose another name.",
            ) from None

    def change(self, which: str, *, why: str, actor: Actor, **changes: Any) -> Budget:
        """Change an amount, a period, a time zone, thresholds, the owner, or what happens when it is full.

        A new amount holds for the current period at once. With other periods, what was spent and reserved since the
        current one of them began counts for it.

        :param which: the name or the id.
        :param changes: checked values, by the fields of :class:`Budget`.
        :raises BudgetNotFound: there is none.
        :raises BudgetRefused: it has ended, nothing changes, or there is no reason.
        """
        why = checked_why(plain(why))

        def work(connection: LedgerConnection) -> Budget:
            old = _lock(connection, which)
            new = replace(old, **changes)
            if new == old:
                raise BudgetRefused(f"{old.label} is like that already.", remedy="Say what is to be changed.")
            row = connection.execute(_UPDATE, vars(new)).fetchone()
            assert row is not None
            new = Budget(**row)
            at = history.now(connection)
            if (new.period, new.time_zone) != (old.period, old.time_zone):
                window_id = _change_period(connection, new, at)
            else:
                window_id = make_window(connection, old, at=at)
                _give(connection, window_id, new.amount_usd - old.amount_usd)
                connection.execute(_CHANGE_WINDOW, {**vars(new), "window_id": window_id})
            now, before = _as_detail(new), _as_detail(old)
            detail = {name: value for name, value in now.items() if value != before[name]}
            _record(connection, new, "changed", why, actor, detail)
            if new.on_full is old.on_full:
                wake(connection, window_id)
            else:
                release(connection, "budget", str(new.budget_id))
            return new

        return self._database.transact(work, step="budget.change")

    def raise_once(self, which: str, amount: Decimal, *, why: str, actor: Actor, seen: int | None = None) -> Budget:
        """Give more for the current period alone, and wake the jobs that wait.

        :param seen: how many lines of its history the person saw: a form that is sent twice counts once.
        :raises BudgetNotFound: there is none.
        :raises BudgetRefused: it has ended, or changed since it was seen; the amount is none, or there is no reason.
        """
        amount, why = checked_amount(amount), checked_why(plain(why))

        def work(connection: LedgerConnection) -> Budget:
            budget = _lock(connection, which)
            if seen is not None and seen != len(connection.execute(_EVENTS, [budget.budget_id]).fetchall()):
                raise BudgetRefused("it has changed since you opened it.", remedy="Check it again, then raise it.")
            window_id = make_window(connection, budget, at=history.now(connection))
            _give(connection, window_id, amount)
            connection.execute(_RAISE_WINDOW, [amount, window_id])
            _record(connection, budget, "raised", why, actor, {"added_usd": str(amount)})
            wake(connection, window_id)
            return budget

        return self._database.transact(work, step="budget.change")

    def end(self, which: str, *, why: str, actor: Actor) -> Budget:
        """End a budget: no request asks it any longer. What is reserved in it is settled as ever, for the record.

        :raises BudgetNotFound: there is none.
        :raises BudgetRefused: it has ended, or there is no reason.
        """
        why = checked_why(plain(why))

        def work(connection: LedgerConnection) -> Budget:
            budget = _lock(connection, which)
            row = connection.execute(_END, [budget.budget_id]).fetchone()
            assert row is not None
            _record(connection, budget, "ended", why, actor, {})
            release(connection, "budget", str(budget.budget_id))
            return Budget(**row)

        return self._database.transact(work, step="budget.change")

    def find(self, *, ended: bool = False, limit: int = 1000) -> list[BudgetView]:
        """Return the budgets with what is used of their current period, by name.

        :param ended: those too that have ended, after the others.
        """

        def work(connection: LedgerConnection) -> list[BudgetView]:
            rows = connection.execute(_LIST, {"ended": ended, "limit": limit}).fetchall()
            return _views(connection, [Budget(**row) for row in rows])

        return self._database.transact(work)

    def bound(self, job: Job, conn_id: str) -> bool:
        """Whether a budget, or its own ``max_cost_usd``, is about a request of a job.

        :param conn_id: the connection that it would be sent over.
        """
        if job.max_cost_usd is not None:
            return True
        return self._database.transact(lambda connection: is_bound(connection, job, conn_id))

    def waited_for(self, dag_ids: Sequence[str] | None) -> list[BudgetView]:
        """Return the budgets for which jobs wait, by name.

        :param dag_ids: only those that are about one of these Dags; None for every Dag.
        """

        def work(connection: LedgerConnection) -> list[BudgetView]:
            values = {"dag_ids": None if dag_ids is None else list(dag_ids)}
            return _views(connection, [Budget(**row) for row in connection.execute(_WAITED_FOR, values).fetchall()])

        return self._database.transact(work)

    def read(self, which: str) -> BudgetView:
        """Return one budget as it is now.

        :param which: the name or the id.
        :raises BudgetNotFound: there is none.
        """
        return self._database.transact(lambda connection: _views(connection, [_find(connection, which)])[0])

    def periods(self, budget_id: int, limit: int = 31) -> list[Use]:
        """Return what was used of the periods of a budget, the newest first."""

        def work(connection: LedgerConnection) -> list[Use]:
            values = {"ids": [budget_id], "all": True, "at": None, "limit": limit}
            return [_use(row) for row in connection.execute(_USES, values).fetchall()]

        return self._database.transact(work)

    def reached(self) -> list[Reached]:
        """Return what is to be notified: of each budget the highest threshold that is reached, once a period."""

        def work(connection: LedgerConnection) -> list[Reached]:
            rows = connection.execute(_LIST, {"ended": False, "limit": None}).fetchall()
            views = {view.budget.budget_id: view for view in _views(connection, [Budget(**row) for row in rows])}
            values = {"ids": list(views), "at": history.now(connection)}
            found = []
            for row in connection.execute(_NOTIFIED, values).fetchall():
                view = views[row["budget_id"]]
                passed = [each for each in view.budget.thresholds if each <= view.use.percent]
                if passed and max(passed) not in row["notified"]:
                    found.append(Reached(view, row["window_id"], max(passed)))
            return found

        return self._database.transact(work)

    def notified(self, reached: Reached) -> None:
        """Record that people were notified of a threshold, and so of the lower ones too."""
        passed = [each for each in reached.view.budget.thresholds if each <= reached.threshold]
        values = [passed, reached.window_id]
        self._database.transact(lambda connection: connection.execute(_NOTIFY, values), step="budget.notify")

    def events(self, budget_id: int) -> list[BudgetEvent]:
        """Return the history of a budget, the oldest line first."""

        def work(connection: LedgerConnection) -> list[BudgetEvent]:
            return [BudgetEvent(**row) for row in connection.execute(_EVENTS, [budget_id]).fetchall()]

        return self._database.transact(work)

    def would_hold(self, job: Job, conn_id: str, worst: WorstCase) -> Hold | Refusal | None:
        """Return what would keep one more request of a job from being sent now: a budget, or its own bound.

        Reserves nothing: others may be sooner.

        :param conn_id: the connection that the request would be sent over.
        """
        return self._database.transact(
            lambda connection: would_hold(connection, job, conn_id, worst, at=history.now(connection))
        )

    def warning(self, budget: Budget) -> str | None:
        """Why no request like those of late would ever be sent within a budget; None where nothing is known of that."""

        def work(connection: LedgerConnection) -> str | None:
            row = connection.execute(_DEAREST, vars(budget.scope)).fetchone()
            assert row is not None
            if row["worst"] is None or row["worst"] <= budget.amount_usd:
                return None
            return (
                f"One request in this scope could cost up to {usd(row['worst'])} of late, more than the budget has: "
                "such a request is refused."
            )

        return self._database.transact(work)


def _find(connection: LedgerConnection, which: str) -> Budget:
    row = connection.execute(_FIND, {"which": plain(str(which))}).fetchone()
    if row is None:
        raise BudgetNotFound(
            f"the ledger has no budget {which!r}.", remedy="`airflow aihandoff budgets list` shows the ones it has."
        )
    return Budget(**row)


def _lock(connection: LedgerConnection, which: str) -> Budget:
    """A budget that has not ended, kept from others."""
    budget = lock_budget(connection, _find(connection, which).budget_id)
    if budget.ended_at is not None:
        raise BudgetRefused(
            f"{budget.label} has ended.", remedy="Add another one; its name is free.", written="Nothing was changed."
        )
    return budget


def _give(connection: LedgerConnection, window_id: int, more: Decimal) -> None:
    """Give a period more, or less: what is used of it stays used."""
    write_stripes(connection, window_id, shared_out(lock_stripes(connection, window_id), more=more))


def _change_period(connection: LedgerConnection, budget: Budget, at: datetime) -> int:
    """Begin the current period of a budget that got other ones, with what was spent since then, and return its id.

    Waits for every request that reserves at the moment: each one holds a stripe of what is closed.
    """
    span = span_at(budget.period, budget.time_zone, at)
    rows = connection.execute(_WINDOWS_SINCE, {**vars(budget), **vars(span)}).fetchall()
    old = [row["window_id"] for row in rows]
    for window_id in old:
        lock_stripes(connection, window_id)
    connection.execute(_CLOSE, [old])
    window_id = make_window(connection, budget, at=at)
    connection.execute(_MOVE_RESERVATIONS, {"window_id": window_id, "old": old, **vars(span)})
    for each in (*old, window_id):
        connection.execute(_RECOUNT, {"window_id": each})
    _give(connection, window_id, budget.amount_usd - _used(connection, window_id))
    return window_id


def _used(connection: LedgerConnection, window_id: int) -> Decimal:
    """What the stripes of a period have used: as much as they were given, after a recount."""
    return sum((each.allotted_usd for each in lock_stripes(connection, window_id)), _NOTHING)


def _record(
    connection: LedgerConnection, budget: Budget, event: str, why: str, actor: Actor, detail: Mapping[str, Any]
) -> None:
    who = {"kind": actor.kind.value, "name": actor.name, "user_id": actor.user_id}
    values = {"budget_id": budget.budget_id, "event": event, "why": why, "detail": as_json(dict(detail)), **who}
    connection.execute(_RECORD_EVENT, values)


def _as_detail(budget: Budget) -> dict[str, Any]:
    """What was decided about a budget, as its history keeps it."""
    keep: Mapping[str, Callable[[Any], Any]] = {"amount_usd": str}
    left_out = {"budget_id", "created_at", "ended_at"}
    return {
        name: keep.get(name, lambda same: same)(value) for name, value in vars(budget).items() if name not in left_out
    }


def _views(connection: LedgerConnection, budgets: list[Budget]) -> list[BudgetView]:
    at = history.now(connection)
    ids = [budget.budget_id for budget in budgets]
    uses = {
        row["budget_id"]: _use(row)
        for row in connection.execute(_USES, {"ids": ids, "all": False, "at": at, "limit": None}).fetchall()
    }
    held = {row["held_name"]: row for row in connection.execute(_HELD, [[str(each) for each in ids]]).fetchall()}
    views = []
    for budget in budgets:
        waiting = held.get(str(budget.budget_id), {})
        use = uses.get(budget.budget_id) or _unused(budget, span_at(budget.period, budget.time_zone, at))
        views.append(BudgetView(budget, use, waiting.get("jobs", 0), waiting.get("since"), at))
    return views


def _use(row: Mapping[str, Any]) -> Use:
    return Use(**{name: value for name, value in row.items() if name != "budget_id"})


def _unused(budget: Budget, span: Span) -> Use:
    """The use of a period in which nothing was asked for yet."""
    return Use(span.starts_at, span.ends_at, budget.amount_usd, _NOTHING, _NOTHING, _NOTHING, _NOTHING)
