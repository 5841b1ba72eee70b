"""The metrics leave the core with bounded labels, and keep nothing from going on."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.signals import METRICS, OTHERS, POLLS, UNKNOWN_EFFECTS, WEBHOOK_DELAY, Kind
from tests.recorder import recording


def test_the_values_of_a_label_are_bounded_in_number_and_length() -> None:
    with recording() as recorded:
        for number in range(signals.MAX_VALUES + 50):
            signals.count(POLLS, conn_id=f"conn{number}", outcome="pending")
        signals.count(POLLS, conn_id="conn7", outcome="pending")
        signals.count(POLLS, conn_id="conn7", outcome="x" * 500)
    sent = [labels["conn_id"] for labels, _ in recorded.of(POLLS)]
    assert len(set(sent)) == signals.MAX_VALUES + 1
    assert sent[signals.MAX_VALUES :] == [OTHERS] * 50 + ["conn7"] * 2
    assert recorded.of(POLLS)[-1][0]["outcome"] == "x" * 64


def test_a_label_has_no_character_that_statsd_or_influxdb_would_read() -> None:
    with recording() as recorded:
        signals.count(POLLS, conn_id="a,b=c|d:e f\n", outcome="")
    assert recorded.of(POLLS) == [({"conn_id": "a_b_c_d_e_f_", "outcome": "none"}, 1)]


def test_a_sink_that_fails_stops_nothing() -> None:
    class Broken:
        def count(self, name: str, value: float, labels: dict[str, str], /) -> None:
            raise OSError("no statsd")

        gauge = timing = count

    signals.use(Broken())
    try:
        signals.count(POLLS, conn_id="openai_default", outcome="pending")
        signals.gauge(UNKNOWN_EFFECTS, 1)
        signals.timing(WEBHOOK_DELAY, 1.0, conn_id="openai_default")
    finally:
        signals.use(None)


def test_a_metric_is_sent_with_all_of_its_labels_and_no_other_also_while_no_one_listens() -> None:
    with pytest.raises(TypeError, match=r"aihandoff\.polls"):
        signals.count(POLLS, conn_id="openai_default")
    with pytest.raises(TypeError):
        signals.gauge(UNKNOWN_EFFECTS, 1, job="7")
    with pytest.raises(TypeError):
        signals.gauge(POLLS, 1, conn_id="openai_default", outcome="pending")


def test_nothing_is_sent_for_a_count_of_none_and_no_duration_is_negative() -> None:
    with recording() as recorded:
        signals.count(POLLS, 0, conn_id="openai_default", outcome="pending")
        signals.timing(WEBHOOK_DELAY, -3.0, conn_id="openai_default")
    assert recorded.sent == [("aihandoff.webhook_delay", {"conn_id": "openai_default"}, 0.0)]


def test_no_label_names_a_job_a_person_or_a_record() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS) > 20
    assert {kind for metric in METRICS for kind in [metric.kind]} == set(Kind)
    labels = {label for metric in METRICS for label in metric.labels}
    assert labels <= {
        *("job_type", "step", "state", "model", "status", "direction", "what", "verdict", "by", "target", "outcome"),
        *("moment", "proves", "conn_id", "kind", "result", "cause", "project_id"),
    }
