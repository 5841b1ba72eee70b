"""Failed jobs that a person has seen, and what people were notified of.

Revision ID: 0015
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

ACKNOWLEDGED = """
ALTER TABLE aihandoff.jobs ADD COLUMN acknowledged_at timestamptz;
UPDATE aihandoff.jobs SET acknowledged_at = last.at
FROM aihandoff.events AS last
WHERE jobs.state = 'failed' AND last.job_id = jobs.job_id AND last.seq = jobs.event_seq
    AND last.actor_kind IN ('user', 'terminal');
CREATE INDEX jobs_failed ON aihandoff.jobs (updated_at) WHERE state = 'failed' AND acknowledged_at IS NULL;
ALTER TABLE aihandoff.bulk_actions DROP CONSTRAINT bulk_actions_action_check;
ALTER TABLE aihandoff.bulk_actions ADD CONSTRAINT bulk_actions_action_check CHECK (action IN (
    'cancel', 'roll back', 'resolve as applied', 'resolve as not applied', 'reconcile', 'reassign', 'acknowledge'));
"""

NOTICES = """
CREATE TABLE aihandoff.notices (
    dag_id text NOT NULL,
    task_id text NOT NULL,
    cause text NOT NULL,
    found_by text NOT NULL,
    found_at timestamptz NOT NULL,
    notified_at timestamptz,
    send_token uuid,
    send_until timestamptz,
    PRIMARY KEY (dag_id, task_id, cause),
    CHECK ((send_token IS NULL) = (send_until IS NULL))
);
"""


def upgrade() -> None:
    """A job that a person has failed counts as seen, as it did before."""
    op.execute(ACKNOWLEDGED)
    op.execute(NOTICES)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
