"""`airflow aihandoff limits`: limits of speed, and what waits for them."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from airflow.models.connection import Connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_aihandoff.cli.common import actor, check_reason, command, fail, open_ledger, print_rows, say
from airflow_provider_aihandoff.core.rates.rate_limit import (
    PERIODS,
    LimitKind,
    Measure,
    RateLimit,
    checked_limit,
    checked_weights,
)
from airflow_provider_aihandoff.core.rates.rate_limit_store import LimitState


@command
def list_limits(args: Namespace) -> None:
    """List the limits in force, how much of each is used, and how many wait for it."""
    with open_ledger(args) as ledger:
        print_rows([_row(each) for each in ledger.rate_limits.find()], args.output)


@command
def set_limit(args: Namespace) -> None:
    """Set limits, or change them."""
    check_reason(args.reason)
    kind, name = _what(args)
    amounts = _amounts(args)
    if not amounts:
        fail("give --requests, --tokens or --in-flight.")
    weights = None if args.weight is None else dict(map(_weight, args.weight))
    per = None if args.per is None else PERIODS[args.per]
    periods = {measure: None if measure is Measure.IN_FLIGHT else per for measure in amounts}
    for measure, amount in amounts.items():  # all of them, before the first is set
        checked_limit(kind, name, measure, amount, periods[measure])
    checked_weights(weights or {})
    with open_ledger(args) as ledger:
        for measure, amount in amounts.items():
            limit = ledger.rate_limits.set(
                kind, name, measure, amount, period=periods[measure], weights=weights, reason=args.reason, actor=actor()
            )
            say(f"The limit is {limit.words} ({limit.called}), from the next request on.")
    if kind is not LimitKind.KEY:
        _warn_of_unknown(name)


@command
def end_limit(args: Namespace) -> None:
    """End limits."""
    check_reason(args.reason)
    kind, name = _what(args)
    with open_ledger(args) as ledger:
        found = [each.limit.measure for each in ledger.rate_limits.find() if _is(each, kind, name)]
        if not args.measure and not found:
            fail(f"there is no limit on {name!r}. Nothing was ended. `airflow aihandoff limits list` names all.")
        for measure in args.measure or found:
            ended = ledger.rate_limits.end(kind, name, Measure(measure), reason=args.reason, actor=actor())
            say(f"There is no limit on the {ended.called} any more.")


@command
def history(args: Namespace) -> None:
    """List the changes of limits, with who and why."""
    with open_ledger(args) as ledger:
        rows = [
            {
                "at": change.at,
                "limit": str(each.limit.called),
                "amount": change.amount,
                "by": change.by.label,
                "reason": change.reason,
            }
            for each in ledger.rate_limits.find(ended=True)
            for change in ledger.rate_limits.changes(each.limit.limit_id)
        ]
    print_rows(sorted(rows, key=lambda row: row["at"], reverse=True), args.output)


def _is(state: LimitState, kind: LimitKind, name: str) -> bool:
    limit = state.limit
    return (limit.kind, limit.name) == (kind, name) and limit.amount is not None


def _what(args: Namespace) -> tuple[LimitKind, str]:
    named = {LimitKind.OPENAI: args.connection, LimitKind.TARGET: args.target, LimitKind.KEY: args.key}
    given = [(kind, name) for kind, name in named.items() if name is not None]
    if len(given) != 1:
        fail("name one of --connection, --target and --key.")
    return given[0]


def _amounts(args: Namespace) -> dict[Measure, int]:
    amounts = {Measure.REQUESTS: args.requests, Measure.TOKENS: args.tokens, Measure.IN_FLIGHT: args.in_flight}
    return {measure: amount for measure, amount in amounts.items() if amount is not None}


def _weight(text: str) -> tuple[str, float]:
    name, _, weight = text.rpartition("=")
    try:
        return name, float(weight)
    except ValueError:
        fail(f"--weight is type:NAME=NUMBER or requester:NAME=NUMBER, not {text!r}.")


def _warn_of_unknown(conn_id: str) -> None:
    """Say that Airflow has no such connection: it may be a misspelt one."""
    try:
        Connection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException:
        say(f"Airflow has no connection {conn_id!r} here. The limit is set; check how the name is spelt.", error=True)


def _row(state: LimitState) -> dict[str, Any]:
    limit: RateLimit = state.limit
    return {
        "what": limit.kind.value,
        "name": limit.name,
        "limit": limit.words,
        "now": state.now,
        "used": state.used,
        "waiting": state.waiting,
        "waiting since": state.waiting_since,
        "paused until": limit.closed_until if state.paused else None,
        "changed": state.changed_at,
    }
