"""What a command does is counted in Airflow's metrics."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.ledger import Ledger
from tests.factories import ask, draft
from tests.integration.cli.conftest import Airflow
from tests.statsd import CORE, SDK, StatsD, configure


@pytest.fixture
def statsd(monkeypatch: pytest.MonkeyPatch) -> Iterator[StatsD]:
    """A StatsD server that is configured, in a process that has set up no metrics."""
    server = StatsD()
    configure(server, monkeypatch)
    for name, _ in (SDK, CORE):
        for state in ("_factory", "_backend"):
            monkeypatch.setitem(vars(import_module(name))["incr"].__globals__, state, None)
    signals.use(None)
    yield server
    signals.use(None)
    server.close()


def test_a_decision_at_a_terminal_is_counted(airflow: Airflow, on_ledger: Ledger, statsd: StatsD) -> None:
    job = ask(on_ledger, draft(on_ledger))
    airflow("review", "approve", job.job_id, "--digest", job.review_digest)
    packets = statsd.receive_all()
    assert "airflow.aihandoff.decisions,job_type=publishing,verdict=approve,by=terminal:1|c" in packets
