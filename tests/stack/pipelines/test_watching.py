"""What the model writes arrives through the real API server, while the task waits in the triggerer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_api import AirflowApi
from demo.local import LocalDemo
from demo.waiting import wait_until
from tests.stack.pipelines.shared import API, job_of, responses, wait_for_state

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


def events_of(answer: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in answer.iter_lines():
        field, _, text = line.partition(": ")
        if field == "event":
            name = text
        elif field == "data":
            yield name, json.loads(text)


def test_a_text_is_seen_to_arrive_and_the_job_gets_it_as_ever(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    run_id = admin.trigger("watched_draft", {"case": "a kettle"})
    job_id = wait_for_state(ledger, admin, "watched_draft", run_id, JobState.RUNNING)
    response_id = ledger.record(job_id).revision.response_id

    def report() -> dict[str, Any]:
        return next(each for each in responses(demo) if each["response"]["id"] == response_id)

    assert report()["streams"] == 0
    page = admin.request("GET", f"/aihandoff/jobs/{job_id}").text
    assert "Working for " in page
    assert "data-live=" in page

    arrived: list[tuple[float, str]] = []
    with admin.stream(f"{API}/jobs/{job_id}/stream") as answer:
        for name, data in events_of(answer):
            if name == "text":
                arrived.append((time.monotonic(), data["delta"]))
            if name == "usage":
                break
    assert len(arrived) > 3
    assert arrived[-1][0] - arrived[0][0] > 3, "it comes as it is written, and not at the end"
    assert admin.wait_for_run("watched_draft", run_id) == "success"
    assert "".join(delta for _, delta in arrived) == ledger.record(job_id).revision.output
    assert report()["streams"] == 2  # the first one was cut off
    wait_until(lambda: report()["readers"] == 0, "no one to read the response")
    assert job_of(ledger, "watched_draft", run_id) == job_id
