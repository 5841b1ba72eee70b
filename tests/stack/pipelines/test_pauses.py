"""A pause on a real Airflow: the request and the write wait deferred, and each continues by itself when it ends."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_api import AirflowApi
from demo.local import LocalDemo
from demo.waiting import wait_until
from tests.stack.pipelines.shared import API, decide, job_of, published, responses, wait_for_state

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


def test_a_pause_holds_the_request_and_then_the_write_without_a_worker_slot(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    slug = "held-twice"
    before = len(responses(demo))

    first = begin(admin, writes=False)
    run_id = admin.trigger("notified", {"slug": slug})
    admin.wait_for_task("notified", run_id, "draft", {"deferred"})
    job_id = job_of(ledger, "notified", run_id)
    assert job_id is not None
    assert ledger.record(job_id).revision.held_name == str(first)
    assert len(responses(demo)) == before
    assert "Paused: Dag notified." in admin.request("GET", f"/aihandoff/jobs/{job_id}").text
    end(admin, first)
    assert wait_for_state(ledger, admin, "notified", run_id, JobState.REVIEW) == job_id

    second = begin(admin, writes=True)
    assert decide(demo.airflow.api("bob"), ledger.job(job_id)).status_code == 200
    wait_until(lambda: ledger.record(job_id).current_effects[0].held_kind, "the write to be held")
    admin.wait_for_task("notified", run_id, "publish", {"deferred"})
    assert published(demo, slug) == []
    end(admin, second)
    assert admin.wait_for_run("notified", run_id) == "success"
    assert len(published(demo, slug)) == 1
    assert len(responses(demo)) == before + 1
    assert [event.event for event in ledger.record(job_id).events].count("held") == 2


def begin(admin: AirflowApi, *, writes: bool) -> int:
    body: dict[str, Any] = {"dag_id": "notified", "writes": writes, "reason": "wrong prices"}
    return int(admin.json("POST", f"{API}/pauses", json=body)["pause_id"])


def end(admin: AirflowApi, pause_id: int) -> None:
    admin.json("POST", f"{API}/pauses/{pause_id}/end", json={"reason": "the prices are right now"})
