"""How often an effect was sent again, what its probe may prove, and whether it made the write itself.

Revision ID: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE aihandoff.effects
    ADD COLUMN resends integer NOT NULL DEFAULT 0,
    ADD COLUMN not_now boolean NOT NULL DEFAULT false,
    ADD COLUMN find_counts boolean NOT NULL DEFAULT true,
    ADD COLUMN own boolean NOT NULL DEFAULT true,
    ADD COLUMN probe_note text;
"""


def upgrade() -> None:
    """An effect of an earlier release begins with a count of 0, and its probe was never tried."""
    op.execute(COLUMNS)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
