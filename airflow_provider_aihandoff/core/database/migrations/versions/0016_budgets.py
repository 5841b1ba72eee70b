"""Budgets: what requests may cost, what is reserved for each, and what was spent.

Revision ID: 0016
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

COLUMNS = """
ALTER TABLE aihandoff.jobs ADD COLUMN tags text[] NOT NULL DEFAULT '{}';
ALTER TABLE aihandoff.revisions ADD COLUMN worst_cost_usd numeric;
ALTER TABLE aihandoff.surplus_responses ADD COLUMN cost_usd numeric;
ALTER TABLE aihandoff.revisions DROP CONSTRAINT revisions_held_kind_check;
ALTER TABLE aihandoff.revisions ADD CONSTRAINT revisions_held_kind_check
    CHECK (held_kind IN ('pause', 'spending limit', 'budget'));
"""

BUDGETS = """
CREATE TABLE aihandoff.budgets (
    budget_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    conn_id text,
    job_type text,
    dag_id text,
    requested_by text,
    tag text,
    amount_usd numeric NOT NULL CHECK (amount_usd > 0),
    period text NOT NULL CHECK (period IN ('hour', 'day', 'week', 'month', 'total')),
    time_zone text NOT NULL,
    thresholds integer[] NOT NULL,
    on_full text NOT NULL CHECK (on_full IN ('hold', 'fail', 'warn')),
    owner text NOT NULL,
    created_at timestamptz NOT NULL,
    ended_at timestamptz
);
CREATE UNIQUE INDEX budgets_by_name ON aihandoff.budgets (name) WHERE ended_at IS NULL;
CREATE TABLE aihandoff.budget_windows (
    window_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    budget_id bigint NOT NULL REFERENCES aihandoff.budgets,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz,
    amount_usd numeric NOT NULL CHECK (amount_usd > 0),
    raised_usd numeric NOT NULL DEFAULT 0 CHECK (raised_usd >= 0),
    notified integer[] NOT NULL DEFAULT '{}',
    closed_at timestamptz
);
CREATE UNIQUE INDEX budget_windows_open ON aihandoff.budget_windows (budget_id, starts_at) WHERE closed_at IS NULL;
CREATE TABLE aihandoff.budget_stripes (
    window_id bigint NOT NULL,
    stripe smallint NOT NULL,
    allotted_usd numeric NOT NULL,
    reserved_usd numeric NOT NULL DEFAULT 0 CHECK (reserved_usd >= 0),
    settled_usd numeric NOT NULL DEFAULT 0 CHECK (settled_usd >= 0),
    beyond_usd numeric NOT NULL DEFAULT 0 CHECK (beyond_usd >= 0),
    PRIMARY KEY (window_id, stripe),
    CONSTRAINT budget_stripes_never_over CHECK (reserved_usd + settled_usd <= allotted_usd),
    CHECK (beyond_usd <= allotted_usd)
) WITH (fillfactor = 50);
CREATE TABLE aihandoff.budget_reservations (
    reservation uuid NOT NULL,
    budget_id bigint NOT NULL,
    window_id bigint NOT NULL,
    stripe smallint NOT NULL,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    revision integer NOT NULL,
    response_id text,
    amount_usd numeric NOT NULL CHECK (amount_usd >= 0),
    cost_usd numeric CHECK (cost_usd >= 0),
    assumed boolean NOT NULL,
    state text NOT NULL CHECK (state IN ('reserved', 'settled', 'released', 'expired')),
    reserved_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    PRIMARY KEY (reservation, budget_id),
    CHECK ((state = 'settled') = (cost_usd IS NOT NULL))
);
CREATE INDEX budget_reservations_by_job ON aihandoff.budget_reservations (job_id, revision);
CREATE INDEX budget_reservations_by_window ON aihandoff.budget_reservations (window_id, reserved_at);
CREATE INDEX budget_reservations_assumed ON aihandoff.budget_reservations (window_id) WHERE assumed;
CREATE INDEX budget_reservations_open ON aihandoff.budget_reservations (expires_at) WHERE state = 'reserved';
CREATE TABLE aihandoff.budget_events (
    budget_id bigint NOT NULL REFERENCES aihandoff.budgets,
    seq integer NOT NULL CHECK (seq >= 1),
    at timestamptz NOT NULL,
    event text NOT NULL CHECK (event IN ('added', 'changed', 'raised', 'ended')),
    why text NOT NULL CHECK (why <> ''),
    detail json NOT NULL,
    actor_kind text NOT NULL,
    actor_name text NOT NULL,
    actor_user_id text,
    PRIMARY KEY (budget_id, seq)
);
CREATE FUNCTION aihandoff.refuse_budget_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'aihandoff.budget_events is append-only';
END $$;
CREATE TRIGGER budget_events_append_only BEFORE UPDATE OR DELETE ON aihandoff.budget_events
    FOR EACH ROW EXECUTE FUNCTION aihandoff.refuse_budget_change();
CREATE TRIGGER budget_events_no_truncate BEFORE TRUNCATE ON aihandoff.budget_events
    FOR EACH STATEMENT EXECUTE FUNCTION aihandoff.refuse_budget_change();
"""


def upgrade() -> None:
    """There is no budget before. What was sent until now was not reserved, and counts for none."""
    op.execute(COLUMNS)
    op.execute(BUDGETS)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
