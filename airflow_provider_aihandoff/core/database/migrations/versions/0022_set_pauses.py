"""Pauses of one set.

Revision ID: 0022
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No pause is about a set before."""
    op.execute("ALTER TABLE aihandoff.pauses ADD COLUMN set_id bigint REFERENCES aihandoff.sets")


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
