"""The requests of one requester in the last minute are found by an index.

Revision ID: 0025
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Index them."""
    op.execute("CREATE INDEX job_requests_by_requester ON aihandoff.job_requests (requested_by, created_at)")


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
