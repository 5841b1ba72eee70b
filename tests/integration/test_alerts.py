"""An alert of `contrib/` fires on what the maintenance Dag sends of a real ledger, as StatsD receives it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.jobs.needs import needs_of
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.reconcile.gauges import send_gauges
from airflow_provider_aihandoff.hooks.observability import AirflowMetrics
from tests.integration.core.effects.effects import ACTOR, approved, call
from tests.promtool import promtool
from tests.statsd import SDK, StatsD, series, set_up

RULES = Path(__file__).parents[2] / "contrib" / "prometheus" / "rules.yaml"

FIRING = 'count by (alertname) (ALERTS{alertstate="firing", alertname!="AIHandoffMaintenanceStopped"})'


def test_an_unknown_effect_in_the_ledger_becomes_an_alert(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = call("publish")
    job = approved(ledger, plan)
    claim = ledger.effects.claim(job.job_id, plan, lease=timedelta(minutes=1), actor=ACTOR)
    ledger.effects.lose(claim, error="a time-out", actor=ACTOR)
    statsd = StatsD()
    set_up(SDK, statsd, monkeypatch)
    signals.use(AirflowMetrics(in_task=True))
    try:
        needs = needs_of(ledger, None, silence=120)
        send_gauges(ledger.gauges.read(["openai_default"]), needs, ["openai_default"])
        received = dict(map(series, statsd.receive_all()))
    finally:
        signals.use(None)
        statsd.close()
    assert received['airflow_aihandoff_jobs{job_type="publishing",state="applying"}'] == 1

    del received["airflow_aihandoff_reconciled_at"]  # promtool's clock begins in 1970
    test = {
        "rule_files": [str(RULES)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": f"{value:f}x30"} for name, value in received.items()],
                "promql_expr_test": [
                    {
                        "eval_time": "20m",
                        "expr": FIRING,
                        "exp_samples": [{"labels": '{alertname="AIHandoffUnknownEffects"}', "value": 1}],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    promtool("test", "rules", file)
