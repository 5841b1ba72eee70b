"""The metrics of the core reach StatsD through Airflow, with their labels, from each kind of process."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.hooks.observability import AirflowMetrics, observe
from tests.statsd import CORE, SDK, StatsD, forget, set_up


@pytest.fixture
def statsd() -> Iterator[StatsD]:
    server = StatsD()
    yield server
    server.close()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process has set up metrics."""
    for place in (SDK, CORE):
        forget(place, monkeypatch)


@pytest.fixture(autouse=True)
def unused() -> Iterator[None]:
    signals.use(None)
    yield
    signals.use(None)


@pytest.mark.parametrize(("in_task", "place"), [(True, SDK), (False, CORE), (True, CORE), (False, SDK)])
def test_each_metric_arrives_in_packets_with_its_labels(
    nowhere: None, statsd: StatsD, monkeypatch: pytest.MonkeyPatch, in_task: bool, place: tuple[str, str]
) -> None:
    set_up(place, statsd, monkeypatch)
    observe(in_task=in_task)
    for metric in signals.METRICS:
        labels = dict.fromkeys(metric.labels, "some")
        {"counter": signals.count, "gauge": signals.gauge, "timer": signals.timing}[metric.kind](metric, 2, **labels)  # type: ignore[operator]
        tags = "".join(f",{label}=some" for label in metric.labels)
        value = {"counter": "2|c", "gauge": "2|g", "timer": "2000.000000|ms"}[metric.kind]
        assert statsd.receive() == f"airflow.{metric.name}{tags}:{value}"
    assert statsd.receive_all() == []


def test_a_process_that_has_set_up_both_sends_each_metric_once(
    nowhere: None, statsd: StatsD, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(SDK, statsd, monkeypatch)
    set_up(CORE, statsd, monkeypatch)
    for in_task in (True, False):
        AirflowMetrics(in_task=in_task).count("aihandoff.effects", 1, {"target": "http", "step": "claim"})
        assert re.fullmatch(r"airflow\.aihandoff\.effects,.*:1\|c", statsd.receive())
    assert statsd.receive_all() == []


def test_a_process_without_metrics_goes_on(nowhere: None) -> None:
    observe(in_task=True)
    signals.count(signals.RETRIES, what="effect")


def test_a_sink_that_is_there_stays(nowhere: None) -> None:
    sink = AirflowMetrics(in_task=True)
    signals.use(sink)
    observe(in_task=False)
    assert signals._sink is sink


def test_no_span_is_made_and_nothing_imported_where_nothing_has_set_up_opentelemetry() -> None:
    code = (
        "import sys\n"
        "from airflow_provider_aihandoff.core import spans\n"
        "from airflow_provider_aihandoff.hooks import observability\n"
        "loaded = [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        "[sys.modules.pop(name) for name in loaded]\n"
        "observability.observe(in_task=True)\n"
        "assert not spans.is_used()\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
