"""A set on a real Airflow: drafted, decided and written, with the triggerer killed while it waits."""

from __future__ import annotations

from functools import partial

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job, Revision
from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_api import AirflowApi
from demo.local import LocalDemo
from demo.pipelines import approve_what_waits
from demo.waiting import wait_until
from tests.stack.pipelines.shared import API, published, responses

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

NUMBER = 50


def posts(demo: LocalDemo, jobs: list[Job]) -> list[str]:
    """Keys of the jobs whose post was written: a key stands there once for each write."""
    return [job.job_key for job in jobs for _ in published(demo, job.job_key)]


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
    approved = [job.job_key for job in jobs if job.job_key != "fifty-7"]
    assert posts(demo, jobs) == approved, "each that is approved is written once"
    shown = bob.request("GET", f"{API}/sets/{set_id}").json()
    assert (shown["phase"], shown["states"]) == ("ended", {"completed": 49, "rejected": 1})

    admin.clear("ticket_set", run_id)
    assert admin.wait_for_run("ticket_set", run_id) == "success"
    assert len(responses(demo)) - before == NUMBER
    assert posts(demo, jobs) == approved


def test_one_lost_request_holds_up_a_set_no_longer_than_what_the_others_took_says(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    """Webhooks arrive, and too few responses are known at first: then it would be waited for until the deadline."""

    def trigger(number: int, prefix: str, fault: str) -> str:
        return admin.trigger("ticket_set", {"number": number, "prefix": prefix, "job_type": "early", "fault": fault})

    runs = [trigger(1, "known", "delay=1")]
    admin.wait_for_task("ticket_set", runs[0], "draft", {"success"})
    wait_until(lambda: ledger.inbox.entries(limit=1), "a webhook to arrive")
    runs.append(trigger(30, "early", "create=html"))
    waits = wait_until(lambda: lost(ledger, runs[1]), "the answer to a request to be lost")
    assert waits.submit_lease_until is not None
    assert waits.submit_lease_until >= waits.deadline
    admin.wait_for_task("ticket_set", runs[1], "draft", {"success"})
    assert admin.xcom("ticket_set", runs[1], "draft")["states"] == {"review": 30}
    revision = ledger.revision(waits.job_id, 1)
    assert (revision.submissions, revision.unknown_submissions) == (2, 1)

    def end_well() -> bool:
        approve_what_waits(demo.airflow.api("bob"))
        return all(admin.run_state("ticket_set", run_id) == "success" for run_id in runs)

    wait_until(end_well, "both runs to be approved and to succeed", every_seconds=1)


def lost(ledger: Ledger, run_id: str) -> Revision | None:
    """The revision of a run whose request was lost, if there is one."""
    jobs = ledger.jobs(dag_id="ticket_set", run_id=run_id, limit=NUMBER)
    return next((found for job in jobs if (found := ledger.revision(job.job_id, 1)).is_lost), None)


def test_what_is_approved_is_written_while_the_rest_waits_for_its_decision(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    dag_id, number = "ticket_set_written_as_decided", 4
    run_id = admin.trigger(dag_id, {"number": number, "prefix": "decided"})

    def jobs() -> list[Job]:
        return ledger.jobs(dag_id=dag_id, run_id=run_id, oldest_first=True, limit=number)

    def asked() -> bool:
        return len(jobs()) == number and all(job.review_digest for job in jobs())

    def ended(job_id: int) -> bool:
        return ledger.job(job_id).state in (JobState.COMPLETED, JobState.REJECTED)

    wait_until(asked, "every job of the set to wait for a decision", timeout_seconds=300)
    bob = demo.airflow.api("bob")
    for done, job in enumerate(jobs()):
        verdict = "reject" if job.job_key == "decided-2" else "approve"
        body = {"verdict": verdict, "digest": job.review_digest}
        assert bob.request("POST", f"{API}/jobs/{job.job_id}/decisions", json=body).status_code == 200
        wait_until(partial(ended, job.job_id), f"{job.label} to be written while the others wait", timeout_seconds=120)
        assert [each.state for each in jobs()][done + 1 :] == [JobState.REVIEW] * (number - done - 1)
        if done + 1 < number:
            assert admin.task_states(dag_id, run_id)["write", -1] not in ("success", "failed")
    assert admin.wait_for_run(dag_id, run_id) == "success"

    assert admin.xcom(dag_id, run_id, "write")["said"] == "3 applied, 1 rejected"
    assert posts(demo, jobs()) == ["decided-0", "decided-1", "decided-3"], "each that is approved is written once"
