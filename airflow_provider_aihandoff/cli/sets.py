"""`airflow aihandoff sets`: how far many jobs of one task have come; pauses of them; what is not sent is cancelled."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.cli import bulk
from airflow_provider_aihandoff.cli.common import (
    actor,
    check_reason,
    command,
    end_line,
    open_ledger,
    print_rows,
    say,
    say_over,
)
from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.sets.batch_record import Batch
from airflow_provider_aihandoff.core.sets.pause_set import pause_set, pauses_of, resume_set
from airflow_provider_aihandoff.core.sets.set_record import JobSet, SetPhase, SetTotals
from airflow_provider_aihandoff.core.states import JobState

#: Seconds between two reads of a watched set.
_WATCHED_EVERY = 2.0

#: What is shown of a batch.
_OF_BATCH = ("batch_id", "state", "lines", "completed", "failed", "provider_id", "provider_status", "why", "ended_at")

#: Characters of the bar.
_BAR = 30

#: The states of a job in which the set does not wait for it any longer, and those after its draft.
_OPEN = (JobState.QUEUED, JobState.RUNNING, JobState.REVIEW, JobState.APPROVED, JobState.APPLYING)
_DRAFTING = (JobState.QUEUED, JobState.RUNNING)


@command
def list_sets(args: Namespace) -> None:
    """List sets with their counts."""
    with open_ledger(args) as ledger:
        found = ledger.sets.newest(limit=args.limit)
        totals = ledger.sets.totals([each.set_id for each in found])
    print_rows([_row(each, totals[each.set_id]) for each in found], args.output)


@command
def show(args: Namespace) -> None:
    """Show one set; with ``--watch`` until it has ended."""
    with open_ledger(args) as ledger:
        found, totals = ledger.sets.read(args.set_id), ledger.sets.total(args.set_id)
        if args.watch:
            while totals.phase(found) is not SetPhase.ENDED:
                say_over(bar(found, totals))
                time.sleep(_WATCHED_EVERY)
                found, totals = ledger.sets.read(args.set_id), ledger.sets.total(args.set_id)
            say_over(bar(found, totals))
            end_line()
        paused, writes = bool(pauses_of(ledger, args.set_id)), ledger.sets.writes(args.set_id)
        batches = ledger.batches.of_set(args.set_id)
    row = _row(found, totals)
    row |= {
        "run_id": found.run_id,
        "task_id": found.task_id,
        "deadline": found.deadline,
        "failures": dict(totals.failures),
        "per_minute": _rounded(totals.per_minute),
        "minutes_to_answers": _rounded(totals.minutes_to_answers),
        "minutes_to_writes": _rounded(writes.minutes_left),
        "held": totals.held,
        "paused": paused,
    }
    if args.output != "table":
        print_rows([row | _sending(found, batches)], args.output)
        return
    print_rows([row], "yaml")
    say(f"sent: {found.transport.value}. {found.transport_why or ''}".rstrip())
    for batch in batches:
        say(in_words(batch))
    for each in found.without_job.first:
        say(f"left out: {each}")


def _sending(found: JobSet, batches: Sequence[Batch]) -> dict[str, Any]:
    """How the requests of a set are sent, for programs."""
    return {
        "transport": found.transport.value,
        "transport_why": found.transport_why,
        "complete_by": found.complete_by,
        "batches": [{name: getattr(each, name) for name in _OF_BATCH} for each in batches],
    }


@command
def pause(args: Namespace) -> None:
    """Hold each request and each write of a set."""
    check_reason(args.reason)
    with open_ledger(args) as ledger:
        found = ledger.sets.read(args.set_id)
        begun = pause_set(ledger, found, reason=args.reason, actor=actor())
        running = ledger.sets.total(args.set_id).in_states(JobState.RUNNING)
    say(f"{found.label} is paused: pause {begun.pause_id} holds {begun.stops}.")
    if running:
        say(f"{running:,} of its responses run on.")
    say(f"To end it: {PROGRAM} sets resume {found.set_id} --reason REASON")


@command
def resume(args: Namespace) -> None:
    """End each pause of a set."""
    check_reason(args.reason)
    with open_ledger(args) as ledger:
        found = ledger.sets.read(args.set_id)
        for ended in resume_set(ledger, found, reason=args.reason, actor=actor()):
            say(f"{found.label} is not paused any longer: pause {ended.pause_id} has ended.")


@command
def cancel(args: Namespace) -> None:
    """Cancel the jobs of a set that were not sent to the model."""
    with open_ledger(args) as ledger:
        found = ledger.sets.read(args.set_id)
    bulk.take(args, BulkAction.CANCEL, JobFilter(states=(JobState.QUEUED,), set_id=found.set_id))


def in_words(batch: Batch) -> str:
    """A batch on one line."""
    counts = "" if batch.completed is None else f", {batch.completed:,} completed, {batch.failed or 0:,} failed"
    why = f". {batch.why}" if batch.why else ""
    return f"{batch.label}: {batch.in_words()}, {batch.lines:,} requests{counts}{why}"


def bar(found: JobSet, totals: SetTotals) -> str:
    """How far a set has come, on one line: ``[#####=====.....] 120 applied, 80 in review``.

    ``#`` are jobs that have ended, ``=`` those that have an output, and ``.`` the others.
    """
    total = max(totals.jobs, found.items or 0, 1)
    ended = totals.jobs - totals.in_states(*_OPEN)
    drafted = totals.jobs - totals.in_states(*_DRAFTING)
    done, half = ended * _BAR // total, drafted * _BAR // total
    words = totals.in_words(found.without_job.number)
    return f"[{'#' * done}{'=' * (half - done)}{'.' * (_BAR - half)}] {words}"


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 1)


def _row(found: JobSet, totals: SetTotals) -> dict[str, Any]:
    return {
        "set_id": found.set_id,
        "set_type": found.set_type,
        "set_key": found.set_key,
        "dag_id": found.dag_id,
        "phase": totals.phase(found).value,
        "items": found.items,
        "jobs": totals.jobs,
        "said": totals.in_words(found.without_job.number),
        "cost_usd": str(totals.cost_usd),
        "created_at": found.created_at,
    }
