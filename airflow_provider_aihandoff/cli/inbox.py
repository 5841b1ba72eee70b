"""`airflow aihandoff inbox`: the received webhooks, and what each of them led to."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from datetime import timedelta

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.cli.common import actor, command, open_ledger, print_rows, say
from airflow_provider_aihandoff.core.reconcile.scan import check_retention
from airflow_provider_aihandoff.core.webhooks import correlate
from airflow_provider_aihandoff.core.webhooks.webhook_words import became
from airflow_provider_aihandoff.hooks.model_provider import providers


@command
def list_webhooks(args: Namespace) -> None:
    """List webhooks, newest first."""
    with open_ledger(args) as ledger:
        entries = ledger.inbox.entries(dispositions=args.disposition, limit=args.limit)
    names = ("webhook_id", "received_at", "event_type", "response_id", "disposition", "job_id", "deliveries", "note")
    print_rows([{name: getattr(entry, name) for name in names} for entry in entries], args.output)


@command
def show(args: Namespace) -> None:
    """Show everything about a webhook."""
    with open_ledger(args) as ledger:
        entry = ledger.inbox.read(args.webhook_id)
    print_rows([asdict(entry)], "yaml" if args.output == "table" else args.output)


@command
def replay(args: Namespace) -> None:
    """Process a webhook again, and poll its response at OpenAI."""
    with open_ledger(args) as ledger, providers() as provider_for:
        entry = correlate.replay(ledger, args.webhook_id, provider_for, actor=actor())
    say(became(entry))


@command
def discard(args: Namespace) -> None:
    """Discard a webhook that is in quarantine."""
    with open_ledger(args) as ledger:
        entry = ledger.inbox.discard(args.webhook_id, actor=actor(), why=args.reason)
    say(became(entry))


@command
def prune(args: Namespace) -> None:
    """Remove old webhooks, except those in quarantine."""
    days = args.older_than_days
    retention = settings.seconds("inbox_retention") if days is None else timedelta(days=days)
    with open_ledger(args) as ledger:
        removed = ledger.inbox.prune(check_retention(retention))
    say(f"Removed {removed} webhooks that were received more than {retention.total_seconds() / 86400:g} days ago.")
