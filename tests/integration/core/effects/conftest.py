"""Targets without a Dag: a real ledger, a real HTTP server, a real database."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.operators.conftest import _sales, _target, postgres_connection, sales, target
from tests.target import Target

__all__ = ["_sales", "_target", "sales", "target"]


@pytest.fixture(autouse=True)
def _connections(monkeypatch: pytest.MonkeyPatch, target: Target, _sales: dict[str, Any]) -> None:
    """The connections, as environment variables."""
    cms = {"conn_type": "http", "host": "127.0.0.1", "port": target.port, "schema": "http"}
    monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps(cms))
    monkeypatch.setenv("AIRFLOW_CONN_SALES_DB", postgres_connection(_sales))
