"""The ledger as it was first released.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# A migration is a record of the past: it does not read `schema.sql`, which moves on.
SCHEMA = r"""
CREATE SCHEMA IF NOT EXISTS aihandoff;
CREATE TABLE aihandoff.ledger (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    ledger_id uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO aihandoff.ledger DEFAULT VALUES;
CREATE TABLE aihandoff.jobs (
    job_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_type text NOT NULL CHECK (job_type <> ''),
    job_key text NOT NULL CHECK (job_key <> ''),
    state text NOT NULL CHECK (state IN (
        'queued', 'running', 'review', 'approved', 'applying', 'completed',
        'rejected', 'failed', 'cancelled', 'rolling_back', 'rolled_back')),
    state_reason text,
    input json NOT NULL,
    input_digest text NOT NULL,
    requested_by text NOT NULL,
    permissions json NOT NULL,
    approval text NOT NULL CHECK (approval IN ('required', 'not required')),
    approval_reason text,
    max_revisions integer NOT NULL CHECK (max_revisions >= 1),
    revision integer NOT NULL,
    review_digest text,
    review_deadline timestamptz,
    decision_id bigint,
    dag_id text NOT NULL,
    run_id text NOT NULL,
    task_id text NOT NULL,
    map_index integer NOT NULL,
    ti_id text NOT NULL,
    try_number integer NOT NULL,
    event_seq integer NOT NULL,
    event_hash text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (job_type, job_key),
    CHECK (approval = 'required' OR approval_reason <> '')
);
CREATE INDEX jobs_in_flight ON aihandoff.jobs (updated_at) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_in_review ON aihandoff.jobs (created_at) WHERE state = 'review';
CREATE INDEX jobs_committing ON aihandoff.jobs (updated_at) WHERE state IN ('approved', 'applying', 'rolling_back');
CREATE INDEX jobs_by_run ON aihandoff.jobs (dag_id, run_id);
CREATE TABLE aihandoff.revisions (
    revision_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    number integer NOT NULL CHECK (number >= 1),
    author text NOT NULL,
    state text NOT NULL CHECK (state IN ('queued', 'submitting', 'running', 'completed', 'failed', 'cancelled')),
    conn_id text NOT NULL,
    request json NOT NULL,
    request_digest text NOT NULL,
    deadline timestamptz NOT NULL,
    submissions integer NOT NULL DEFAULT 0,
    unknown_submissions integer NOT NULL DEFAULT 0,
    submit_token uuid,
    submit_lease_until timestamptz,
    response_id text,
    response_status text,
    output json,
    output_digest text,
    error json,
    usage json,
    cost_usd numeric,
    created_at timestamptz NOT NULL,
    submitted_at timestamptz,
    completed_at timestamptz,
    UNIQUE (job_id, number),
    CHECK ((output IS NULL) = (output_digest IS NULL)),
    CHECK (state <> 'running' OR response_id IS NOT NULL),
    CHECK (state <> 'completed' OR output IS NOT NULL)
);
CREATE UNIQUE INDEX revisions_response ON aihandoff.revisions (response_id) WHERE response_id IS NOT NULL;
CREATE INDEX revisions_in_flight ON aihandoff.revisions (deadline) WHERE state IN ('submitting', 'running');
CREATE TABLE aihandoff.decisions (
    decision_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    revision integer NOT NULL,
    verdict text NOT NULL CHECK (verdict IN ('approve', 'reject', 'request changes')),
    digest text NOT NULL,
    decided_by text NOT NULL,
    decided_by_kind text NOT NULL CHECK (decided_by_kind IN ('user', 'policy', 'timeout')),
    comment text,
    created_at timestamptz NOT NULL
);
CREATE INDEX decisions_by_job ON aihandoff.decisions (job_id);
ALTER TABLE aihandoff.jobs ADD FOREIGN KEY (decision_id) REFERENCES aihandoff.decisions;
CREATE TABLE aihandoff.effects (
    effect_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    revision integer NOT NULL,
    name text NOT NULL,
    position integer NOT NULL,
    kind text NOT NULL,
    effect_key text NOT NULL UNIQUE,
    state text NOT NULL CHECK (state IN ('planned', 'claimed', 'applied', 'refused', 'unknown', 'void')),
    plan json NOT NULL,
    plan_digest text NOT NULL,
    undo json,
    attempt integer NOT NULL DEFAULT 0,
    claim_token uuid,
    claimed_by text,
    claimed_at timestamptz,
    external_id text,
    result json,
    error text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    UNIQUE (job_id, revision, name),
    CHECK (state <> 'claimed' OR claim_token IS NOT NULL)
);
CREATE INDEX effects_claimed ON aihandoff.effects (claimed_at) WHERE state = 'claimed';
CREATE INDEX effects_unknown ON aihandoff.effects (updated_at) WHERE state = 'unknown';
CREATE TABLE aihandoff.inbox (
    webhook_id text PRIMARY KEY,
    conn_id text NOT NULL,
    event_type text NOT NULL,
    response_id text,
    body json NOT NULL,
    disposition text NOT NULL CHECK (disposition IN (
        'received', 'applied', 'duplicate', 'late', 'quarantined', 'ignored', 'foreign', 'discarded')),
    job_id bigint REFERENCES aihandoff.jobs,
    deliveries integer NOT NULL DEFAULT 1,
    received_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX inbox_quarantined ON aihandoff.inbox (response_id) WHERE disposition = 'quarantined';
CREATE INDEX inbox_by_age ON aihandoff.inbox (received_at);
CREATE TABLE aihandoff.events (
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    seq integer NOT NULL CHECK (seq >= 1),
    at timestamptz NOT NULL,
    actor text NOT NULL,
    event text NOT NULL,
    from_state text,
    to_state text NOT NULL,
    reason text,
    detail json NOT NULL,
    previous_hash text NOT NULL,
    hash text NOT NULL,
    PRIMARY KEY (job_id, seq)
);
CREATE FUNCTION aihandoff.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'aihandoff.events is append-only';
END $$;
CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE ON aihandoff.events
    FOR EACH ROW EXECUTE FUNCTION aihandoff.refuse_change();
CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON aihandoff.events
    FOR EACH STATEMENT EXECUTE FUNCTION aihandoff.refuse_change();
"""


def upgrade() -> None:
    """Create every table of the first release."""
    op.execute(SCHEMA)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
