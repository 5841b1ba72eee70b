"""Approval tasks that Airflow has parked.

Revision ID: 0027
"""

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_PARKED_TASKS = """
CREATE TABLE aihandoff.parked_tasks (
    ti_id uuid PRIMARY KEY,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    digest text NOT NULL,
    reassigned integer NOT NULL,
    dag_id text NOT NULL,
    run_id text NOT NULL,
    task_id text NOT NULL,
    map_index integer NOT NULL,
    try_number integer NOT NULL,
    subject text NOT NULL,
    body text NOT NULL,
    not_before timestamptz NOT NULL,
    until timestamptz NOT NULL,
    parked_at timestamptz NOT NULL
);
CREATE INDEX parked_tasks_of_job ON aihandoff.parked_tasks (job_id);
"""


def upgrade() -> None:
    """Tasks that wait already wait in a triggerer."""
    op.execute(_PARKED_TASKS)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
