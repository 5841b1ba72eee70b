"""What earlier effects have brought, and was filled into the plan of a later one.

Revision ID: 0010
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No effect that was planned before names another one."""
    op.execute("ALTER TABLE aihandoff.effects ADD COLUMN filled json")


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
