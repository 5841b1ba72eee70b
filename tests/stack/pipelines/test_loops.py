"""Task loops on a real Airflow: each iteration is work of its own, also when it is ended or cleared."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_api import AirflowApi
from demo.local import LocalDemo
from demo.waiting import wait_until
from tests.stack.pipelines.shared import responses, writes

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(900),
    pytest.mark.skipif(RELEASE < (3, 4), reason="Airflow has task loops as of 3.4"),
]


def test_an_answer_is_refined_three_times_and_clearing_the_loop_pays_and_writes_nothing_again(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    before, asked = writes(demo), len(responses(demo))
    run_id = admin.trigger("refined", {"slug": "kettle"})
    assert admin.wait_for_run("refined", run_id) == "success"
    jobs = [ledger.job(job.job_id) for job in ledger.jobs(dag_id="refined", run_id=run_id)]
    keys = [f"refined/{run_id}/refine.draft/iteration-{index}" for index in range(3)]
    assert sorted(job.job_key for job in jobs) == keys
    assert {job.state for job in jobs} == {JobState.COMPLETED}
    assert len({job.owner.ti_id for job in jobs}) == 3
    written = [("PUT", f"/cms/posts/kettle-{index}") for index in range(3)]
    assert writes(demo) == [*before, *written]

    admin.clear("refined", run_id)
    wait_until(lambda: admin.run_state("refined", run_id) != "success", "the run to start again")
    assert admin.wait_for_run("refined", run_id) == "success"
    assert writes(demo) == [*before, *written]
    assert len(responses(demo)) == asked + 3
