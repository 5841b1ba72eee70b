"""When a response was last seen to run.

Revision ID: 0024
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_SIGNS = """
CREATE TABLE aihandoff.signs (
    job_id bigint PRIMARY KEY,
    revision integer NOT NULL,
    seen_at timestamptz NOT NULL
)
"""


def upgrade() -> None:
    """Of a response that runs already, the first sign is the next one."""
    op.execute(_SIGNS)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
