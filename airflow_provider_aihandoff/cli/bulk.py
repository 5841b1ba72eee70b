"""`airflow aihandoff jobs cancel`, `rollback`, `resolve`, `reconcile`, `acknowledge` and `resume`: many jobs."""

from __future__ import annotations

import sys
from argparse import Namespace
from functools import partial

from airflow_provider_aihandoff.cli.common import actor, check_reason, command, fail, open_ledger, print_rows, say
from airflow_provider_aihandoff.cli.jobs import job_filter
from airflow_provider_aihandoff.core.bulk.bulk_run import Preview, begin, preview, run
from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction, Outcome
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.task_states import ask_database, task_states

#: The exit code of a bulk action of which something is left to do.
UNFINISHED = 3


@command
def cancel(args: Namespace) -> None:
    """Cancel the jobs that a filter finds."""
    _act(args, BulkAction.CANCEL)


@command
def roll_back(args: Namespace) -> None:
    """Undo what the jobs that a filter finds have written."""
    _act(args, BulkAction.ROLL_BACK)


@command
def resolve(args: Namespace) -> None:
    """Resolve the unknown effects of the jobs that a filter finds."""
    if args.applied == args.not_applied:
        fail("give --applied or --not-applied, and not both.")
    _act(args, BulkAction.RESOLVE_APPLIED if args.applied else BulkAction.RESOLVE_NOT_APPLIED)


@command
def reconcile(args: Namespace) -> None:
    """Take the next step for what no task waits for, of the jobs that a filter finds."""
    _act(args, BulkAction.RECONCILE)


@command
def acknowledge(args: Namespace) -> None:
    """Acknowledge the failed jobs that a filter finds."""
    _act(args, BulkAction.ACKNOWLEDGE)


@command
def resume(args: Namespace) -> None:
    """Go on with a bulk action, and print its report."""
    with open_ledger(args) as ledger:
        _run(ledger, args.bulk_id, args.output)


def _act(args: Namespace, action: BulkAction) -> None:
    check_reason(args.reason)
    with open_ledger(args) as ledger:
        shown = preview(ledger, action, job_filter(args), answerable=list)
        _show(shown, args.output)
        if args.dry_run:
            return
        count = _confirmed(shown) if args.count is None else args.count
        bulk_id = begin(ledger, shown, count=count, digest=shown.digest, reason=args.reason, actor=actor())
        say(f"This is bulk action {bulk_id}. If it is interrupted: airflow aihandoff jobs resume {bulk_id}", error=True)
        _run(ledger, bulk_id, args.output)


def _show(shown: Preview, output: str) -> None:
    rows = [
        {
            "job_id": step.job.job_id,
            "job_key": step.job.job_key,
            "state": step.job.state.value,
            "refused": step.refused,
            "what": step.words,
        }
        for step in shown.steps
    ]
    print_rows(rows, output)
    say(f"{shown.action.value}: {shown.count} jobs would be changed, {shown.refused} would not.", error=True)


def _confirmed(shown: Preview) -> int:
    """The number of jobs, as the person at the terminal types it."""
    if not shown.count:
        fail("Nothing was done: there is nothing to do.")
    try:
        return int(input(f"To confirm, type the number of jobs ({shown.count}): "))
    except (EOFError, ValueError):
        fail("Nothing was done. This command made no external write. Type the number, or give --count.")


def _run(ledger: Ledger, bulk_id: int, output: str) -> None:
    """Take every step that is left, and print what came of each job."""
    ledger.bulks.read(bulk_id)
    taken = 0

    def on_step(job_id: int, outcome: Outcome, note: str) -> None:
        nonlocal taken
        taken += 1
        if taken % 100 == 0:
            say(f"{taken} jobs taken; the last is job {job_id}: {outcome.value}.", error=True)

    with providers() as provider_for:
        progress = run(
            ledger,
            bulk_id,
            provider_for=provider_for,
            states_of=partial(task_states, ask=ask_database),
            answerable=list,
            on_step=on_step,
        )
    report = ledger.bulks.report(bulk_id)
    names = ("job_id", "job_key", "outcome", "note")
    print_rows([{name: getattr(each, name) for name in names} for each in report], output)
    say(
        f"bulk action {bulk_id}: {progress.done} done, {progress.refused} refused, {progress.unfinished} unfinished.",
        error=True,
    )
    if not progress.is_over:
        say(f"Go on with: airflow aihandoff jobs resume {bulk_id}", error=True)
        sys.exit(UNFINISHED)
