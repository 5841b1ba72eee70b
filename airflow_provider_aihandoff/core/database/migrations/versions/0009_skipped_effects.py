"""Effects that are not part of a plan, or whose task Airflow has skipped.

Revision ID: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SKIPPED = """
ALTER TABLE aihandoff.effects
    ADD COLUMN task_id text,
    DROP CONSTRAINT effects_state_check,
    ADD CONSTRAINT effects_state_check CHECK (
        state IN ('planned', 'claimed', 'applied', 'refused', 'unknown', 'skipped', 'void'));
CREATE INDEX effects_planned ON aihandoff.effects (updated_at, effect_id)
    WHERE state = 'planned' AND task_id IS NOT NULL;
"""


def upgrade() -> None:
    """Which task applies an effect is known for those that are planned from now on."""
    op.execute(SKIPPED)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
