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
    if before is None:
        say(f"Created the ledger, schema version {after}.")
    elif after != schema.head_version():
        say(f"The ledger's schema is at version {after}, of a newer release. It serves this one too: nothing to do.")
        return
    elif before == after:
        say(f"The ledger's schema is already at version {after}.")
    else:
        say(f"Upgraded the ledger's schema from version {before} to {after}.")
    say(f"Releases that need version {schema.serves_from()} or newer can use it. Replace older ones first.")
    say(f"Contracted by a later release: {'; '.join(schema.contracted_later()) or 'nothing'}.")


@command
def check(args: Namespace) -> None:
    """Check that this package can use the ledger: its schema has the version that it needs, or one that serves it."""
    with open_ledger(args) as ledger:
        current, needed = ledger.schema_version(), schema.head_version()
    said = "as needed" if current == needed else f"of a newer release, and serves this one, which needs {needed}"
    say(f"The ledger's schema is at version {current}, {said}.")
