"""Requests for jobs, from programs outside of Airflow.

Revision ID: 0021
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_JOB_REQUESTS = """
CREATE TABLE aihandoff.job_requests (
    request_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    job_type text NOT NULL CHECK (job_type <> ''),
    job_key text NOT NULL CHECK (job_key <> ''),
    input json NOT NULL,
    permissions json NOT NULL DEFAULT '{}',
    requested_by text NOT NULL CHECK (requested_by <> ''),
    requested_by_id text,
    recorded_by text NOT NULL DEFAULT session_user,
    recorded_by_kind text NOT NULL DEFAULT 'database' CHECK (recorded_by_kind IN ('user', 'database')),
    idempotency_key text,
    state text NOT NULL DEFAULT 'recorded' CHECK (
        state IN ('recorded', 'started', 'job', 'refused', 'failed', 'cancelled')),
    state_reason text,
    dag_id text,
    run_id text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    try_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries integer NOT NULL DEFAULT 0,
    UNIQUE (job_type, job_key),
    UNIQUE (recorded_by, idempotency_key)
);
CREATE INDEX job_requests_due ON aihandoff.job_requests (try_at) WHERE state = 'recorded';
CREATE INDEX job_requests_started ON aihandoff.job_requests (try_at) WHERE state = 'started';
CREATE INDEX job_requests_by_sender ON aihandoff.job_requests (recorded_by, job_type, created_at);
"""


def upgrade() -> None:
    """There were none before."""
    op.execute(_JOB_REQUESTS)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
