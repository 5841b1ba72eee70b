"""Outgoing events: subscriptions, and the outbox.

Revision ID: 0023
"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_EVENTS = """
CREATE TABLE aihandoff.event_subscriptions (
    subscription_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    url text NOT NULL CHECK (url <> ''),
    job_types text[] NOT NULL DEFAULT '{}',
    states text[] NOT NULL DEFAULT '{}',
    secret_conn_id text NOT NULL CHECK (secret_conn_id <> ''),
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'disabled', 'ended')),
    state_reason text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_token uuid,
    lease_until timestamptz,
    rest_until timestamptz,
    failures integer NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX event_subscriptions_by_name ON aihandoff.event_subscriptions (name) WHERE state <> 'ended';
CREATE TABLE aihandoff.event_subscription_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription_id bigint NOT NULL,
    at timestamptz NOT NULL,
    change text NOT NULL CHECK (change IN ('subscribed', 'changed', 'disabled', 'ended', 'replayed')),
    url text NOT NULL,
    job_types text[] NOT NULL,
    states text[] NOT NULL,
    secret_conn_id text NOT NULL,
    reason text NOT NULL,
    actor_kind text NOT NULL,
    actor_name text,
    actor_user_id text
);
CREATE INDEX event_subscription_changes_by_subscription
    ON aihandoff.event_subscription_changes (subscription_id, change_id);
CREATE TABLE aihandoff.event_deliveries (
    delivery_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscription_id bigint NOT NULL,
    job_id bigint REFERENCES aihandoff.jobs,
    request_id uuid REFERENCES aihandoff.job_requests,
    seq integer NOT NULL,
    revision integer,
    standing text NOT NULL CHECK (standing IN ('queued', 'working', 'in review', 'done', 'stopped', 'failed')),
    at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'dead')),
    try_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries integer NOT NULL DEFAULT 0,
    first_try_at timestamptz,
    error text,
    settled_at timestamptz,
    CHECK ((job_id IS NULL) <> (request_id IS NULL)),
    CHECK ((state = 'waiting') = (settled_at IS NULL))
);
CREATE INDEX event_deliveries_due ON aihandoff.event_deliveries (subscription_id, try_at, delivery_id)
    WHERE state = 'waiting';
CREATE INDEX event_deliveries_in_order ON aihandoff.event_deliveries (subscription_id, job_id, seq)
    WHERE state = 'waiting';
CREATE INDEX event_deliveries_settled ON aihandoff.event_deliveries (state, settled_at) WHERE state <> 'waiting';
"""


def upgrade() -> None:
    """No one has subscribed before, and no author has put an output into an event."""
    op.execute("ALTER TABLE aihandoff.job_requests ADD COLUMN events_show_result boolean NOT NULL DEFAULT false")
    op.execute(_EVENTS)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
