"""Writes down what the other side says about its limits, so that the whole fleet goes slower at once."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.models import columns
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, RateLimit
from airflow_provider_aihandoff.core.rates.slowdown import Heard, amount_now, base_after, is_news
from airflow_provider_aihandoff.core.text import plain

#: Shorter pauses are not written down: they are over when the next one asks.
_WORTH = 0.2

_MAKE = """
    INSERT INTO aihandoff.rate_limits (kind, name, measure, period) VALUES (%s, %s, 'requests', 60)
    ON CONFLICT (kind, name, measure) DO NOTHING"""
_LOCK = f"""
    SELECT {columns(RateLimit)}, clock_timestamp() AS at FROM aihandoff.rate_limits
    WHERE kind = %s AND name = %s AND measure = 'requests' FOR NO KEY UPDATE"""
_SLOW = """
    UPDATE aihandoff.rate_limits SET base = %(base)s, slowed_at = %(slowed_at)s, said = %(said)s,
        closed_until = greatest(closed_until, %(closed_until)s)
    WHERE limit_id = %(limit_id)s"""
_STATE = """
    UPDATE aihandoff.rate_limits SET stated = %(stated)s
    WHERE kind = %(kind)s AND name = %(name)s AND measure = 'requests' AND stated IS DISTINCT FROM %(stated)s"""
#: What was sent in the last seconds, by when its permission was given. What was refused is queued again.
_SENT = """
    SELECT (SELECT count(*) FROM aihandoff.revisions WHERE conn_id = %(name)s AND state IN ('submitting', 'running')
            AND batch_id IS NULL AND submitted_at > clock_timestamp() - %(period)s::interval)
        + (SELECT count(*) FROM aihandoff.revisions WHERE conn_id = %(name)s AND response_id IS NOT NULL
            AND batch_id IS NULL AND completed_at > clock_timestamp() - %(period)s::interval
            AND submitted_at > clock_timestamp() - %(period)s::interval) AS sent"""


def hear(connection: LedgerConnection, kind: LimitKind, name: str, heard: Heard | None) -> None:
    """Write down what an answer says about the limits of a connection, in the transaction that records the answer."""
    if heard is None:
        return
    if heard.requests is not None:
        connection.execute(_STATE, {"kind": kind, "name": name, "stated": heard.requests})
    if heard.too_much or heard.pause() >= _WORTH:
        _slow(connection, kind, name, heard)


def _slow(connection: LedgerConnection, kind: LimitKind, name: str, heard: Heard) -> None:
    connection.execute(_MAKE, [kind, name])
    row = connection.execute(_LOCK, [kind, name]).fetchone()
    assert row is not None
    at: datetime = row.pop("at")
    limit = RateLimit(**row)
    slowed_at, base = limit.slowed_at, limit.base
    was = None if slowed_at is None else slowed_at.timestamp()
    slowed_for = 0.0 if was is None else at.timestamp() - was
    assert limit.period is not None
    # What was written to a target is counted only where a limit is set: without one, it is asked for pauses alone.
    measured = kind is LimitKind.OPENAI or limit.amount is not None
    if heard.too_much and measured and is_news(at.timestamp(), was, limit.period):
        now = amount_now(None, base, was, at.timestamp())
        sent = limit.amount or 0 if kind is LimitKind.TARGET else _sent(connection, name, limit.period)
        base, slowed_at, slowed_for = base_after(now, sent, limit.period, heard.requests), at, 0.0
    pause = heard.pause(slowed_for if slowed_for < limit.period else 0.0)
    connection.execute(
        _SLOW,
        {
            "base": base,
            "slowed_at": slowed_at,
            "said": plain(heard.said)[:500] or None,
            "closed_until": at + timedelta(seconds=pause),
            "limit_id": limit.limit_id,
        },
    )


def _sent(connection: LedgerConnection, name: str, period: int) -> int:
    row = connection.execute(_SENT, {"name": name, "period": timedelta(seconds=period)}).fetchone()
    assert row is not None
    return int(row["sent"])
