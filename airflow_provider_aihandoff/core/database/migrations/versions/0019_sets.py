"""Sets: many jobs of one task.

Revision ID: 0019
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_SETS = """
CREATE TABLE aihandoff.sets (
    set_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    set_type text NOT NULL CHECK (set_type <> ''),
    set_key text NOT NULL CHECK (set_key <> ''),
    requested_by text NOT NULL,
    dag_id text NOT NULL,
    run_id text NOT NULL,
    task_id text NOT NULL,
    map_index integer NOT NULL,
    deadline timestamptz NOT NULL,
    items integer CHECK (items >= 0),
    left_out json NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    notified_at timestamptz,
    UNIQUE (set_type, set_key)
);
CREATE INDEX sets_by_dag ON aihandoff.sets (dag_id, set_id);
ALTER TABLE aihandoff.jobs ADD COLUMN set_id bigint REFERENCES aihandoff.sets;
CREATE INDEX jobs_of_set ON aihandoff.jobs (set_id, state, job_id) WHERE set_id IS NOT NULL;
"""


def upgrade() -> None:
    """No job is in a set before."""
    op.execute(_SETS)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
