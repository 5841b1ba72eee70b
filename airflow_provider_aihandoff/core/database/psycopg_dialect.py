"""psycopg 3 for SQLAlchemy 1.4, which Airflow 3.1 may be installed with. As of SQLAlchemy 2 its own dialect is used.

It does what Alembic needs for migrations in plain SQL, and no more.
"""

from __future__ import annotations

from typing import Any

import psycopg
from sqlalchemy.dialects.postgresql.base import PGDialect


class PsycopgDialect(PGDialect):
    """PostgreSQL over psycopg 3, without types of its own."""

    driver = "psycopg"
    default_paramstyle = "pyformat"
    supports_statement_cache = True

    @classmethod
    def dbapi(cls) -> Any:  # type: ignore[override]  # an attribute as of SQLAlchemy 2
        """The driver."""
        return psycopg
