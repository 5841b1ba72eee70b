"""`airflow aihandoff reconcile`: the maintenance Dag's work, once, from a terminal."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from functools import partial

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.cli.common import command, open_ledger, print_rows
from airflow_provider_aihandoff.core.reconcile.run import reconcile
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.task_states import ask_database, task_states


@command
def reconcile_once(args: Namespace) -> None:
    """Find orphaned responses, reviews, effects and webhooks, and take the next step for each."""
    with open_ledger(args) as ledger, providers() as provider_for:
        findings = reconcile(
            ledger,
            provider_for=provider_for,
            states_of=partial(task_states, ask=ask_database),
            inbox_retention=settings.seconds("inbox_retention"),
            dry_run=args.dry_run,
        )
    names = ("kind", "job_id", "webhook_id", "found", "step", *(() if args.dry_run else ("done",)))
    rows = [asdict(finding) for finding in findings]
    print_rows([{name: row[name] for name in names} for row in rows], args.output)
    if any(finding.failed for finding in findings):
        raise ValueError("some steps failed, as shown. They changed nothing. Run the command again.")
