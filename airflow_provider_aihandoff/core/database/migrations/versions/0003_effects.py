"""Effects: claims that expire, an order, an undo, and keyed hashes of secrets.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CHANGES = r"""
ALTER TABLE aihandoff.ledger
    ADD COLUMN digest_key text NOT NULL DEFAULT replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
ALTER TABLE aihandoff.jobs ADD COLUMN cancelling text;
ALTER TABLE aihandoff.effects
    ADD COLUMN claim_until timestamptz,
    ADD COLUMN unknown_since timestamptz,
    ADD COLUMN after_effects json NOT NULL DEFAULT '[]',
    ADD COLUMN undoes bigint UNIQUE REFERENCES aihandoff.effects,
    DROP CONSTRAINT effects_check;
UPDATE aihandoff.effects SET claim_until = claimed_at WHERE state = 'claimed';
UPDATE aihandoff.effects SET unknown_since = updated_at WHERE state = 'unknown';
ALTER TABLE aihandoff.effects
    ADD CONSTRAINT effects_check CHECK (state <> 'claimed' OR (claim_token IS NOT NULL AND claim_until IS NOT NULL));
"""


def upgrade() -> None:
    """Earlier claims count as expired: their owners ran an earlier version."""
    op.execute(CHANGES)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
