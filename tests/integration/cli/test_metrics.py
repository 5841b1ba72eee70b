"""What a command does is counted in Airflow's metrics."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.ledger import Ledger
from tests.factories import ask, draft
from tests.integration.cli.conftest import Airflow
from tests.statsd import CORE, SDK, StatsD, configure, forget, set_up


@pytest.fixture
def statsd(monkeypatch: pytest.MonkeyPatch) -> Iterator[StatsD]:
    """A StatsD server that is configured, in a process that has set up no metrics."""
    server = StatsD()
    configure(server, monkeypatch)
    for place in (SDK, CORE):
        forget(place, monkeypatch)
    if RELEASE < (3, 2):  # there, each process has set up its metrics once it has imported them
        set_up(CORE, server, monkeypatch)
    signals.use(None)
    yield server
    signals.use(None)
    server.close()


def test_a_decision_at_a_terminal_is_counted(airflow: Airflow, on_ledger: Ledger, statsd: StatsD) -> None:
    job = ask(on_ledger, draft(on_ledger))
    airflow("review", "approve", job.job_id, "--digest", job.review_digest)
    packets = statsd.receive_all()
    assert "airflow.aihandoff.decisions,job_type=publishing,verdict=approve,by=terminal:1|c" in packets
