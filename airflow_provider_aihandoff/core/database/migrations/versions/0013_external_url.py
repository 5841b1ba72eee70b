"""Where the record that an effect has made can be seen.

Revision ID: 0013
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The address is known for effects that are planned from now on."""
    op.execute("ALTER TABLE aihandoff.effects ADD COLUMN external_url text")


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
