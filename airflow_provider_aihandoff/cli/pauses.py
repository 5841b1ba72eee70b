"""`airflow aihandoff pause`, `resume` and `pauses`: stop requests and writes for a while; and `spending-limits`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.cli.common import (
    actor,
    as_typed,
    check_reason,
    command,
    fail,
    open_ledger,
    print_rows,
    say,
)
from airflow_provider_aihandoff.core.admission.pause_store import Pause, Scope
from airflow_provider_aihandoff.core.errors import CannotCancel
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.hooks.model_provider import providers


@command
def pause(args: Namespace) -> None:
    """Stop requests to the model, and external writes too if asked for."""
    check_reason(args.reason)
    scope = Scope(args.connection, args.type, args.dag_id)
    if args.everything == (scope != Scope()):
        fail("name a connection, a type or a Dag to pause, or --everything, and not both.")
    with open_ledger(args) as ledger:
        begun = ledger.pauses.begin(scope, writes=args.writes, reason=args.reason, actor=actor())
        say(f"Pause {begun.pause_id} holds {begun.stops} ({scope}).")
        say(f"To end it: {PROGRAM} resume {begun.pause_id} --reason REASON")
        running = ledger.pauses.running(scope)
        if args.cancel_running:
            _cancel(ledger, running, begun)
        elif running:
            ids = ", ".join(map(str, running[:20])) + (", ..." if len(running) > 20 else "")
            say(f"{len(running)} responses run on, of the jobs {ids}. --cancel-running cancels such jobs.")


def _cancel(ledger: Ledger, job_ids: Sequence[int], begun: Pause) -> None:
    cancelled = 0
    with providers() as provider_for:
        for job_id in job_ids:
            try:
                cancel_job(ledger, provider_for, job_id, actor=actor(), reason=f"pause: {begun.reason}")
                cancelled += 1
            except CannotCancel as error:
                say(as_typed(str(error)), error=True)
    say(f"{cancelled} of {len(job_ids)} jobs whose responses ran were cancelled.")


@command
def resume(args: Namespace) -> None:
    """End one pause, or all."""
    check_reason(args.reason)
    if args.all == (args.pause_id is not None):
        fail("name the pause to end, or --all, and not both.")
    with open_ledger(args) as ledger:
        ids = [each.pause_id for each in ledger.pauses.find()] if args.all else [args.pause_id]
        if not ids:
            say("No pause is in force.")
        for pause_id in ids:
            held = ledger.pauses.held(ledger.pauses.read(pause_id))
            ended = ledger.pauses.end(pause_id, reason=args.reason, actor=actor())
            say(f"Pause {pause_id} ({ended.scope}) has ended. It held {held.requests} requests, {held.writes} writes.")


@command
def pauses(args: Namespace) -> None:
    """List the pauses in force."""
    with open_ledger(args) as ledger:
        found = [(each, ledger.pauses.held(each)) for each in ledger.pauses.find(ended=args.ended)]
    rows = [
        {
            "pause_id": each.pause_id,
            "what": str(each.scope),
            "writes": each.writes,
            "held requests": held.requests,
            "held writes": held.writes,
            "responses running": held.running,
            "by": each.by.label,
            "since": each.created_at,
            "reason": each.reason,
            **({"ended": each.ended_at, "ended because": each.ended_reason} if args.ended else {}),
        }
        for each, held in found
    ]
    print_rows(rows, args.output)


@command
def spending_limits(args: Namespace) -> None:
    """List the connections whose provider says that a limit of money is reached."""
    with open_ledger(args) as ledger:
        found = ledger.spending_limits.find()
    rows = [
        {
            "connection": each.conn_id,
            "since": each.since,
            "tries": each.tries,
            "next try": each.try_at,
            "said": each.said,
        }
        for each in found
    ]
    print_rows(rows, args.output)


@command
def try_now(args: Namespace) -> None:
    """Have it found out at once whether the limit of a connection is still reached."""
    with open_ledger(args) as ledger:
        limit = ledger.spending_limits.try_now(args.connection)
    if limit is None:
        fail(f"no limit of the connection {args.connection!r} is known to be reached.")
    say(f"Job {limit.try_job_id} sends its request within seconds. If OpenAI accepts it, the others follow.")
