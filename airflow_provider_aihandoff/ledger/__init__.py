"""The ledger: the memory of every job, in a PostgreSQL schema. Imports nothing from Airflow."""

from airflow_provider_aihandoff.ledger.store import Ledger

__all__ = ["Ledger"]
