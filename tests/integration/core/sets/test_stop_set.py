"""A set whose task was ended: what was not sent never is, and what runs is stopped; unless another attempt owns it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from airflow_provider_aihandoff.core.generation.submit import submit
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.sets.set_record import JobSet, LeftOut
from airflow_provider_aihandoff.core.sets.set_store import SetSpec
from airflow_provider_aihandoff.core.sets.stop_set import cancel_reviews, stop_set
from tests.factories import OWNER, TEST, ask, draft, job_spec
from tests.fake_provider import FakeProvider


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
def found(ledger: Ledger, provider: FakeProvider) -> JobSet:
    """A set with a job that was not sent, one that runs, and one in review."""
    found = ledger.sets.open(SetSpec("publishing", "nightly", "alice", OWNER, timedelta(hours=1)), LeftOut())
    wanted = [job_spec(job_key=key, set_id=found.set_id) for key in ("queued", "running", "review")]
    ledger.submission.open_many(wanted[:2])
    running = ledger.job(ledger.job_id_of("publishing", "running") or 0)
    submit(ledger, provider, running, actor=TEST)
    ask(ledger, draft(ledger, wanted[2], response_id="resp_review"))
    return found


def states(ledger: Ledger) -> dict[str, str]:
    return {job.job_key: job.state.value for job in ledger.jobs()}


def test_what_was_not_sent_and_what_runs_is_cancelled(ledger: Ledger, provider: FakeProvider, found: JobSet) -> None:
    stop_set(ledger, lambda conn_id: provider, found.set_id, owner=OWNER, reason="the task was ended")
    assert states(ledger) == {"queued": "cancelled", "running": "cancelled", "review": "review"}
    assert provider.calls.count("cancel") == 1


def test_what_another_attempt_owns_by_now_goes_on(ledger: Ledger, provider: FakeProvider, found: JobSet) -> None:
    other = replace(OWNER, try_number=2)
    stop_set(ledger, lambda conn_id: provider, found.set_id, owner=other, reason="the task was ended")
    assert states(ledger) == {"queued": "queued", "running": "running", "review": "review"}
    assert "cancel" not in provider.calls


def test_where_the_approval_was_marked_failed_the_reviews_are_cancelled(ledger: Ledger, found: JobSet) -> None:
    cancel_reviews(ledger, found.set_id, owner=replace(OWNER, run_id="another"), reason="marked failed")
    assert states(ledger)["review"] == "review"
    cancel_reviews(ledger, found.set_id, owner=replace(OWNER, task_id="approve"), reason="marked failed")
    assert states(ledger) == {"queued": "queued", "running": "running", "review": "cancelled"}
