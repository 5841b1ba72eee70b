"""A response id that the ledger could not record is not lost: the next attempt records it, or cancels the response."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.database import connection as connection_module
from airflow_provider_aihandoff.core.errors import LedgerUnavailable
from airflow_provider_aihandoff.core.generation.submit import submit
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job, Revision
from airflow_provider_aihandoff.core.states import RevisionState
from tests.factories import TEST, job_spec
from tests.failing_database import failing
from tests.fake_provider import FakeProvider
from tests.integration.core.effects.test_attempt import KeptInTests


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "PATIENCE", 0.3)


def send(ledger: Ledger, provider: FakeProvider, job: Job, memory: KeptInTests) -> Revision:
    return submit(ledger, provider, job, actor=TEST, memory=memory, sleep=lambda seconds: None)


def lost(ledger: Ledger, conninfo: dict[str, Any], provider: FakeProvider, memory: KeptInTests) -> Job:
    """A job whose response runs, while the ledger does not know its id."""
    job = ledger.submission.open(job_spec()).job
    with (
        failing(conninfo, "revisions", where="NEW.response_id IS NOT NULL"),
        pytest.raises(LedgerUnavailable, match=r"Response \S+ runs for job 1 .* No external write was made"),
    ):
        send(ledger, provider, job, memory)
    return job


def let_the_permission_expire(conninfo: dict[str, Any]) -> None:
    with psycopg.connect(**conninfo) as connection:
        connection.execute("UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp()")


@pytest.mark.parametrize("expired", [False, True])
def test_the_next_attempt_waits_for_the_response_that_runs_and_sends_nothing(
    ledger: Ledger, conninfo: dict[str, Any], expired: bool
) -> None:
    provider, memory = FakeProvider(), KeptInTests()
    job = lost(ledger, conninfo, provider, memory)
    if expired:
        let_the_permission_expire(conninfo)

    revision = send(ledger, provider, job, memory)

    assert (revision.state, revision.response_id) == (RevisionState.RUNNING, next(iter(provider.responses)))
    assert (len(provider.requests), memory.facts) == (1, {})


def test_a_response_that_comes_after_another_was_sent_is_cancelled(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    provider, memory = FakeProvider(), KeptInTests()
    job = lost(ledger, conninfo, provider, memory)
    (orphan,) = provider.responses
    let_the_permission_expire(conninfo)
    send(ledger, provider, job, KeptInTests())  # by another task, which cannot read what this one has kept

    revision = send(ledger, provider, job, memory)

    assert revision.response_id not in (None, orphan)
    assert (provider.responses[orphan].status, len(provider.requests)) == ("cancelled", 2)
    assert memory.facts == {}


def test_the_id_is_in_the_log_where_there_is_no_memory(
    ledger: Ledger, conninfo: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    provider = FakeProvider()
    lost(ledger, conninfo, provider, KeptInTests(broken=True))
    assert next(iter(provider.responses)) in caplog.text
