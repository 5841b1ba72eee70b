"""The alerts and the dashboard name metrics and labels that there are, and the alerts fire when they should."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_aihandoff.core.signals import METRICS, Kind
from tests.promtool import promtool

ROOT = Path(__file__).parents[2]
RULES = ROOT / "contrib" / "prometheus" / "rules.yaml"
RULES_TEST = RULES.with_name("rules_test.yaml")
DASHBOARD = ROOT / "contrib" / "grafana" / "dashboard.json"

USED = re.compile(r"(airflow_aihandoff_\w+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\bby \(([^)]*)\)")


def known() -> dict[str, set[str]]:
    """The labels of each time series, by its name in Prometheus."""
    found: dict[str, set[str]] = {}
    for metric in METRICS:
        name = "airflow_" + metric.name.replace(".", "_")
        parts = ("_sum", "_count") if metric.kind is Kind.TIMER else ("",)
        found |= {name + part: set(metric.labels) for part in parts}
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """What each alert and each picture asks Prometheus for."""
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    for panel in dashboard["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", []))
    yield from ((item["name"], item["definition"]) for item in dashboard["templating"]["list"] if "definition" in item)


@pytest.mark.parametrize(("name", "expression"), list(expressions()))
def test_each_alert_and_picture_names_metrics_and_labels_that_there_are(name: str, expression: str) -> None:
    used = USED.findall(expression)
    assert used, name
    for metric, selector in used:
        assert metric in known(), f"{name}: there is no {metric}"
        assert set(re.findall(r"(\w+)\s*(?:=|!)", selector)) <= known()[metric]
    labels = set.union(*(known()[metric] for metric, _ in used))
    for grouped in GROUPED.findall(expression):
        assert set(re.findall(r"\w+", grouped)) <= labels


def test_each_metric_is_on_the_dashboard() -> None:
    text = DASHBOARD.read_text("utf-8")
    missing = [metric.name for metric in METRICS if f"airflow_{metric.name.replace('.', '_')}" not in text]
    assert missing == []


def test_the_rules_are_valid_and_pass_their_tests() -> None:
    promtool("check", "rules", RULES)
    promtool("test", "rules", RULES_TEST)


def test_each_alert_is_seen_to_fire_by_the_tests_of_the_rules() -> None:
    tests = RULES_TEST.read_text("utf-8")
    alerts: list[Any] = [
        rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]
    ]
    assert [rule["alert"] for rule in alerts if rule["alert"] not in tests] == []
    assert all(rule["annotations"].keys() == {"summary", "action"} for rule in alerts)
