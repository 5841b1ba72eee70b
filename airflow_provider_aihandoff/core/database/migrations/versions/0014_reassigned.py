"""Reviews that are reassigned: who decides then, and which approvals do not count any more.

Revision ID: 0014
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

BULK = """
ALTER TABLE aihandoff.bulk_actions
    DROP CONSTRAINT bulk_actions_action_check,
    ADD CONSTRAINT bulk_actions_action_check CHECK (action IN (
        'cancel', 'roll back', 'resolve as applied', 'resolve as not applied', 'reconcile', 'reassign')),
    ADD COLUMN reviewers json;
ALTER TABLE aihandoff.bulk_actions ADD CHECK ((action = 'reassign') = (reviewers IS NOT NULL));
"""


def upgrade() -> None:
    """No review was reassigned before."""
    op.execute("ALTER TABLE aihandoff.jobs ADD COLUMN reassigned json")
    op.execute("ALTER TABLE aihandoff.decisions ADD COLUMN voided_at timestamptz")
    op.execute(BULK)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
