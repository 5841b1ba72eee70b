"""Review: who may decide and by when, edits and changes as revisions, and what the target has now.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

CHANGES = """
ALTER TABLE aihandoff.jobs
    ADD COLUMN triggered_by text,
    ADD COLUMN max_cost_usd numeric,
    ADD COLUMN review json,
    ADD COLUMN review_asked_at timestamptz,
    ADD COLUMN reminded_at timestamptz,
    ADD COLUMN escalated_at timestamptz,
    ADD COLUMN decided_before bigint;
ALTER TABLE aihandoff.revisions
    ADD COLUMN based_on integer,
    ADD COLUMN changes text;
ALTER TABLE aihandoff.effects ADD COLUMN current json;
"""


def upgrade() -> None:
    """Open reviews get the default rules: every user who may decide for the Dag, except the requester."""
    op.execute(CHANGES)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
