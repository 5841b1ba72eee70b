"""What a run of the maintenance Dag notifies people of."""

from __future__ import annotations

from airflow_provider_aihandoff.core.jobs.job_filter import Need
from airflow_provider_aihandoff.core.jobs.needs import Needs
from airflow_provider_aihandoff.core.reconcile.causes import open_causes
from airflow_provider_aihandoff.core.reconcile.findings import Finding

NOTHING = Needs(dict.fromkeys(Need, 0), 0, [], [])


def test_steps_that_were_taken_are_no_cause() -> None:
    assert open_causes(NOTHING, [Finding("old webhooks", "3", "remove them", done="removed 3")]) == []


def test_steps_that_failed_are_a_cause_after_all_that_the_overview_lists() -> None:
    findings = [Finding("surplus response", "r", "cancel it", failed=True)] * 2
    needs = Needs(dict.fromkeys(Need, 1), 1, [], [])
    *others, failed = open_causes(needs, findings)
    assert others == needs.causes
    assert (failed.name, failed.count, failed.message.startswith("2 steps ")) == ("failed steps", 2, True)
