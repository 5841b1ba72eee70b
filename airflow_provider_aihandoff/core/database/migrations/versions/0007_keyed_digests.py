"""Digests of inputs and requests, with the ledger's key: their readers cannot test guesses of masked values.

Revision ID: 0007

The new digest is made of the earlier one (HMAC-SHA256, RFC 2104), so that the same input still finds its job. The lines
of the history keep what they say; the API leaves the earlier digest in them out.
"""

from alembic import op
from sqlalchemy import text

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

#: The block of SHA-256, in bytes: a shorter key is filled up with zeros, and the ledger's has no more.
BLOCK = 64

REHASH = """
UPDATE aihandoff.{table} SET {column} = 'hmac-sha256:' || encode(
    sha256(CAST(:outer AS bytea) || sha256(CAST(:inner AS bytea) || convert_to({column}, 'UTF8'))), 'hex')
WHERE {column} NOT LIKE 'hmac-sha256:%'
"""


def upgrade() -> None:
    """Key every digest in one statement for each table."""
    connection = op.get_bind()
    key = connection.execute(text("SELECT digest_key FROM aihandoff.ledger")).scalar_one().encode().ljust(BLOCK, b"\0")
    assert len(key) == BLOCK
    pads = {name: bytes(byte ^ pad for byte in key) for name, pad in (("outer", 0x5C), ("inner", 0x36))}
    for table, column in (("jobs", "input_digest"), ("revisions", "request_digest")):
        connection.execute(text(REHASH.format(table=table, column=column)), pads)


def downgrade() -> None:
    """Refuse: the ledger is a record, and is not taken apart."""
    raise NotImplementedError("The ledger cannot be downgraded. Restore a backup instead.")
