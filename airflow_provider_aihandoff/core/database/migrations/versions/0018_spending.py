"""What authors say of the cost of a request, and what OpenAI says that it has billed.

Revision ID: 0018
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_COLUMNS = """
ALTER TABLE aihandoff.revisions
    ADD COLUMN expected_output_tokens integer CHECK (expected_output_tokens > 0),
    ADD COLUMN unpriced_usd numeric CHECK (unpriced_usd > 0),
    ADD COLUMN model text;
"""

_BILL = """
CREATE TABLE aihandoff.bill_days (
    project_id text NOT NULL CHECK (project_id <> ''),
    day date NOT NULL,
    billed_usd numeric NOT NULL,
    ledger_usd numeric NOT NULL,
    unpriced integer NOT NULL,
    compared_at timestamptz NOT NULL,
    notified_at timestamptz,
    PRIMARY KEY (project_id, day)
);
"""

#: PostgreSQL refuses to take a value out of JSON that has what it cannot keep as text, wherever that is in it.
_MODELS = r"""
UPDATE aihandoff.revisions SET model = nullif(regexp_replace(
    request::text, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\u0020', 'g')::json ->> 'model', '');
"""


def upgrade() -> None:
    """Of older revisions, what their authors said is not known: at most the model's own bounds.

    Takes about as long as it takes to rewrite the table of revisions.
    """
    op.execute(_COLUMNS)
    op.execute(_MODELS)
    op.execute(_BILL)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
