"""The commands of `airflow aihandoff`. Each prints what it did, and exits with 1 and one line where it could not."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import asdict

from airflow_provider_aihandoff.cli.common import actor, command, open_ledger, print_rows
from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.effects.resolve import answer
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.models import Effect
from airflow_provider_aihandoff.hooks.ledger import LedgerHook


@command
def db_upgrade(args: Namespace) -> None:
    """Create the ledger's schema, or bring it up to date."""
    before, after = schema.upgrade(LedgerHook(args.conn_id).conninfo())
    if before == after:
        print(f"The ledger's schema is at version {after} already.")
    elif before is None:
        print(f"Created the ledger, schema version {after}.")
    else:
        print(f"Upgraded the ledger's schema from version {before} to {after}.")


@command
def db_check(args: Namespace) -> None:
    """Say whether the ledger's schema is the one that is needed."""
    with open_ledger(args):
        print(f"The ledger's schema is at version {schema.head_version()}, as needed.")


@command
def jobs_list(args: Namespace) -> None:
    """List jobs, newest first."""
    with open_ledger(args) as ledger:
        jobs = ledger.jobs(states=args.state, dag_id=args.dag_id, limit=args.limit)
    names = ("job_id", "job_type", "job_key", "state", "revision", "requested_by", "dag_id", "run_id", "state_reason")
    print_rows([{name: getattr(job, name) for name in names} for job in jobs], args.output)


@command
def jobs_show(args: Namespace) -> None:
    """Show all that is known of a job."""
    with open_ledger(args) as ledger:
        record = ledger.record(args.job_id)
    if args.output == "table":
        _print_record(record)
    else:
        print_rows([asdict(record)], args.output)


def _print_record(record: JobRecord) -> None:
    job, revision = record.job, record.revision
    cost = "price unknown" if revision.cost_usd is None else f"{revision.cost_usd} USD"
    print(f"{job.label}: {job.state.value}" + (f" ({job.state_reason})" if job.state_reason else ""))
    print(f"asked by {job.requested_by}; {job.dag_id}/{job.run_id}/{job.task_id}; {cost}")
    print(f"digest to decide on: {job.review_digest or 'none yet'}")
    print_rows([{"output": revision.output, "error": revision.error}], "yaml")
    names = (
        "effect_id",
        "name",
        "state",
        "attempt",
        "external_id",
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
    print("history: unbroken" if broken is None else f"history: BROKEN at line {broken}")


@command
def effects_list(args: Namespace) -> None:
    """List effects, newest first."""
    with open_ledger(args) as ledger:
        effects = ledger.list_effects(states=args.state, limit=args.limit)
    names = ("effect_id", "job_id", "name", "kind", "state", "attempt", "external_id", "error")
    print_rows([{name: getattr(effect, name) for name in names} for effect in effects], args.output)


@command
def effects_show(args: Namespace) -> None:
    """Show one effect."""
    with open_ledger(args) as ledger:
        effect = ledger.effects.read(args.effect_id)
    print_rows([asdict(effect)], "yaml" if args.output == "table" else args.output)


@command
def effects_resolve(args: Namespace) -> None:
    """Record what became of an effect whose outcome was not known."""
    applied = args.applied is not None
    if applied == args.not_applied:
        sys.exit("aihandoff: give either --applied EXTERNAL_ID or --not-applied.")
    if not args.why.strip():
        sys.exit("aihandoff: --why must say how you know.")
    with open_ledger(args) as ledger:
        attempt = args.attempt or ledger.effects.read(args.effect_id).attempt
        effect = answer(
            ledger,
            args.effect_id,
            applied=applied,
            external_id=args.applied,
            why=args.why,
            actor=actor(),
            attempt=attempt,
        )
    print(f"Effect {effect.effect_id} ({effect.name}) is {effect.state.value}. {_next(effect)}")


def _next(effect: Effect) -> str:
    """How it goes on after somebody has said what became of an effect."""
    if effect.undoes is not None:
        return f"Go on with `airflow aihandoff rollback {effect.job_id}`."
    return "A task that waits for it goes on by itself; one that has failed goes on when it is cleared."
