"""One process of a real fleet: it takes its share of the jobs to their end, and waits as tasks do.

``python -m tests.integration.core.rates.fleet_worker CONNINFO BASE_URL JOB_ID...``, the first as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from datetime import timedelta

from openai import OpenAI

from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.submit import submit
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import ResponseStatus, RevisionState
from tests.factories import TEST


def work(conninfo: dict[str, object], base_url: str, job_ids: list[int]) -> None:
    with Ledger(conninfo) as ledger, OpenAI(base_url=base_url, api_key="any") as client:
        provider = OpenAIProvider(client)
        waiting = deque((0.0, job_id) for job_id in job_ids)
        running: dict[int, str] = {}
        while waiting or running:
            for job_id, response_id in list(running.items()):
                if provider.retrieve(response_id).ended:
                    output = Output(ResponseStatus.COMPLETED, "A kettle.")
                    ledger.outputs.store(job_id, 1, output, actor=TEST)
                    del running[job_id]
            if not waiting:
                time.sleep(0.05)
                continue
            at, job_id = waiting.popleft()
            if time.monotonic() < at:
                waiting.append((at, job_id))
                time.sleep(0.01)
                continue
            revision = submit(ledger, provider, ledger.job(job_id), actor=TEST)
            if revision.state is RevisionState.RUNNING:
                running[job_id] = str(revision.response_id)
                continue
            assert revision.submit_lease_until is not None
            left = revision.submit_lease_until - ledger.now()
            # As in the triggerer: a job that was woken sooner is found sooner.
            waiting.append((time.monotonic() + min(left, timedelta(seconds=1)).total_seconds(), job_id))


if __name__ == "__main__":
    work(json.loads(sys.argv[1]), sys.argv[2], [int(job_id) for job_id in sys.argv[3:]])
