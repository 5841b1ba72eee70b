"""A ledger to reconcile, and an OpenAI to ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.integration.core.reconcile.world import World


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[OpenAIStandIn, str]]:
    stand_in = OpenAIStandIn(delay_seconds=60)
    with stand_in.serve() as running:
        yield stand_in, running.base_url


@pytest.fixture
def stand_in(served: tuple[OpenAIStandIn, str]) -> OpenAIStandIn:
    served[0].reset()
    return served[0]


@pytest.fixture
def world(
    ledger: Ledger, conninfo: dict[str, Any], stand_in: OpenAIStandIn, served: tuple[OpenAIStandIn, str]
) -> Iterator[World]:
    with OpenAI(base_url=served[1], api_key="any", max_retries=0, timeout=5) as client:
        yield World(ledger, conninfo, OpenAIProvider(client))
    for job in ledger.jobs(limit=1000):
        record = ledger.record(job.job_id)
        assert first_break(record.events, record.job) is None
