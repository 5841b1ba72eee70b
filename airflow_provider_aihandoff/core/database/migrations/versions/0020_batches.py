"""Batches: many requests of a set in one file.

Revision ID: 0020
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_BATCHES = """
ALTER TABLE aihandoff.sets
    ADD COLUMN transport text NOT NULL DEFAULT 'background' CHECK (transport IN ('background', '2h', '8h', 'batch')),
    ADD COLUMN transport_why text,
    ADD COLUMN complete_by timestamptz;
CREATE TABLE aihandoff.batches (
    batch_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    set_id bigint NOT NULL REFERENCES aihandoff.sets,
    conn_id text NOT NULL,
    state text NOT NULL CHECK (state IN ('filling', 'creating', 'running', 'ended', 'read', 'abandoned')),
    token uuid,
    lease_until timestamptz,
    lines integer NOT NULL DEFAULT 0,
    file_id text,
    provider_id text UNIQUE,
    provider_status text,
    result_files text[] NOT NULL DEFAULT '{}',
    completed integer,
    failed integer,
    why text,
    deadline timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    sent_at timestamptz,
    cancelled_at timestamptz,
    ended_at timestamptz,
    updated_at timestamptz NOT NULL,
    CHECK (state NOT IN ('running', 'ended', 'read') OR provider_id IS NOT NULL)
);
CREATE INDEX batches_of_set ON aihandoff.batches (set_id);
CREATE INDEX batches_open ON aihandoff.batches (updated_at) WHERE state NOT IN ('read', 'abandoned');
ALTER TABLE aihandoff.revisions
    ADD COLUMN batch_id bigint REFERENCES aihandoff.batches,
    DROP CONSTRAINT revisions_check1,
    ADD CONSTRAINT revisions_check1 CHECK (state <> 'running' OR response_id IS NOT NULL OR batch_id IS NOT NULL);
CREATE INDEX revisions_of_batch ON aihandoff.revisions (batch_id, job_id) WHERE batch_id IS NOT NULL;
"""


def upgrade() -> None:
    """No request is in a batch before."""
    op.execute(_BATCHES)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
