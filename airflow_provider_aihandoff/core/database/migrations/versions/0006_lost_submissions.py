"""What to do about a lost request, the handle on it, and responses that no revision waits for.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE aihandoff.revisions
    ADD COLUMN on_lost text CHECK (on_lost IN ('wait', 'ask', 'resend')),
    ADD COLUMN conversation_id text;
CREATE INDEX jobs_by_type ON aihandoff.jobs (job_type, job_id);
CREATE INDEX revisions_left_running ON aihandoff.revisions (deadline)
    WHERE state = 'cancelled' AND response_id IS NOT NULL AND completed_at IS NULL;
CREATE TABLE aihandoff.surplus_responses (
    response_id text PRIMARY KEY,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    revision integer NOT NULL,
    conn_id text NOT NULL,
    created_at timestamptz NOT NULL,
    settled_at timestamptz
);
CREATE INDEX surplus_responses_open ON aihandoff.surplus_responses (created_at) WHERE settled_at IS NULL;
"""


def upgrade() -> None:
    """Add the columns, the table and the indexes."""
    op.execute(STATEMENTS)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
