"""Runs `airflow aihandoff` through Airflow's own parser, on a real ledger."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from tests.airflow_compat import get_parser

Airflow = Callable[..., str]


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Airflow:
    """Runs a command and returns what it printed."""

    def run(*words: object) -> str:
        args = get_parser().parse_args(["aihandoff", *map(str, words)])
        args.func(args)
        return capsys.readouterr().out

    monkeypatch.setattr("airflow_provider_aihandoff.cli.common.account", lambda: "carol")
    return run


def use(conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this database the one of Airflow's connection to the ledger."""
    connection = {
        "conn_type": "postgres",
        "host": conninfo["host"],
        "port": conninfo["port"],
        "login": conninfo["user"],
        "password": conninfo.get("password", ""),
        "schema": conninfo["dbname"],
    }
    monkeypatch.setenv("AIRFLOW_CONN_AIHANDOFF_LEDGER", json.dumps(connection))


@pytest.fixture
def on_ledger(conninfo: dict[str, Any], ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    use(conninfo, monkeypatch)
    return ledger
