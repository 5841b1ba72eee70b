from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_aihandoff.testing import OpenAIStandIn, RunningServer
from tests.unit.testing.conftest import Clock

from .receiver import SECRET, Receiver


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def url(receiver: Receiver) -> Iterator[str]:
    with receiver.serving() as url:
        yield url


@pytest.fixture
def stand_in(url: str, clock: Clock) -> OpenAIStandIn:
    return OpenAIStandIn(webhook_url=url, webhook_secrets=[SECRET], delay_seconds=10, clock=clock)


@pytest.fixture
def server(stand_in: OpenAIStandIn) -> Iterator[RunningServer]:
    with stand_in.serve() as running:
        yield running
