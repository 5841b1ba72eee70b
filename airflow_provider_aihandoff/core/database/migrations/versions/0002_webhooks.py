"""Webhooks: what the inbox knows of each delivery, and how a review expires when no task waits for it.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CHANGES = r"""
ALTER TABLE aihandoff.jobs ADD COLUMN review_on_timeout text CHECK (review_on_timeout IN ('reject', 'fail'));
ALTER TABLE aihandoff.inbox
    ADD COLUMN looks integer NOT NULL DEFAULT 0,
    ADD COLUMN look_at timestamptz,
    ADD COLUMN note text,
    DROP CONSTRAINT inbox_disposition_check,
    ADD CONSTRAINT inbox_disposition_check CHECK (disposition IN (
        'applied', 'duplicate', 'late', 'quarantined', 'ignored', 'foreign', 'discarded'));
CREATE INDEX inbox_due ON aihandoff.inbox (look_at) WHERE look_at IS NOT NULL;
CREATE INDEX inbox_by_connection ON aihandoff.inbox (conn_id, received_at);
"""


def upgrade() -> None:
    """Nothing wrote to the inbox before, so no row can have a disposition that was removed."""
    op.execute(CHANGES)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
