"""Runs the ledger's migrations on the connection that `schema.upgrade` hands over."""

from alembic import context

from airflow_provider_aihandoff.core.database.schema import VERSION_TABLE, VERSION_TABLE_SCHEMA

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    version_table=VERSION_TABLE,
    version_table_schema=VERSION_TABLE_SCHEMA,
    transaction_per_migration=True,
)
context.run_migrations()
