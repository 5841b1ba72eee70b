"""A budget on a real Airflow: a request without room waits deferred, and is sent by itself when there is room."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_api import AirflowApi
from demo.local import LocalDemo
from demo.waiting import wait_until
from tests.stack.pipelines.shared import API, job_of, responses, wait_for_state

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


def test_a_request_without_room_waits_in_the_triggerer_and_is_sent_when_the_budget_is_raised(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    before = len(responses(demo))
    # One request without max_output_tokens reserves 5.60 USD and a little.
    budget = {
        "name": "slow",
        "amount_usd": "6",
        "scope": {"dag_id": "slow_draft"},
        "period": "total",
        "reason": "a test",
    }
    made = admin.json("POST", f"{API}/budgets", json=budget)
    first = admin.trigger("slow_draft", {"case": "first"})
    running = wait_for_state(ledger, admin, "slow_draft", first, JobState.RUNNING)

    second = admin.trigger("slow_draft", {"case": "second"})
    admin.wait_for_task("slow_draft", second, "draft", {"deferred"})
    held = wait_until(lambda: job_of(ledger, "slow_draft", second), "the second job")
    wait_until(lambda: ledger.record(held).revision.held_kind == "budget", "it to be held")
    assert len(responses(demo)) == before + 1
    assert "left" in admin.request("GET", f"/aihandoff/jobs/{held}").text

    raised = {"amount_usd": "6", "reason": "it is worth it"}
    admin.json("POST", f"{API}/budgets/{made['budget_id']}/raise", json=raised)
    assert wait_for_state(ledger, admin, "slow_draft", second, JobState.RUNNING) == held
    assert len(responses(demo)) == before + 2
    for job_id in (running, held):
        assert admin.request("POST", f"{API}/jobs/{job_id}/cancel", json={"reason": "a test"}).is_success
    for run_id in (first, second):
        admin.wait_for_run("slow_draft", run_id)
    admin.json("POST", f"{API}/budgets/{made['budget_id']}/end", json={"reason": "a test"})
    use = ledger.budgets.read("slow").use
    assert use.settled_usd + use.reserved_usd <= 12
