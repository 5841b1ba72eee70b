"""Limits of speed, what waits for them, and the priority of requests and external writes.

Revision ID: 0017
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_COLUMNS = """
ALTER TABLE aihandoff.revisions
    ADD COLUMN priority text NOT NULL DEFAULT 'batch' CHECK (priority IN ('interactive', 'batch')),
    ADD COLUMN rate_key text,
    ADD COLUMN max_wait interval,
    ADD COLUMN refusals integer NOT NULL DEFAULT 0,
    DROP CONSTRAINT revisions_held_kind_check,
    ADD CONSTRAINT revisions_held_kind_check CHECK (held_kind IN ('pause', 'spending limit', 'budget', 'rate'));
CREATE INDEX revisions_of_connection ON aihandoff.revisions (conn_id) WHERE state IN ('submitting', 'running');
CREATE INDEX revisions_of_key ON aihandoff.revisions (rate_key)
    WHERE rate_key IS NOT NULL AND state IN ('submitting', 'running');
ALTER TABLE aihandoff.effects
    ADD COLUMN rate_key text,
    ADD COLUMN conn_id text,
    DROP CONSTRAINT effects_held_kind_check,
    ADD CONSTRAINT effects_held_kind_check CHECK (held_kind IN ('pause', 'rate'));
CREATE INDEX effects_claimed_of_key ON aihandoff.effects (rate_key) WHERE rate_key IS NOT NULL AND state = 'claimed';
CREATE INDEX effects_claimed_of_connection ON aihandoff.effects (conn_id)
    WHERE conn_id IS NOT NULL AND state = 'claimed';
"""

_LIMITS = """
CREATE TABLE aihandoff.rate_limits (
    limit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('openai', 'target', 'key')),
    name text NOT NULL CHECK (name <> ''),
    measure text NOT NULL CHECK (measure IN ('requests', 'tokens', 'in flight')),
    amount bigint CHECK (amount >= 0),
    period integer CHECK (period > 0),
    weights json NOT NULL DEFAULT '{}',
    stated bigint,
    base bigint,
    slowed_at timestamptz,
    closed_until timestamptz,
    said text,
    next_at double precision NOT NULL DEFAULT 0,
    newest_slice bigint NOT NULL DEFAULT 0,
    slices bigint[] NOT NULL DEFAULT '{}',
    interactive_virtual double precision NOT NULL DEFAULT 0,
    batch_virtual double precision NOT NULL DEFAULT 0,
    in_a_row smallint NOT NULL DEFAULT 0,
    UNIQUE (kind, name, measure),
    CHECK ((period IS NULL) = (measure = 'in flight'))
) WITH (fillfactor = 50);
CREATE TABLE aihandoff.rate_limit_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    limit_id bigint NOT NULL REFERENCES aihandoff.rate_limits,
    at timestamptz NOT NULL,
    amount bigint,
    period integer,
    weights json NOT NULL,
    reason text NOT NULL CHECK (reason <> ''),
    actor_kind text NOT NULL,
    actor_name text NOT NULL,
    actor_user_id text
);
CREATE INDEX rate_limit_changes_by_limit ON aihandoff.rate_limit_changes (limit_id, change_id);
CREATE TABLE aihandoff.rate_waits (
    wait_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    limit_id bigint NOT NULL REFERENCES aihandoff.rate_limits,
    job_id bigint NOT NULL REFERENCES aihandoff.jobs,
    revision_id bigint UNIQUE REFERENCES aihandoff.revisions,
    effect_id bigint UNIQUE REFERENCES aihandoff.effects,
    priority text NOT NULL CHECK (priority IN ('interactive', 'batch')),
    flow text NOT NULL,
    weight double precision NOT NULL,
    tag double precision NOT NULL,
    since timestamptz NOT NULL,
    asks_at timestamptz NOT NULL,
    here boolean NOT NULL,
    CHECK (num_nonnulls(revision_id, effect_id) = 1)
);
CREATE INDEX rate_waits_in_order ON aihandoff.rate_waits (limit_id, priority, tag, wait_id);
CREATE INDEX rate_waits_by_flow ON aihandoff.rate_waits (limit_id, priority, flow, tag);
CREATE FUNCTION aihandoff.end_rate_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'revisions' THEN
        DELETE FROM aihandoff.rate_waits WHERE revision_id = NEW.revision_id;
    ELSE
        DELETE FROM aihandoff.rate_waits WHERE effect_id = NEW.effect_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER revisions_wait_no_longer AFTER UPDATE OF state, held_kind ON aihandoff.revisions FOR EACH ROW
    WHEN (OLD.state <> NEW.state OR (OLD.held_kind = 'rate' AND NEW.held_kind IS DISTINCT FROM 'rate'))
    EXECUTE FUNCTION aihandoff.end_rate_wait();
CREATE TRIGGER effects_wait_no_longer AFTER UPDATE OF state, held_kind ON aihandoff.effects FOR EACH ROW
    WHEN (OLD.state <> NEW.state OR (OLD.held_kind = 'rate' AND NEW.held_kind IS DISTINCT FROM 'rate'))
    EXECUTE FUNCTION aihandoff.end_rate_wait();
"""


def upgrade() -> None:
    """No limit is set before."""
    op.execute(_COLUMNS)
    op.execute(_LIMITS)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
