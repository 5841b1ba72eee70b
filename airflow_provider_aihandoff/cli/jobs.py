"""`airflow aihandoff jobs`: list and show jobs."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from airflow_provider_aihandoff import settings
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
from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.jobs.explanation import explain
from airflow_provider_aihandoff.core.jobs.job_filter import FILTER_NAMES, JobFilter
from airflow_provider_aihandoff.core.jobs.needs import counted, needs_of
from airflow_provider_aihandoff.core.ledger import JobRecord


@command
def list_jobs(args: Namespace) -> None:
    """List jobs, newest first."""
    with open_ledger(args) as ledger:
        jobs = ledger.search.page(job_filter(args), limit=args.limit)
    names = ("job_id", "job_type", "job_key", "state", "revision", "requested_by", "dag_id", "run_id", "state_reason")
    print_rows([{name: getattr(job, name) for name in names} for job in jobs], args.output)


@command
def overview(args: Namespace) -> None:
    """Say what needs a person now."""
    with open_ledger(args) as ledger:
        causes = needs_of(ledger, None, silence=settings.number("webhook_silence")).causes
    rows = [
        {"needs a person": cause.name, "number": counted(cause.count), "see": as_typed(cause.command)}
        for cause in causes
    ]
    print_rows(rows, args.output)


def job_filter(args: Namespace) -> JobFilter:
    """The filter that the options name.

    :raises FilterRefused: one of them is not valid.
    """
    return JobFilter.of_texts({name: getattr(args, name) for name in FILTER_NAMES})


@command
def show(args: Namespace) -> None:
    """Show everything about a job."""
    with open_ledger(args) as ledger:
        record = ledger.record(args.job_id)
    if args.output == "table":
        _print_record(record)
    else:
        print_rows([asdict(record)], args.output)


@command
def resolve_submission(args: Namespace) -> None:
    """Say what to do about a request whose answer was lost."""
    if args.send_again == args.fail:
        fail("give --send-again or --fail, and not both.")
    check_reason(args.reason)
    with open_ledger(args) as ledger:
        seen = args.unknown or ledger.record(args.job_id).revision.unknown_submissions
        job = ledger.submission.resolve(
            args.job_id, send_again=args.send_again, seen=seen, actor=actor(), why=args.reason
        )
    then = "A waiting task sends the request. " if args.send_again else ""
    say(f"{job.label}: {job.state.value} ({job.state_reason}). {then}A failed task continues when you clear it.")


def _print_record(record: JobRecord) -> None:
    job, revision = record.job, record.revision
    cost = "price unknown" if revision.cost_usd is None else f"{revision.cost_usd} USD"
    cost += ", without tools" if "tool_calls" in (revision.usage or {}) else ""
    say(f"{job.label}: {job.state.value}" + (f" ({job.state_reason})" if job.state_reason else ""))
    say(f"requested by {job.requested_by}; {job.dag_id}/{job.run_id}/{job.task_id}; {cost}")
    say(as_typed(str(explain(record))))
    say(f"review digest: {job.review_digest or 'none yet'}")
    print_rows([{"output": revision.output, "error": revision.error}], "yaml")
    names = (
        "effect_id",
        "name",
        "state",
        "attempt",
        "external_id",
        "external_link",
        "effect_key",
        "plan",
        "after_effects",
        "undo",
        "error",
    )
    effects = [*record.current_effects, *record.undos]
    print_rows([{name: getattr(effect, name) for name in names} for effect in effects], "yaml")
    times = ("seq", "at", "actor", "event", "from_state", "to_state", "reason")
    print_rows([{name: getattr(event, name) for name in times} for event in record.events], "table")
    broken = first_break(record.events, record.job)
    say("history: unbroken" if broken is None else f"history: BROKEN at line {broken}")
