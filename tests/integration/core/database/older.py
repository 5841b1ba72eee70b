"""Ledgers as older releases have left them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alembic import command

from airflow_provider_aihandoff.core.database import schema


def upgrade_to(conninfo: Mapping[str, Any], version: str) -> None:
    """Make a ledger as an older release left it."""
    with schema._sqlalchemy_connection(conninfo) as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        connection.exec_driver_sql("CREATE SCHEMA aihandoff")
        command.upgrade(config, version)
        connection.commit()
