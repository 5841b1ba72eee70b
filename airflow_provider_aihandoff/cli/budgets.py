"""`airflow aihandoff budgets`: how much requests to the model may cost, for whom, and for how long; and `spending`."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields
from typing import Any

from airflow_provider_aihandoff.cli.common import (
    actor,
    check_reason,
    command,
    fail,
    open_ledger,
    print_rows,
    say,
)
from airflow_provider_aihandoff.core.amounts import checked_amount
from airflow_provider_aihandoff.core.budgets.budget_spec import (
    OnFull,
    Use,
    checked_changes,
    checked_spec,
    usd,
)
from airflow_provider_aihandoff.core.budgets.budget_store import BudgetView
from airflow_provider_aihandoff.core.budgets.spending_store import ROWS, Spent
from airflow_provider_aihandoff.core.budgets.spent_by import SpentBy
from airflow_provider_aihandoff.core.csv_text import as_csv
from airflow_provider_aihandoff.core.jobs.job_filter import age


@command
def list_budgets(args: Namespace) -> None:
    """List budgets, and how much of the current period of each is used."""
    with open_ledger(args) as ledger:
        print_rows([_row(view) for view in ledger.budgets.find(ended=args.ended)], args.output)


def _row(view: BudgetView) -> dict[str, Any]:
    budget, use = view.budget, view.use
    return {
        "budget_id": budget.budget_id,
        "name": budget.name,
        "scope": str(budget.scope),
        "period": budget.per,
        **_amounts(use),
        "held": view.held,
        "forecast_usd": use.forecast_usd(view.at),
        "until": use.ends_at,
        "on_full": budget.on_full.value,
        "owner": budget.owner,
        **({"ended_at": budget.ended_at} if budget.ended_at else {}),
    }


def _amounts(use: Use) -> dict[str, Any]:
    return {
        "amount_usd": use.amount_usd,
        "settled_usd": use.settled_usd,
        "reserved_usd": use.reserved_usd,
        "room_usd": use.room_usd,
        "percent": use.percent,
    }


@command
def spending(args: Namespace) -> None:
    """Print what was spent, by day or by anything else."""
    with open_ledger(args) as ledger:
        found = ledger.spending.by(
            SpentBy(args.by), since=ledger.now() - age(args.since), limit=None if args.csv else ROWS
        )
    rows = [vars(each) for each in found]
    if args.csv:
        for line in as_csv(rows, [each.name for each in fields(Spent)]).splitlines():
            say(line)
    else:
        print_rows(rows, args.output)


@command
def show(args: Namespace) -> None:
    """Show one budget: what it is, its periods and its history."""
    with open_ledger(args) as ledger:
        view = ledger.budgets.read(args.budget)
        periods, events = ledger.budgets.periods(view.budget.budget_id), ledger.budgets.events(view.budget.budget_id)
    print_rows([_row(view)], args.output)
    print_rows([{"from": use.starts_at, "until": use.ends_at, **_amounts(use)} for use in periods], args.output)
    history = [
        {"at": each.at, "event": each.event, "by": each.by.label, "reason": each.why, "what": each.detail}
        for each in events
    ]
    print_rows(history, args.output)


@command
def add(args: Namespace) -> None:
    """Add a budget. It is kept from now on."""
    check_reason(args.reason)
    scope = {
        "conn_id": args.connection,
        "job_type": args.type,
        "dag_id": args.dag_id,
        "requested_by": args.requester,
        "tag": args.tag,
    }
    more = {} if args.notify_at is None else {"thresholds": args.notify_at}
    spec = checked_spec(
        args.name,
        args.amount,
        scope=scope,
        period=args.period,
        time_zone=args.time_zone,
        on_full=args.on_full,
        owner=args.owner or actor().name,
        **more,
    )
    with open_ledger(args) as ledger:
        budget = ledger.budgets.add(spec, why=args.reason, actor=actor())
        warning = ledger.budgets.warning(budget)
    say(f"Budget {budget.budget_id} {budget.name!r}: {usd(budget.amount_usd)} {budget.per}, for {budget.scope}.")
    say(_WHEN_FULL[budget.on_full])
    if warning:
        say(warning, error=True)


_WHEN_FULL = {
    OnFull.HOLD: "A request for which there is no room waits.",
    OnFull.FAIL: "A job whose request has no room fails.",
    OnFull.WARN: "A request for which there is no room is sent all the same.",
}


@command
def change(args: Namespace) -> None:
    """Change a budget, from now on."""
    check_reason(args.reason)
    wanted = {
        "amount_usd": args.amount,
        "period": args.period,
        "time_zone": args.time_zone,
        "thresholds": args.notify_at,
        "on_full": args.on_full,
        "owner": args.owner,
    }
    changes = checked_changes({name: value for name, value in wanted.items() if value is not None})
    if not changes:
        fail("say what is to be changed: --amount, --period, --time-zone, --notify-at, --on-full or --owner.")
    with open_ledger(args) as ledger:
        budget = ledger.budgets.change(args.budget, why=args.reason, actor=actor(), **changes)
        use, warning = ledger.budgets.read(str(budget.budget_id)).use, ledger.budgets.warning(budget)
    say(f"Budget {budget.budget_id} {budget.name!r}: {usd(budget.amount_usd)} {budget.per}; {usd(use.room_usd)} left.")
    if warning:
        say(warning, error=True)


@command
def raise_once(args: Namespace) -> None:
    """Give a budget more for its current period alone."""
    check_reason(args.reason)
    with open_ledger(args) as ledger:
        amount = checked_amount(args.amount)
        budget = ledger.budgets.raise_once(args.budget, amount, why=args.reason, actor=actor())
        use = ledger.budgets.read(str(budget.budget_id)).use
    until = "for good" if use.ends_at is None else f"until {use.ends_at:%Y-%m-%d %H:%M} UTC"
    say(f"Budget {budget.budget_id} {budget.name!r} has {usd(amount)} more {until}; {usd(use.room_usd)} left.")


@command
def end(args: Namespace) -> None:
    """End a budget: no request asks it from now on."""
    check_reason(args.reason)
    with open_ledger(args) as ledger:
        budget = ledger.budgets.end(args.budget, why=args.reason, actor=actor())
    say(f"Budget {budget.budget_id} {budget.name!r} has ended.")
