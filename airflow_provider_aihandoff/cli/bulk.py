"""`airflow aihandoff jobs cancel`, `rollback`, `resolve`, `reconcile`, `reassign`, `acknowledge`: many jobs.

And `progress` and `resume`, for a bulk action that has begun.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from functools import partial

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.cli.common import (
    actor,
    check_reason,
    command,
    end_line,
    fail,
    open_ledger,
    print_rows,
    reviewers,
    say,
    say_over,
)
from airflow_provider_aihandoff.cli.jobs import job_filter
from airflow_provider_aihandoff.core.bulk.bulk_run import Preview, begin, preview, run
from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction, Outcome, Progress
from airflow_provider_aihandoff.core.bulk.bulk_totals import in_words
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.review.rules import Reviewers
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.task_states import ask_database, task_states

#: The exit code of a bulk action of which something is left to do.
UNFINISHED = 3

#: Seconds between two lines that say how far a bulk action has come: on a terminal, and in a file.
LIVE, LOGGED = 0.5, 10.0

#: Seconds after which `progress --watch` says it again.
WATCH = 2.0


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
def reassign(args: Namespace) -> None:
    """Let other people decide on the jobs that a filter finds."""
    _act(args, BulkAction.REASSIGN, reviewers(args))


@command
def progress(args: Namespace) -> None:
    """Say how far a bulk action has come. Takes no step of it."""
    with open_ledger(args) as ledger:
        ledger.bulks.read(args.bulk_id)
        now = ledger.bulks.progress(args.bulk_id)
        while args.watch and not now.is_over:
            say_over(_in_words(args.bulk_id, now))
            time.sleep(WATCH)
            now = ledger.bulks.progress(args.bulk_id)
    if args.watch:
        end_line()
    print_rows([{"bulk_id": args.bulk_id, **vars(now), "over": now.is_over}], args.output)


def acknowledge(args: Namespace) -> None:
    """Acknowledge the failed jobs that a filter finds."""
    _act(args, BulkAction.ACKNOWLEDGE)


@command
def resume(args: Namespace) -> None:
    """Go on with a bulk action, and print its report."""
    with open_ledger(args) as ledger:
        _run(ledger, args.bulk_id, args.output)


def _act(args: Namespace, action: BulkAction, to: Reviewers | None = None) -> None:
    take(args, action, job_filter(args), to)


def take(args: Namespace, action: BulkAction, wanted: JobFilter, to: Reviewers | None = None) -> None:
    """Show a bulk action, have it confirmed, and take it."""
    check_reason(args.reason)
    with open_ledger(args) as ledger:
        shown = preview(ledger, action, wanted, answerable=list, actor=actor(), reviewers=to)
        _show(shown, args.output)
        if args.dry_run:
            return
        count = _confirmed(shown) if args.count is None else args.count
        bulk_id = begin(ledger, shown, count=count, digest=shown.digest, reason=args.reason, actor=actor())
        say(f"This is bulk action {bulk_id}. If it is interrupted: {PROGRAM} jobs resume {bulk_id}", error=True)
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
    for why, jobs in shown.totals.refusals.items():
        say(f"- {jobs} would not: {why}", error=True)
    if shown.count:
        for sentence in in_words(shown.action, shown.totals):
            say(sentence, error=True)


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
    every, said_at = LIVE if sys.stderr.isatty() else LOGGED, time.monotonic()

    def on_step(job_id: int, outcome: Outcome, note: str) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= every:
            say_over(_in_words(bulk_id, ledger.bulks.progress(bulk_id)))
            said_at = time.monotonic()

    with providers() as provider_for:
        after = run(
            ledger,
            bulk_id,
            provider_for=provider_for,
            states_of=partial(task_states, ask=ask_database),
            answerable=list,
            on_step=on_step,
        )
    end_line()
    report = ledger.bulks.report(bulk_id)
    names = ("job_id", "job_key", "outcome", "note")
    print_rows([{name: getattr(each, name) for name in names} for each in report], output)
    say(_in_words(bulk_id, after), error=True)
    if not after.is_over:
        say(f"Go on with: {PROGRAM} jobs resume {bulk_id}", error=True)
        sys.exit(UNFINISHED)


def _in_words(bulk_id: int, now: Progress) -> str:
    left = f", {now.left} left" if now.left else ""
    return f"bulk action {bulk_id}: {now.done} done, {now.refused} refused, {now.unfinished} unfinished{left}."
