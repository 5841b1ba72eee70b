"""Pauses, limits of money at the provider, and why a request or an external write is held.

Revision ID: 0012
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """ALTER TABLE aihandoff.revisions
        ADD COLUMN held_kind text CHECK (held_kind IN ('pause', 'spending limit')),
        ADD COLUMN held_name text, ADD COLUMN held_why text, ADD COLUMN held_since timestamptz""",
    """CREATE INDEX revisions_held ON aihandoff.revisions (held_kind, held_name, held_since)
        WHERE held_kind IS NOT NULL AND state IN ('queued', 'submitting')""",
    """ALTER TABLE aihandoff.effects
        ADD COLUMN held_kind text CHECK (held_kind IN ('pause')),
        ADD COLUMN held_name text, ADD COLUMN held_why text, ADD COLUMN held_since timestamptz,
        ADD COLUMN held_until timestamptz""",
    """CREATE INDEX effects_held ON aihandoff.effects (held_kind, held_name, held_since)
        WHERE held_kind IS NOT NULL AND state IN ('planned', 'refused', 'unknown')""",
    """CREATE TABLE aihandoff.pauses (
        pause_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        conn_id text,
        job_type text,
        dag_id text,
        writes boolean NOT NULL,
        reason text NOT NULL CHECK (reason <> ''),
        actor_kind text NOT NULL,
        actor_name text NOT NULL,
        actor_user_id text,
        created_at timestamptz NOT NULL,
        ended_at timestamptz,
        ended_reason text,
        ended_by_kind text,
        ended_by_name text,
        ended_by_user_id text,
        CHECK ((ended_at IS NULL) = (ended_by_kind IS NULL))
    )""",
    "CREATE INDEX pauses_in_force ON aihandoff.pauses (pause_id) WHERE ended_at IS NULL",
    """CREATE TABLE aihandoff.spending_limits (
        conn_id text PRIMARY KEY,
        said text NOT NULL,
        since timestamptz NOT NULL,
        tries integer NOT NULL,
        try_at timestamptz NOT NULL,
        try_job_id bigint NOT NULL
    )""",
)


def upgrade() -> None:
    """Nothing is held before."""
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
