"""An alert of `contrib/` fires on what the maintenance Dag sends of a real ledger, as StatsD receives it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.jobs.needs import needs_of
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.reconcile.gauges import send_gauges
from airflow_provider_aihandoff.hooks.observability import AirflowMetrics
from tests.integration.core.effects.effects import ACTOR, approved, call
from tests.promtool import check_firing
from tests.statsd import SDK, StatsD, series, set_up


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

    check_firing(received, {"AIHandoffUnknownEffects"}, tmp_path)
