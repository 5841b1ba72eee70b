"""A set on a real Airflow: drafted, decided and written, with the triggerer killed while it waits."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_api import AirflowApi
from demo.local import LocalDemo
from demo.waiting import wait_until
from tests.stack.pipelines.shared import API, responses, writes

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

NUMBER = 50


def test_a_set_of_fifty_is_drafted_decided_by_a_person_and_written_though_the_triggerer_is_killed(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    before = len(responses(demo))
    run_id = admin.trigger("ticket_set", {"number": NUMBER, "prefix": "fifty"})
    wait_until(
        lambda: any(found.run_id == run_id and found.items == NUMBER for found in ledger.sets.newest()),
        "every item to be a job",
        timeout_seconds=300,
    )
    demo.airflow.kill("triggerer")
    demo.airflow.start("triggerer")

    def asked() -> bool:
        jobs = ledger.jobs(dag_id="ticket_set", run_id=run_id, limit=NUMBER)
        return len(jobs) == NUMBER and all(job.state is JobState.REVIEW and job.review_digest for job in jobs)

    wait_until(asked, "every job of the set to wait for a decision", timeout_seconds=300)
    jobs = ledger.jobs(dag_id="ticket_set", run_id=run_id, limit=NUMBER)
    bob = demo.airflow.api("bob")
    for job in jobs:
        verdict = "reject" if job.job_key == "fifty-7" else "approve"
        body = {"verdict": verdict, "digest": job.review_digest}
        assert bob.request("POST", f"{API}/jobs/{job.job_id}/decisions", json=body).status_code == 200
    assert admin.wait_for_run("ticket_set", run_id) == "success"

    (set_id,) = {job.set_id for job in jobs}
    assert set_id is not None
    assert ledger.sets.total(set_id).in_words() == "49 applied, 1 rejected"
    assert admin.xcom("ticket_set", run_id, "write")["said"] == "49 applied, 1 rejected"
    assert len(responses(demo)) - before == NUMBER, "each is paid once"
    written = [path for _, path in writes(demo) if "/posts/fifty-" in path]
    assert (len(written), len(set(written))) == (NUMBER - 1, NUMBER - 1), "each is written once"
    shown = bob.request("GET", f"{API}/sets/{set_id}").json()
    assert (shown["phase"], shown["states"]) == ("ended", {"completed": 49, "rejected": 1})

    admin.clear("ticket_set", run_id)
    assert admin.wait_for_run("ticket_set", run_id) == "success"
    assert len(responses(demo)) - before == NUMBER
    assert len([path for _, path in writes(demo) if "/posts/fifty-" in path]) == NUMBER - 1
