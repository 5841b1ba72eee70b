"""Decision links.

Revision ID: 0026
"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_DECISION_LINKS = """
CREATE TABLE aihandoff.decision_links (
    token_hash text PRIMARY KEY CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    revision integer NOT NULL,
    digest text NOT NULL,
    verdict text NOT NULL CHECK (verdict IN ('approve', 'reject')),
    person text NOT NULL CHECK (person <> ''),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    used_at timestamptz
);
"""


def upgrade() -> None:
    """There were none before."""
    op.execute(_DECISION_LINKS)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
