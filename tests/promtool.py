"""Prometheus' own tool for rules."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
import yaml

RULES = Path(__file__).parents[1] / "contrib" / "prometheus" / "rules.yaml"

#: The alerts that fire. That of the maintenance Dag is left out: the clock of promtool begins in 1970.
_FIRING = 'count by (alertname) (ALERTS{alertstate="firing", alertname!="AIHandoffMaintenanceStopped"})'


def check_firing(received: Mapping[str, float], alerts: Collection[str], folder: Path) -> None:
    """Have promtool check which alerts of `contrib/` fire where these values of time series stay for a while.

    :param folder: for the test that promtool reads.
    """
    left_out = "airflow_aihandoff_reconciled_at"
    values = [{"series": name, "values": f"{value:f}x30"} for name, value in received.items() if name != left_out]
    samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)]
    firing = {"eval_time": "20m", "expr": _FIRING, "exp_samples": samples}
    tests = [{"interval": "1m", "input_series": values, "promql_expr_test": [firing]}]
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": tests}))
    promtool("test", "rules", file)


def promtool(*arguments: str | Path) -> str:
    """Run it, and return what it prints. Without one the test is skipped, on a CI machine it fails."""
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing: apt-get install prometheus")
        pytest.skip("promtool is missing: apt-get install prometheus")
    result = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
