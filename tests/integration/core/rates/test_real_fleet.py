"""Eight processes on a real PostgreSQL share one limit; what they ask is the witness that none was exceeded."""

from __future__ import annotations

import json
import subprocess
import sys
from bisect import bisect_right
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.factories import job_spec

ANNA = Actor.user("anna", "1")
PROCESSES = 8
ROOT = Path(__file__).parents[4]


def run_fleet(ledger: Ledger, conninfo: dict[str, Any], stand_in: OpenAIStandIn, jobs: int) -> None:
    ids = [ledger.submission.open(job_spec(job_key=f"post:{number}")).job.job_id for number in range(jobs)]
    with stand_in.serve() as running:
        command = [sys.executable, "-m", "tests.integration.core.rates.fleet_worker"]
        command += [json.dumps(conninfo), running.base_url]
        shares = [[str(job_id) for job_id in ids[number::PROCESSES]] for number in range(PROCESSES)]
        processes = [subprocess.Popen([*command, *share], cwd=ROOT) for share in shares]
        try:
            assert [process.wait(timeout=200) for process in processes] == [0] * PROCESSES
        finally:
            for process in processes:
                process.kill()
    assert all(ledger.job(job_id).state is JobState.REVIEW for job_id in ids)


@pytest.mark.timeout(240)
def test_no_minute_has_more_requests_than_the_limit_and_it_is_used(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    limit, jobs = 60, 66
    ledger.rate_limits.set(LimitKind.OPENAI, "openai_default", Measure.REQUESTS, limit, reason="the plan", actor=ANNA)
    stand_in = OpenAIStandIn(delay_seconds=0, requests_per_minute=limit)
    run_fleet(ledger, conninfo, stand_in, jobs)
    creates = sorted(each.at for each in stand_in.requests() if (each.method, each.path) == ("POST", "/v1/responses"))
    assert {each.status for each in stand_in.requests() if each.method == "POST"} == {200}  # the witness refused none
    assert len(creates) == jobs
    most = max(index + 1 - bisect_right(creates, at - 60) for index, at in enumerate(creates))
    assert most <= limit
    assert limit / 60 * (creates[-1] - creates[0]) <= jobs / 0.85


@pytest.mark.timeout(240)
def test_no_more_responses_run_at_once_than_the_limit(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    limit, jobs = 5, 24
    ledger.rate_limits.set(LimitKind.OPENAI, "openai_default", Measure.IN_FLIGHT, limit, reason="the plan", actor=ANNA)
    stand_in = OpenAIStandIn(delay_seconds=0.4)
    run_fleet(ledger, conninfo, stand_in, jobs)
    created = [each.at for each in stand_in.requests() if (each.method, each.path) == ("POST", "/v1/responses")]
    changes = sorted([(at, 1) for at in created] + [(at + 0.4, -1) for at in created])
    at_once, most = 0, 0
    for _, change in changes:
        at_once += change
        most = max(most, at_once)
    assert len(created) == jobs
    assert 3 <= most <= limit


@pytest.mark.timeout(240)
def test_a_fleet_without_a_limit_learns_that_of_the_provider(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    stand_in = OpenAIStandIn(delay_seconds=0, requests_per_minute=30)
    run_fleet(ledger, conninfo, stand_in, 34)
    statuses = [each.status for each in stand_in.requests() if each.method == "POST"]
    assert statuses.count(200) == 34
    # Those that were under way together, and one now and then that finds out.
    assert 1 <= statuses.count(429) <= 2 * PROCESSES
    (state,) = ledger.rate_limits.find()
    assert (state.limit.stated, state.slowed) == (30, True)
