"""`airflow aihandoff db`: the ledger's schema."""

from __future__ import annotations

from argparse import Namespace

from airflow_provider_aihandoff.cli.common import command, open_ledger, say
from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.hooks.ledger import LedgerHook


@command
def upgrade(args: Namespace) -> None:
    """Create the ledger's schema, or upgrade it."""
    before, after = schema.upgrade(LedgerHook(args.conn_id).conninfo())
    if before == after:
        say(f"The ledger's schema is already at version {after}.")
    elif before is None:
        say(f"Created the ledger, schema version {after}.")
    else:
        say(f"Upgraded the ledger's schema from version {before} to {after}.")


@command
def check(args: Namespace) -> None:
    """Check that the ledger's schema has the version that this package needs."""
    with open_ledger(args):
        say(f"The ledger's schema is at version {schema.head_version()}, as needed.")
